"""Lifetime cost, equivalent compute, IsoFLOP minima, choice of laws and designs."""

import dataclasses

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import Data, lsq

HOFFMANN = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)
LAW = scaling.LAWS["chinchilla"]()


def surface(theta=HOFFMANN, noise=0.0, n=6):
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, n), np.geomspace(1e9, 1e12, n)))
    return scaling.simulate(LAW, theta, dict(N=N, D=D), noise)


@pytest.fixture(scope="module")
def fit():
    return scaling.fit(LAW, surface(), lsq())


def test_lifetime(fit):
    """Sizes that serve more tokens are smaller; numbers found independently."""
    want = {1e12: (6.56687e10, 8.17572e12, 3.35267e24), 1e13: (4.79010e10, 1.17725e13, 4.34151e24)}
    for tokens, numbers in want.items():
        got = scaling.lifetime(fit, tokens, N=7e10)
        np.testing.assert_allclose([got.N, got.D, got.total], numbers, rtol=1e-5)
        np.testing.assert_allclose(got.loss, 1.87486471, rtol=1e-8)
        np.testing.assert_allclose(scaling.law_value(LAW, fit.theta, dict(N=got.N, D=got.D)), got.loss, rtol=1e-9)
    none = scaling.lifetime(fit, 1.0, N=7e10)
    np.testing.assert_allclose([none.N, none.D], [7e10, 7.65996e12], rtol=1e-4)
    with pytest.raises(ValueError, match="either the loss"):
        scaling.lifetime(fit, 1e12)
    with pytest.raises(ValueError, match="no size reaches"):
        scaling.lifetime(fit, 1e12, loss=1.5)


def test_equivalent_compute(fit):
    best = scaling.closed_form(LAW, fit.theta, 1e23)
    worth = scaling.equivalent_compute(fit, [best["N"], best["N"] * 4], [best["D"], best["D"] / 4])
    np.testing.assert_allclose(worth.spent, 1e23, rtol=1e-9)
    assert abs(worth.waste[0]) < 1e-6 and worth.waste[1] > 0.1 and worth.excess[1] > 0
    again = scaling.closed_form(LAW, fit.theta, worth.equivalent[1])
    np.testing.assert_allclose(again["loss"], worth.loss[1], rtol=1e-9)
    np.testing.assert_allclose(scaling.waste(fit, best["N"] * 4, best["D"] / 4), worth.waste[1:])


@pytest.mark.parametrize("width, ratio", [(2, 1.0033), (4, 1.0132), (8, 1.0299), (16, 1.0537)])
def test_parabola_bias(width, ratio):
    """Exact in the exponent on centred grids, biased in the prefactor by the width of the grid."""
    N, D, budget = [], [], []
    for C in np.geomspace(1e17, 1e21, 5):
        best = scaling.closed_form(LAW, HOFFMANN, C)["N"]
        N.append(best * np.geomspace(1 / width, width, 15))
        D.append(C / 6 / N[-1])
        budget.append(np.full(15, C))
    x = dict(N=np.concatenate(N), D=np.concatenate(D))
    got = scaling.isoflop(Data(x, scaling.law_value(LAW, HOFFMANN, x), budget=np.concatenate(budget)))
    np.testing.assert_allclose(got.a, 0.28 / 0.62, rtol=1e-10)
    np.testing.assert_allclose(got.size(1e24) / scaling.closed_form(LAW, HOFFMANN, 1e24)["N"], ratio, atol=1e-4)
    assert set(got.status) == {"ok"}
    spline = scaling.isoflop(Data(x, scaling.law_value(LAW, HOFFMANN, x), budget=np.concatenate(budget)), "akima")
    assert abs(spline.size(1e19) / scaling.closed_form(LAW, HOFFMANN, 1e19)["N"] - 1) < max(2e-3, (ratio - 1) / 10)


def test_akima_is_exact_on_lines_and_passes_through_points():
    from jaxlib_ext.scaling.isoflop import akima

    x = np.array([0.0, 1, 2.5, 3, 5, 6])
    at = np.linspace(0, 6, 31)
    np.testing.assert_allclose(akima(x, 2 * x + 1, at), 2 * at + 1, rtol=1e-12)
    y = np.array([0.0, 0, 0, 1, 4, 4.5])
    np.testing.assert_allclose(akima(x, y, x), y, atol=1e-12)
    assert np.all(akima(x, y, np.linspace(0, 1, 9)) == 0)  # a flat start stays flat: no overshoot
    interpolate = pytest.importorskip("scipy.interpolate")
    np.testing.assert_allclose(akima(x, y, at), interpolate.Akima1DInterpolator(x, y)(at), atol=1e-12)


