"""Losses against their definitions, and the objective that is reported against the residuals of its fit."""

import math

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import Data, huber, lad, learned, lsq

X = np.geomspace(1e6, 1e10, 20)
NOISE = 0.02 * np.random.default_rng(4).standard_t(3, 20)
DATA = Data(dict(N=X), (30 * X**-0.2 + 1.5) * np.exp(NOISE), w=np.linspace(0.5, 2, 20))


def by_hand(loss, r, w, scale):
    a = np.abs(r) if scale is None else np.abs(r) / scale
    bent = np.where(a <= loss.delta, a**2 / 2, loss.delta * (a - loss.delta / 2))
    if loss.kind == "learned":
        inside = math.sqrt(2 * math.pi) * math.erf(loss.delta / math.sqrt(2))
        norm = inside + 2 * math.exp(-(loss.delta**2) / 2) / loss.delta
        return np.sum(w * (bent + math.log(scale) + math.log(norm)))
    return np.sum(w * {"huber": bent, "lad": a, "lsq": a**2}[loss.kind])


@pytest.mark.parametrize("loss", [huber(1e-2), lad(), lsq(), learned(0.5)], ids=str)
def test_objective_is_the_definition(loss):
    fit = scaling.fit("power_offset", DATA, loss)
    want = by_hand(loss, fit.residuals(), DATA.w, fit.scale)
    np.testing.assert_allclose(fit.objective, want, rtol=1e-7)
    z = fit.z()["N"]
    rng = np.random.default_rng(0)
    for _ in range(50):  # no neighbour is better by the definition
        u = fit.u[:3] + 1e-3 * rng.standard_normal(3)
        near = np.exp(u[0] - u[2] * z) + np.exp(u[1])
        assert by_hand(loss, np.log(DATA.y / near), DATA.w, fit.scale) >= want - 1e-12


def test_a_narrow_huber_loss_is_the_absolute_deviation():
    narrow, direct = (scaling.fit("power_offset", DATA, k) for k in (huber(1e-7), huber(None)))
    assert direct.loss == lad()
    np.testing.assert_allclose(list(narrow.theta.values()), list(direct.theta.values()), rtol=1e-5)


def test_bad_losses():
    for match, make in [("must be positive", lambda: huber(0.0)), ('"log" or "raw"', lambda: lsq("square"))]:
        with pytest.raises(ValueError, match=match):
            make()
