"""Bootstrap, prediction intervals and allocation on simulated runs."""

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import Data, lsq
from jaxlib_ext.scaling.student import t_quantile

TRUE = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)
LAW = scaling.LAWS["chinchilla"]()


def design(sizes=4, low=2e6, high=6e7, ratios=(5, 10, 20, 60)):
    N = np.repeat(np.geomspace(low, high, sizes), len(ratios))
    return dict(N=N, D=N * np.tile(np.asarray(ratios, float), sizes))


def runs(x, noise=0.01, seed=0, theta=TRUE, **columns):
    rng = np.random.default_rng(seed)
    y = scaling.law_value(LAW, theta, x)
    return Data(x, y * np.exp(noise * rng.standard_normal(len(y))), **columns)


@pytest.fixture(scope="module")
def fit():
    return scaling.fit(LAW, runs(design(8, high=1e9)), lsq())


def test_student_quantiles():
    for share, df, want in [
        (0.975, 1, 12.7062),
        (0.975, 11, 2.20099),
        (0.9, 5, 1.475884),
        (0.05, 30, -1.697261),
    ]:
        np.testing.assert_allclose(t_quantile(share, df), want, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pairs", "wild", "parametric"])
def test_bootstrap_agrees_with_the_delta_method(fit, kind):
    """Where noise is normal and equal, all kinds estimate the same standard errors."""
    draws = scaling.bootstrap(fit, 200, kind=kind)
    names, c = scaling.cov(fit)
    ratio = np.array([draws.se()[k] for k in names]) / np.sqrt(np.diag(c))
    exponents = [i for i, k in enumerate(names) if k in ("alpha", "beta", "E")]
    assert np.all((ratio[exponents] > 0.6) & (ratio[exponents] < 1.6)), ratio
    assert draws.settled.mean() > 0.98
    low, high = draws.interval(0.9)["alpha"]
    assert low < fit.theta["alpha"] < high


@pytest.mark.slow
def test_cluster_bootstrap_sees_that_checkpoints_repeat():
    """Eight checkpoints that share one run's noise are one run: pairs claim too much, cluster does not."""
    x = design(8, high=1e9)
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(32), 4)
    x4 = {k: np.repeat(v, 4) for k, v in x.items()}
    x4["D"] = x4["D"] * np.tile(np.linspace(0.7, 1, 4), 32)
    y = scaling.law_value(LAW, TRUE, x4) * np.exp(0.01 * rng.standard_normal(32))[group]
    fit = scaling.fit(LAW, Data(x4, y, group=group), lsq())
    pairs, cluster = (scaling.bootstrap(fit, 100, kind=k).se()["alpha"] for k in ("pairs", "cluster"))
    assert cluster > 1.4 * pairs


def test_bad_requests(fit):
    for match, call in [
        ("kinds are", lambda: scaling.bootstrap(fit, 10, kind="jackknife")),
        ("needs Data.group", lambda: scaling.bootstrap(fit, 10, kind="cluster")),
        ("must be", lambda: scaling.refit(fit, w=np.ones((3, 4)))),
        ("mean", lambda: scaling.predict(fit, dict(N=1e9, D=1e10), kind="best")),
        ("has no 'D'", lambda: scaling.predict(fit, dict(N=1e9))),
        ("budget must be positive", lambda: scaling.optimal(fit, -1.0)),
    ]:
        with pytest.raises(ValueError, match=match):
            call()


def test_weights_and_resamples_are_the_same_thing(fit):
    """A refit with weights equals a fresh fit of the rows it counts."""
    rng = np.random.default_rng(0)
    w = rng.multinomial(32, np.full(32, 1 / 32), size=3).astype(float)
    draws = scaling.refit(fit, w=w)
    for i in range(3):
        fresh = scaling.fit(LAW, Data(fit.data.x, fit.data.y, w=w[i]), lsq())
        np.testing.assert_allclose(draws.objective[i], fresh.objective, rtol=1e-9)
        np.testing.assert_allclose(draws["beta"][i], fresh.theta["beta"], rtol=1e-6)


@pytest.mark.slow
def test_new_run_is_wider_than_the_mean(fit):
    x = dict(N=4e9, D=8e10)
    draws = scaling.bootstrap(fit, 400, kind="parametric")
    for d in (None, draws):
        mean, new = (scaling.predict(fit, x, d, kind=k) for k in ("mean", "new_run"))
        assert new.low < mean.low < mean.value < mean.high < new.high
        widths = [np.log(p.high / p.low)[0] / 2 for p in (mean, new)]
        added = np.sqrt(widths[1] ** 2 - widths[0] ** 2)
        assert 0.8 < added / (fit.noise() * t_quantile(0.975, fit.df)) < 1.25
    assert scaling.predict(fit, x).distance[0] > 0.1 and "log ranges" in str(scaling.predict(fit, x))
    assert scaling.predict(fit, dict(N=1e7, D=2e8)).distance[0] == 0


def test_optimum_equals_the_closed_form():
    fit = scaling.fit(LAW, runs(design(), noise=0))
    for C in (1e15, 5.76e23):
        plan, want = scaling.optimal(fit, C), scaling.closed_form(LAW, fit.theta, C)
        np.testing.assert_allclose(
            [plan.N[0], plan.D[0], plan.loss[0]], [want[k] for k in ("N", "D", "loss")], rtol=1e-9
        )
    np.testing.assert_allclose(scaling.closed_form(LAW, TRUE, 5.76e23)["N"], 3.21899e10, rtol=1e-5)
    np.testing.assert_allclose(plan.D[0], 2.98231e12, rtol=1e-5)
    np.testing.assert_allclose(plan.loss[0], 1.930748, rtol=1e-6)


def test_optimum_under_another_flop_model(fit):
    """An overhead that grows with N moves the optimum to smaller models, and the budget is met exactly."""

    def flops(N, D):
        return 6 * N * D + 50 * N**1.5 + 1e3 * D

    plain, other = scaling.optimal(fit, 1e19), scaling.optimal(fit, 1e19, flops=flops)
    assert other.N[0] < plain.N[0]
    np.testing.assert_allclose(flops(other.N, other.D), 1e19, rtol=1e-9)
    around = [(other.N * k, None) for k in (0.97, 1.03)]
    for N, _ in around:
        D = (1e19 - 50 * N**1.5) / (6 * N + 1e3)
        assert fit.predict(dict(N=N, D=D))[0] > other.loss[0]


def test_no_optimum_is_said_aloud():
    law = scaling.function(lambda p, x: p["a"] * (x["N"] * x["D"]) ** -p["s"] * x["N"] ** -p["t"], ("N", "D"),
                           dict(a=(1, 10), s=(0.05, 0.5), t=(0.05, 0.5)))  # fmt: skip
    x = design()
    fit = scaling.fit(law, Data(x, 5 * (x["N"] * x["D"]) ** -0.1 * x["N"] ** -0.1))
    plan = scaling.optimal(fit, 1e18)
    assert plan.N[0] == np.inf and plan.open_end[0] == 1 and "no optimum within reach" in str(plan)
