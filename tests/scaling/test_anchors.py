"""Numbers that other tools print for public runs, beside those of test_epoch.py. No objective may be above theirs."""

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import Data, huber, learned, lsq

HOFFMANN = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)
LAW = scaling.LAWS["chinchilla"]()


def laplace(data, theta):
    """Negative log likelihood of log residuals at their likeliest scale: what a learned scale tends to."""
    r = np.abs(np.log(data.y / scaling.law_value(LAW, theta, data.x)))
    return len(r) * (1 + np.log(2 * r.mean()))


def test_likelihood_ratio_against_hoffmann(epoch240):
    """84.00 with 5 degrees of freedom; rounding the same parameters to two digits loses 275 more units."""
    theta = dict(A=np.exp(6.0073404), B=np.exp(6.0179186), E=np.exp(0.5267228), alpha=0.33917084, beta=0.2849083)
    fit = scaling.fit(LAW, epoch240, learned(1e-3))
    np.testing.assert_allclose(2 * (laplace(epoch240, theta) - fit.objective), 84.00, atol=0.01)
    np.testing.assert_allclose(laplace(epoch240, HOFFMANN) - laplace(epoch240, theta), 275.5, atol=0.05)


@pytest.mark.slow
def test_log_least_squares_in_scaled_units(epoch240):
    """The raw residuals of the log fit, and the split exponent a with its standard error."""
    scaled = Data(dict(N=epoch240.x["N"] / 1e6, D=epoch240.x["D"] / 1e9), epoch240.y)
    fit = scaling.fit(LAW, scaled, lsq())
    want = dict(E=1.8645501, A=4.09047495, B=1.08412954, alpha=0.3602527980, beta=0.4058833617)
    for k, v in want.items():
        np.testing.assert_allclose(fit.theta[k], v, rtol=2e-8)
    np.testing.assert_allclose(np.sum((scaled.y - fit.predict()) ** 2), 0.0852663132, rtol=1e-7)
    names, c = scaling.cov(fit)
    i, j, s = names.index("alpha"), names.index("beta"), want["alpha"] + want["beta"]
    slope = np.array([-want["beta"], want["alpha"]]) / s**2
    np.testing.assert_allclose(want["beta"] / s, 0.529780, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(slope @ c[np.ix_([i, j], [i, j])] @ slope), 0.009223, rtol=1e-3)


@pytest.mark.slow
def test_raw_units_end_at_the_optimum(epoch240):
    """Where a fit in raw units stops early (B 7678, beta .42824), and where others end on the 217 runs."""
    fit = scaling.fit(LAW, epoch240, lsq("raw"))
    np.testing.assert_allclose([fit.theta["B"], fit.theta["beta"]], [7581.85, 0.4276206213], rtol=1e-6)
    assert fit.objective <= 0.0832038076933 + 1e-9
    cut = epoch240.take(6 * epoch240.x["N"] * epoch240.x["D"] < 1e21, "as published")
    cut = Data(dict(N=cut.x["N"] / 1e6, D=cut.x["D"] / 1e9), cut.y)
    theirs = dict(E=1.82672, A=3.70662, B=1.03862, alpha=0.32405, beta=0.40795)
    for delta in (1e-3, 1e-2):
        r = np.abs(cut.y - scaling.law_value(LAW, theirs, cut.x))
        value = np.sum(np.where(r <= delta, r * r / 2, delta * (r - delta / 2)))
        assert scaling.fit(LAW, cut, huber(delta, "raw")).objective <= value + 1e-9


SURFACES = {  # experiment -> (exponent a of the surface fit, of the parabolas)
    "llama_3__raw_loss": (0.502916, 0.46322),
    "ml_scalefit__massivetext__chinchilla": (0.52737, 0.51336),
    "marin_202603__comma__llama_2": (0.36201, 0.40493),
    "marin_202603__dclm__llama_2": (0.40147, 0.42358),
}


@pytest.mark.slow
def test_surfaces_and_parabolas_of_iso_flop_runs(table):
    """Where a budget has its minimum outside its runs it is refused here and used by the published parabolas."""
    t = table("isoflops_openathena.csv")
    for name, (surface, parabola) in SURFACES.items():
        rows = t["experiment"] == name
        x = dict(N=t["params"][rows], D=t["tokens"][rows])
        data = Data(x, t["loss"][rows], budget=t["budget"][rows])
        fit = scaling.fit(LAW, data, lsq("raw"))
        a = fit.theta["beta"] / (fit.theta["alpha"] + fit.theta["beta"])
        np.testing.assert_allclose(a, surface, atol=1e-5, err_msg=name)
        found = scaling.isoflop(data)
        refused = [i for i, s in enumerate(found.status) if s != "ok"]
        sizes = found.N.copy()
        for i in refused:
            here = data.budget == found.C[i]
            bend, slope, _ = np.polyfit(np.log(data.x["N"][here]), data.y[here], 2)
            sizes[i] = np.exp(-slope / (2 * bend))
        with_all = np.polyfit(np.log(found.C), np.log(sizes), 1)[0]
        np.testing.assert_allclose(with_all, parabola, atol=1e-5, err_msg=name)
        assert refused == ([4] if name == "ml_scalefit__massivetext__chinchilla" else []), (name, found.status)
        if name == "llama_3__raw_loss":
            got = [fit.theta[k] for k in ("E", "alpha", "beta")]
            np.testing.assert_allclose(got, [0.6046695142, 0.3100060849, 0.3136430683], rtol=1e-5)


@pytest.mark.parametrize(
    "theta, ratios",
    [
        (HOFFMANN, {100: 1.1551}),
        (dict(HOFFMANN, alpha=0.465, beta=0.155), {2: 1.0170, 4: 1.0695, 8: 1.1616, 16: 1.3007, 100: 1.9917}),
        (dict(HOFFMANN, alpha=0.31, beta=0.31), {16: 1.0, 100: 1.0}),
    ],
    ids=["hoffmann", "alpha three times beta", "equal"],
)
def test_parabola_bias_of_other_surfaces(theta, ratios):
    """The prefactor's error depends on the exponents' ratio and the width alone; equal exponents have none."""
    for width, ratio in ratios.items():
        N, budget = [], np.repeat(np.geomspace(1e17, 1e21, 5), 15)
        for C in np.geomspace(1e17, 1e21, 5):
            N.append(scaling.closed_form(LAW, theta, C)["N"] * np.geomspace(1 / width, width, 15))
        x = dict(N=np.concatenate(N), D=budget / 6 / np.concatenate(N))
        got = scaling.isoflop(Data(x, scaling.law_value(LAW, theta, x), budget=budget))
        np.testing.assert_allclose(got.a, theta["beta"] / (theta["alpha"] + theta["beta"]), rtol=1e-9)
        np.testing.assert_allclose(got.size(1e24) / scaling.closed_form(LAW, theta, 1e24)["N"], ratio, atol=2e-4)
