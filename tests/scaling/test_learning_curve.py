"""Regions of a learning curve, its exponent and its extrapolation."""

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import Data, lsq

D = np.geomspace(1e3, 1e8, 21)


def curve(noise=0.0, floor=0.05, guess=0.9, seed=0):
    e = np.random.default_rng(seed).standard_normal(len(D))
    return np.minimum(guess, 30 * D**-0.4 + floor) * np.exp(noise * e)


def test_regions_of_a_piecewise_curve():
    """Guess until 30 D^-0.4 + 0.05 falls below 0.9, at D = 7400; half of the error is the floor at D = 8.8e6."""
    for noise in (0.0, 0.005):
        got = scaling.regions(D, curve(noise))
        np.testing.assert_allclose(got.guess, 0.9, rtol=0.01)
        assert 6e3 < got.power_from < 2.1e4
        np.testing.assert_allclose(got.fit.theta["alpha"], 0.4, rtol=1e-6 if noise == 0 else 0.06)
        np.testing.assert_allclose(got.floor_from, (30 / 0.05) ** 2.5, rtol=1e-5 if noise == 0 else 0.3)
    plain = scaling.regions(D, 30 * D**-0.4)
    assert np.isnan(plain.guess) and plain.power_from == D[0] and plain.floor_from > 1e3 * D[-1]
    with pytest.raises(ValueError, match="needs 5 sizes"):
        scaling.regions(D[:4], D[:4])


def test_without_a_floor_it_is_a_line_in_the_logs():
    y = 30 * D**-0.4 * np.exp(0.01 * np.random.default_rng(1).standard_normal(len(D)))
    fit = scaling.fit("power(input='D')", Data(dict(D=D), y), lsq())
    slope, level = np.polyfit(np.log(D), np.log(y), 1)
    np.testing.assert_allclose([fit.theta["alpha"], np.log(fit.theta["A"])], [-slope, level], rtol=1e-9)


@pytest.mark.slow
def test_a_planted_curve_lies_in_its_intervals_and_the_largest_sets_are_foretold():
    data = Data(dict(D=D[4:]), curve(0.005)[4:])
    fit = scaling.fit("hestness", data, lsq())
    for k, (low, high) in scaling.bootstrap(fit, 300, kind="parametric").interval(0.99).items():
        assert low < dict(A=30, alpha=0.4, E=0.05)[k] < high
    assert fit.holdout.n == 2 and fit.holdout.error < 0.02 and fit.holdout.distance > 0
    ahead = scaling.predict(fit, dict(D=1e9))
    assert ahead.holdout is fit.holdout and "held out: the 2 runs" in str(ahead)
    assert "held out" not in str(scaling.predict(fit, dict(D=1e6)))
