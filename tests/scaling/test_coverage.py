"""How often intervals hold what they should, over simulated ladders: parameters, exponents, plans and predictions.

Every simulation fits the same design with other noise, so all fits share one program and all refits another. The
optimum's size and loss come from the draws by the closed form, which `optimal` equals elsewhere.
"""

import jax
import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import Data, huber, lsq
from jaxlib_ext.scaling.resample import limits

TRUE = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)
LAW = scaling.LAWS["chinchilla"]()
BUDGET = 1e21


def design(sizes, high):
    N = np.repeat(np.geomspace(2e6, high, sizes), 4)
    return dict(N=N, D=N * np.tile([5.0, 10, 20, 60], sizes))


FEW, MORE = design(4, 6e7), design(8, 1e9)


def derived(t):
    """What a plan is made of, from parameters of any shape. A draw with an exponent below zero has no optimum: its
    size is 0 or infinite, as in `optimal`, and its loss is left out."""
    sound = (t["alpha"] > 0) & (t["beta"] > 0)
    alpha, beta = (np.where(sound, t[k], 1.0) for k in ("alpha", "beta"))
    a = beta / (alpha + beta)
    with np.errstate(all="ignore"):  # a refit whose exponent ran away may leave an amplitude of 0 or infinity
        N = (alpha * t["A"] / (beta * t["B"])) ** (1 / (alpha + beta)) * (BUDGET / 6) ** a
        best = t["A"] / N**alpha + t["B"] / (BUDGET / 6 / N) ** beta + t["E"]
    edge = np.where(t["alpha"] > 0, np.inf, 0.0)
    whole = lambda v, otherwise=np.nan: np.where(sound, v, otherwise)
    return dict(t, a=whole(a), N_best=whole(N, edge), loss_best=whole(best))


def coverage(n_sims, x, loss, kind, noise=0.01, tails=None, draws=400, seed=0, ends="t"):
    """Share of simulations whose 95% interval holds the truth: parameter or target -> share.

    kind: of bootstrap, or "delta" for predictions without draws. Predictions stand at 4 times the size and tokens of
    the largest run.
    """
    at = {k: 4 * v.max() for k, v in x.items()}
    truth, clean = scaling.law_value(LAW, TRUE, at), scaling.law_value(LAW, TRUE, x)
    want = derived(dict(TRUE))
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.standard_normal(n) if tails is None else rng.standard_t(tails, n) * np.sqrt(1 - 2 / tails)
    hits = {}
    note = lambda k, low, high, value: hits.setdefault(k, []).append(bool(low <= value <= high))
    for i in range(n_sims):
        fit = scaling.fit(LAW, Data(x, clean * np.exp(noise * draw(len(clean)))), loss, starts=16)
        new = truth * np.exp(noise * draw(1)[0])
        many = None if kind == "delta" else scaling.bootstrap(fit, draws, jax.random.key(i), kind)
        for target, value in (("mean", truth), ("new_run", new)):
            p = scaling.predict(fit, at, many, kind=target)
            note(target, p.low[0], p.high[0], value)
        if many is not None:
            got, points = derived(many.theta), derived(dict(fit.theta))
            for k, value in want.items():
                log = bool(points[k] > 0 and np.nanmin(got[k]) > 0)
                note(k, *limits(many, got[k], points[k], log=log, kind=ends), value)
    return {k: float(np.mean(v)) for k, v in hits.items()}


def test_coverage_of_few_runs_quick():
    """16 runs, 5 parameters, 1% noise: a coarse look; the slow tests are sharp."""
    got = coverage(60, FEW, lsq(), "delta")
    assert all(v >= 0.88 for v in got.values()), got


CASES = {
    "16 runs, least squares": (FEW, lsq(), 1, 3),
    "32 runs, Huber": (MORE, huber(1e-3), 2, 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("tails", [None, 3], ids=["normal", "t3"])
@pytest.mark.parametrize("case", CASES)
def test_coverage(case, tails):
    """Nominal 95% intervals cover 90 to 99% of 500 simulations."""
    x, loss, *seeds = CASES[case]
    got = coverage(500, x, loss, "parametric", tails=tails, seed=seeds[tails is not None])
    assert all(0.90 <= v <= 0.99 for v in got.values()), got