def test_budgets_without_a_minimum_get_a_status():
    n = np.geomspace(1e7, 1e9, 7)
    u = np.log(n / 1e8)
    y = np.concatenate([2 + u**2 / 9, 2 - u**2 / 9, 2 - u / 9 + u**2 / 200, [2.0, 2.1]])
    N, budget = np.concatenate([n, n, n, n[:2]]), np.repeat([1e18, 2e18, 3e18, 4e18], [7, 7, 7, 2])
    got = scaling.isoflop(Data(dict(N=N, D=budget / 6 / N), y, budget=budget))
    assert got.status == ("ok", "curvature", "edge", "few")
    assert np.isnan(got.N[1:]).all() and np.isnan(got.a) and "curvature" in str(got)
    np.testing.assert_allclose(got.N[0], 1e8, rtol=1e-9)
    with pytest.raises(ValueError, match="isoflop kinds"):
        scaling.isoflop(Data(dict(N=N, D=N), y), "cubic")


def test_isoflop_on_real_runs(table):
    """Slopes found independently; the misfitting and nemotron runs have budgets that curve the wrong way."""
    t = table("isoflops_openathena.csv")
    want = {"llama_3__raw_loss": 0.46322, "marin_202603__comma__llama_2": 0.40493}
    want["marin_202603__dclm__llama_2"] = 0.42358
    for name in (*want, "marin_202603__nemotron__llama_2"):
        rows = t["experiment"] == name
        x = dict(N=t["params"][rows], D=t["tokens"][rows])
        got = scaling.isoflop(Data(x, t["loss"][rows], budget=t["budget"][rows]))
        if name in want:
            np.testing.assert_allclose(got.a, want[name], atol=1e-5)
        else:
            assert got.status[0] == "curvature"


def test_envelope():
    """The lowest of crossing curves, with the ends marked."""
    steps = np.geomspace(1e9, 1e12, 60)
    N = np.repeat([1e8, 4e8, 1.6e9], 60)
    x = dict(N=N, D=np.tile(steps, 3))
    got = scaling.envelope(Data(x, scaling.law_value(LAW, HOFFMANN, x), group=N))
    middle = ~got.edge
    assert middle.any() and np.all(got.N[middle] == 4e8) and np.all(np.diff(got.loss) < 1e-12)
    best = scaling.closed_form(LAW, HOFFMANN, float(np.median(got.C[middle])))["N"]
    assert 0.25 < best / 4e8 < 4


@pytest.mark.slow
@pytest.mark.parametrize("by", ["aicc", "kfold", "extrapolate"])
def test_selection_finds_the_form(by):
    data = surface(noise=0.003)
    got = scaling.select(["kaplan", "chinchilla", "gadre"], data, by=by, loss=lsq())
    assert got.best == "chinchilla", str(got)


def test_aicc_charges_for_parameters():
    data = surface(dict(HOFFMANN, beta=0.34), noise=0.01)
    free, tied = (scaling.fit(k, data, lsq()) for k in ("chinchilla", "chinchilla(tied=True)"))
    assert tied.objective >= free.objective and scaling.aicc(tied) < scaling.aicc(free)


def test_score_and_splits():
    data = surface(noise=0.003)
    got = scaling.score(LAW, data, scaling.by_compute(0.1), lsq())
    assert 4 <= got.n <= 6  # equal compute stays together
    assert got.r2 > 0.9 and got.error < 0.01 and got.status == "converged"
    wrong = scaling.score("kaplan", data, scaling.by_compute(0.1), lsq())
    assert wrong.rmse > got.rmse
    with pytest.raises(ValueError, match="holds out 0 of"):
        scaling.score(LAW, data, np.zeros(36, bool))
    with pytest.raises(ValueError, match="between 0 and 1"):
        scaling.by_compute(1.5)


@pytest.mark.slow
def test_farseer_is_preferred_on_its_data(table):
    t = table("farseer_dense.csv")
    data = Data(dict(N=t["N"], D=t["D"]), t["loss"])
    with pytest.warns(scaling.DataWarning):
        got = scaling.select(["chinchilla", "farseer"], data, split=t["split"] == "test", starts=16)
    assert got.best == "farseer" and got.rows[0][1] < 0.2 * got.rows[1][1]


def plan_cost(x):
    return 6 * x["N"] * x["D"]


