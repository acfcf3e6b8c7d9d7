"""Profiles, directions and covariances on simulated runs."""

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import Data, lsq
from jaxlib_ext.scaling.student import t_quantile

TRUE = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)


def runs(noise=0.01, seed=0, low=2e6, high=1e9):
    N = np.repeat(np.geomspace(low, high, 8), 4)
    x = dict(N=N, D=N * np.tile([5.0, 10, 20, 60], 8))
    y = scaling.law_value(scaling.LAWS["chinchilla"](), TRUE, x)
    return Data(x, y * np.exp(noise * np.random.default_rng(seed).standard_normal(32)))


@pytest.fixture(scope="module")
def fit():
    return scaling.fit("chinchilla", runs(), lsq())


@pytest.mark.slow
def test_profile_is_a_likelihood_ratio(fit):
    """At its ends the refitted residual sum of squares has risen by t^2 times the noise variance."""
    p = scaling.profile(fit, "alpha")
    assert p.low < fit.theta["alpha"] < p.high
    for end in (p.low, p.high):
        held = scaling.fit("chinchilla", fit.data, lsq(), fixed=dict(alpha=end))
        rise = (held.objective - fit.objective) / fit.noise() ** 2
        np.testing.assert_allclose(rise, t_quantile(0.975, 27) ** 2, rtol=0.02)
    assert "95% profile" in str(p)


def test_profile_agrees_with_the_delta_method_where_noise_is_small():
    fit = scaling.fit("chinchilla", runs(1e-4), lsq())
    names, c = scaling.cov(fit)
    p = scaling.profile(fit, "alpha")
    half = t_quantile(0.975, fit.df) * c[names.index("alpha"), names.index("alpha")] ** 0.5
    np.testing.assert_allclose([p.best - p.low, p.high - p.best], half, rtol=0.02)


def test_an_unbounded_side_is_printed_as_unbounded():
    """A floor that the runs do not reach: it may be anything from 0 up."""
    x = np.geomspace(1e6, 1e8, 10)
    rng = np.random.default_rng(5)
    fit = scaling.fit("power_offset", Data(dict(N=x), 30 * x**-0.1 * np.exp(0.01 * rng.standard_normal(10))), lsq())
    p = scaling.profile(fit, "E")
    assert p.low == 0 and np.isfinite(p.high) and "[unbounded" in str(p)


def test_identify_names_the_loose_direction(fit):
    report = scaling.identify(fit)
    assert np.all(np.diff(report.se) <= 0) and not report.flat and "closest pair" in str(report)
    short = runs(0.1).take(np.arange(8))
    loose = scaling.identify(scaling.fit("chinchilla", short, lsq()))
    assert loose.flat and "<- flat" in str(loose)


def test_what_cannot_be_profiled(fit):
    with pytest.raises(ValueError, match="not a fitted parameter"):
        scaling.profile(fit, "gamma")
    with pytest.raises(ValueError, match="covariance kinds"):
        scaling.cov(fit, "robust")


def test_runs_needed(epoch240):
    """The published claim of an 80% interval 0.001 wide for a would have taken over 600 000 runs."""
    assert 6.2e5 < scaling.runs_needed(240, 0.0513, 0.001) < 6.4e5
