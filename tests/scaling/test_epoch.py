"""Fits of the digitised Chinchilla runs against published and independently converged numbers."""

import jax
import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import huber, lad, learned, lsq

NAMES = ("A", "B", "E", "alpha", "beta")
EXACT = {
    huber(1e-3): (477.825869, 2143.41737, 1.8172181, 0.347310499, 0.367172433, 1.0182740178e-3),
    huber(1e-2): (538.751877, 2905.59993, 1.83807862, 0.354415503, 0.381537525, 4.69622488e-3),
    huber(1e-4): (478.688707, 2065.41299, 1.81582358, 0.347408852, 0.365384732, 1.11778748e-4),
    lsq(): (593.3221, 4875.6374, 1.8645501, 0.3602528, 0.40588336, 0.0114618869917),
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", EXACT, ids=str)
def test_exact_optima(epoch240, loss):
    fit = scaling.fit("chinchilla", epoch240, loss)
    *theta, objective = EXACT[loss]
    assert fit.status == "converged", fit.reason
    assert fit.objective <= objective + 1e-9
    np.testing.assert_allclose([fit.theta[k] for k in NAMES], theta, rtol=1e-5)
    assert fit.hit_rate >= 0.99 and fit.gradient_norm < 1e-7


def test_all_245(epoch):
    fit = scaling.fit("chinchilla", epoch[0])
    want = (495.726009, 12845.6133, 1.8913385, 0.349312894, 0.453049296)
    np.testing.assert_allclose([fit.theta[k] for k in NAMES], want, rtol=1e-5)
    assert fit.objective <= 1.82601052e-3 + 1e-9


def test_narrow_limits(epoch240):
    """The published parameters are the least absolute deviation fit; the learned scale reaches it too."""
    narrow = scaling.fit("chinchilla", epoch240, huber(1e-6))
    want = (481.934, 2085.00, 1.816844, 0.347804, 0.365844)
    np.testing.assert_allclose([narrow.theta[k] for k in NAMES], want, rtol=1e-5)
    published = (482.00572, 2085.43420, 1.81686, 0.34781, 0.36585)
    fit = scaling.fit("chinchilla", epoch240, learned(1e-3))
    assert fit.objective <= -879.7731390602 + 1e-9
    np.testing.assert_allclose([fit.theta[k] for k in NAMES], published, rtol=2e-5)
    direct = scaling.fit("chinchilla", epoch240, lad())
    assert direct.objective <= np.sum(np.abs(fit.residuals())) + 1e-9
    assert direct.status == "converged", direct.reason
    np.testing.assert_allclose([direct.theta[k] for k in NAMES], published, rtol=2e-5)


@pytest.mark.parametrize(
    "rows, want",
    {
        "240": (1.882813613, 4.059840846, 1.074458713, 0.3576150884, 0.4276206213, 0.0832038076933),
        "245": (2.010567645, 4.382891657, 1.130583475, 0.3684359832, 0.6613968052, 0.843773811568),
        "217": (1.905092274, 4.000522327, 1.050947685, 0.3510581938, 0.4587417960, 0.0624142928835),
    }.items(),
)
def test_raw_least_squares(epoch, rows, want):
    """In N / 1e6 and D / 1e9, where variable projection was used for the reference numbers."""
    data, kept = epoch
    C = 6 * data.x["N"] * data.x["D"]
    mask = {"240": kept, "245": np.ones_like(kept), "217": kept & (C < 1e21)}[rows]
    data = scaling.Data(dict(N=data.x["N"] / 1e6, D=data.x["D"] / 1e9), data.y).take(mask)
    fit = scaling.fit("chinchilla", data, lsq("raw"))
    if rows == "217" and len(data.y) != 217:
        pytest.fail(f"the cut leaves {len(data.y)} runs")
    assert fit.objective <= want[-1] + 1e-9
    np.testing.assert_allclose([fit.theta[k] for k in ("E", "A", "B", "alpha", "beta")], want[:-1], rtol=1e-5)


def test_units_do_not_matter(epoch240):
    scaled = scaling.Data(dict(N=epoch240.x["N"] / 1e6, D=epoch240.x["D"] / 1e9), epoch240.y)
    a, b = (scaling.fit("chinchilla", d) for d in (epoch240, scaled))
    back = dict(b.theta, A=b.theta["A"] * 1e6 ** b.theta["alpha"], B=b.theta["B"] * 1e9 ** b.theta["beta"])
    np.testing.assert_allclose([back[k] for k in NAMES], [a.theta[k] for k in NAMES], rtol=1e-8)
    np.testing.assert_allclose(a.condition, b.condition, rtol=1e-8)
    np.testing.assert_allclose(a.condition, 4.0e3, rtol=0.1)


def test_covariances(epoch240):
    fit = scaling.fit("chinchilla", epoch240, lsq())
    names, c = scaling.cov(fit)
    want = dict(A=107.52, B=901.40, E=0.014191, alpha=0.010484, beta=0.009068)
    np.testing.assert_allclose(np.sqrt(np.diag(c)), [want[k] for k in names], rtol=1e-3)
    names, c = scaling.cov(fit, "sandwich")
    want = dict(A=129.79, B=2108.19, E=0.024462, alpha=0.012881, beta=0.020822)
    np.testing.assert_allclose(np.sqrt(np.diag(c)), [want[k] for k in names], rtol=1e-3)


@pytest.fixture(scope="module")
def resamples(epoch240):
    """The published 4000 resamples, from the published seed: (fit, weights, draws)."""
    state = np.random.RandomState(42)
    picks = np.stack([state.choice(np.arange(240), 240) for _ in range(4000)])
    weights = np.stack([np.bincount(p, minlength=240) for p in picks])
    fit = scaling.fit("chinchilla", epoch240)
    return fit, weights, scaling.refit(fit, w=weights)


@pytest.mark.slow
def test_bootstrap_of_the_published_resamples(resamples):
    fit, _, draws = resamples
    first = dict(A=349.556372, B=2356.24831, E=1.793330, alpha=0.328633, beta=0.371855)
    np.testing.assert_allclose([draws[k][0] for k in NAMES], [first[k] for k in NAMES], rtol=2e-5)
    want = dict(A=124.48, B=1312.1, E=0.025677, alpha=0.015396, beta=0.020629)
    np.testing.assert_allclose([draws.se()[k] for k in NAMES], [want[k] for k in NAMES], rtol=0.01)
    assert draws.settled.all() and not draws.bound
    a = draws["beta"] / (draws["alpha"] + draws["beta"])
    width = np.subtract(*np.percentile(a, [90, 10]))
    np.testing.assert_allclose([a.std(), width], [0.020, 0.051], atol=6e-4)


def test_percentiles_of_the_published_resamples(resamples):
    """The published ends are those of refits that stop a little early, so they agree as the standard errors do."""
    _, _, draws = resamples
    ends = draws.interval()
    want = dict(A=(285.214, 743.626), B=(1042.36, 5810.34), E=(1.7694, 1.8712), alpha=(0.3168, 0.3733),
                beta=(0.3313, 0.4154))  # fmt: skip
    for k, v in want.items():
        np.testing.assert_allclose(ends[k], v, rtol=0.01, err_msg=k)


def test_default_starts_reach_the_optimum(epoch240):
    rates = [scaling.fit("chinchilla", epoch240, key=jax.random.key(i)).hit_rate for i in range(10)]
    assert np.mean(rates) >= 0.99


def test_allocation(resamples):
    fit, _, draws = resamples
    plan = scaling.optimal(fit, [1e21, 5.88e23, 1e26], draws=draws, level=0.8)
    np.testing.assert_allclose(plan.N[:2], [2.7917e9, 7.397e10], rtol=1e-4)
    np.testing.assert_allclose(plan.D[:2], [5.970e10, 1.3249e12], rtol=1e-4)
    np.testing.assert_allclose(plan.ratio, [21.38, 17.91, 15.53], rtol=1e-3)
    np.testing.assert_allclose(plan.low["ratio"], [16.94, 9.86, 6.40], rtol=0.01)
    np.testing.assert_allclose(plan.high["ratio"], [26.30, 29.00, 31.56], rtol=0.01)
    wide = scaling.optimal(fit, 5.88e23, draws=draws)
    np.testing.assert_allclose([wide.low["N"][0], wide.high["N"][0]], [5.23e10, 1.137e11], rtol=0.01)


@pytest.mark.slow
def test_every_resample_beats_scipy(resamples, epoch240):
    optimize = pytest.importorskip("scipy.optimize")
    fit, weights, draws = resamples
    z = fit.z()
    y = np.log(epoch240.y)

    def objective(u, w):
        terms = [u[0] - u[3] * z["N"], u[1] - u[4] * z["D"], np.full_like(y, u[2])]
        r = np.abs(y - np.logaddexp.reduce(terms, axis=0))
        return np.sum(w * np.where(r < 1e-3, r * r / 2, 1e-3 * (r - 5e-4))) * 1e3

    start = fit.u
    for i in range(0, 4000, 80):
        found = optimize.minimize(objective, start, (weights[i],), method="BFGS", options=dict(gtol=1e-9))
        assert draws.objective[i] <= found.fun / 1e3 + 1e-8