def test_design_lowers_the_variance_it_promises():
    """The variance after the runs are done and the law is fitted again is the one that was promised."""
    data = surface(noise=0.01)
    cheap = np.argsort(plan_cost(data.x))[:14]
    fit = scaling.fit(LAW, data.take(cheap, "design"), lsq())
    target = dict(N=1e10, D=1e12)
    rest = np.setdiff1d(np.arange(36), cheap)
    candidates = {k: v[rest] for k, v in data.x.items()}
    cost = plan_cost(candidates)
    budget = np.sort(cost)[:12].sum()
    design = scaling.next_runs(fit, candidates, cost, budget, target)
    assert design.spent <= budget and design.after < design.before and len(set(design.rows)) == len(design.rows)
    assert "target error" in str(design)
    rows = np.concatenate([cheap, rest[design.rows]])
    x = {k: v[rows] for k, v in data.x.items()}
    more = scaling.fit(LAW, Data(x, scaling.law_value(LAW, fit.theta, x) * np.exp(0)), lsq())
    from jaxlib_ext.scaling.design import PRIOR, _jacobian, noise_of

    _, j = _jacobian(more, {k: np.array([v]) for k, v in target.items()})
    _, jx = _jacobian(more, x)
    var = (j @ np.linalg.inv(jx.T @ jx / noise_of(fit) ** 2 + np.eye(5) / PRIOR**2) @ j.T)[0, 0]
    np.testing.assert_allclose(var, design.after, rtol=1e-3)


@pytest.mark.parametrize("shift", [0.0, -5.0], ids=["losses above 0", "losses below 0"])
def test_a_rehearsed_design_ends_with_the_law(shift):
    """Runs that hold the law exactly: a tenth of their cost is enough, in the log of the loss and raw."""
    x = surface(n=8).x
    law = scaling.function(
        lambda p, x: p["E"] + p["A"] * x["N"] ** -0.3 + p["B"] * x["D"] ** -p["beta"], ("N", "D"),
        dict(E=(-4.0, 2.0), A=(100.0, 900.0), B=(100.0, 900.0), beta=(0.1, 0.5)), real=("E",),
    )  # fmt: skip
    theta = dict(E=1.7 + shift, A=400.0, B=410.0, beta=0.28)
    data, cost = Data(x, scaling.law_value(law, theta, x)), plan_cost(x)
    target = dict(N=np.array([1e11]), D=np.array([1e13]))
    found = scaling.rehearse(law, data, cost, 0.1 * cost.sum(), target, loss=lsq("raw" if shift else "log"))
    assert found.spent <= 0.1 * cost.sum() and len(set(found.rows)) == len(found.rows)
    np.testing.assert_allclose(found.fit.predict(target), scaling.law_value(law, theta, target), rtol=1e-5)


def test_amplitudes_that_overflow_leave_predictions_whole(fit):
    """Where the data's units have no number for an amplitude, the coordinates of the fit say the same."""
    for A in (np.inf, np.nan):
        lost = dataclasses.replace(fit, theta=dict(fit.theta, A=A))
        np.testing.assert_allclose(lost.predict(), fit.predict(), rtol=1e-9)


def test_designs_by_kind(fit):
    noisy = scaling.fit(LAW, surface(noise=0.01), lsq())
    x = dict(N=np.geomspace(1e7, 1e11, 8), D=np.geomspace(1e9, 1e13, 8)[::-1])
    for kind in ("D", "V", "target"):
        got = scaling.next_runs(noisy, x, 1.0, 3.0, dict(N=1e11, D=1e13), kind)
        assert len(got.rows) == 3 and np.all(np.diff(got.score) <= 1e-12)
    first = scaling.next_runs(noisy, x, 1.0, 1.0, kind="D").rows[0]
    assert first in (0, 7)  # the corners tell most
    two = [noisy, dataclasses.replace(noisy, theta=dict(noisy.theta, E=1.5))]
    both = scaling.next_runs(two, x, 1.0, 1.0, dict(N=1e11, D=1e13))
    assert both.before > scaling.next_runs(noisy, x, 1.0, 1.0, dict(N=1e11, D=1e13)).before
    for match, options in [
        ("design kinds", dict(kind="A")),
        ("needs a target", {}),
        ("below the cheapest", dict(kind="D")),
    ]:
        with pytest.raises(ValueError, match=match):
            scaling.next_runs(noisy, x, 1.0, 0.5 if "below" in match else 3.0, **options)


def test_simulate():
    x = dict(N=np.geomspace(1e7, 1e9, 500), D=np.full(500, 1e10))
    clean = scaling.law_value(LAW, HOFFMANN, x)
    for tails in (None, 5):
        e = np.log(scaling.simulate(LAW, HOFFMANN, x, 0.02, tails=tails).y / clean)
        assert 0.017 < e.std() < 0.023
    with pytest.raises(ValueError, match="no variance"):
        scaling.simulate(LAW, HOFFMANN, x, tails=2)
