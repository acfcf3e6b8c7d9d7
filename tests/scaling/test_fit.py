"""What a fit does with planted truths, poor data and bad input."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import Data, huber, lsq

TRUE = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)


def grid(n=4, theta=TRUE, law="chinchilla", low=(1e7, 2e8), high=(1e9, 2e10)):
    N, D = (a.ravel() for a in np.meshgrid(*(np.geomspace(a, b, n) for a, b in zip(low, high, strict=True))))
    x = dict(N=N, D=D)
    return Data(x, scaling.law_value(scaling.named(law, scaling.LAWS), theta, x))


def noisy(data, noise=0.01, seed=0):
    y = data.y * np.exp(noise * np.random.default_rng(seed).standard_normal(len(data.y)))
    return Data(data.x, y)


@pytest.mark.parametrize("loss", [huber(1e-3), lsq()], ids=str)
def test_noise_free_recovery(loss):
    fit = scaling.fit("chinchilla", grid(), loss)
    for k, v in TRUE.items():
        np.testing.assert_allclose(fit.theta[k], v, rtol=1e-9)
    assert fit.status == "converged" and fit.hit_rate >= 0.99


@pytest.mark.slow
def test_one_input_laws():
    x = np.geomspace(1e6, 1e10, 12)
    fit = scaling.fit("power(input='C')", Data(dict(C=x), 88 * x**-0.05))
    np.testing.assert_allclose([fit.theta["A"], fit.theta["alpha"]], [88, 0.05], rtol=1e-9)
    fit = scaling.fit("power_offset", Data(dict(N=x), 30 * x**-0.3 + 1.5))
    np.testing.assert_allclose([fit.theta[k] for k in ("A", "alpha", "E")], [30, 0.3, 1.5], rtol=1e-9)


@pytest.mark.slow
def test_mu_scaling(table):
    t = table("muscaling_10pt.csv")
    small = t["split"] == "train"
    fit = scaling.fit("power_offset", Data(dict(N=t["params_M"]), t["train_loss_20k"]).take(small), lsq("raw"))
    np.testing.assert_allclose([fit.theta[k] for k in ("A", "alpha", "E")], [2.46943, 0.423108, 2.923299], rtol=1e-5)
    names, c = scaling.cov(fit)
    se = dict(zip(names, np.sqrt(np.diag(c)), strict=True))
    np.testing.assert_allclose([se["A"], se["alpha"], se["E"]], [0.0710, 0.0283, 0.0380], rtol=0.01)
    np.testing.assert_allclose(fit.predict(dict(N=t["params_M"][~small])), [3.18899, 3.08001, 3.03691], rtol=1e-5)


@pytest.mark.slow
def test_function_law_equals_the_built_in():
    def f(p, x):
        return p["a"] * x["N"] ** -p["s"] + p["b"] * x["D"] ** -p["t"] + p["e"]

    start = dict(a=(1, 1e3), b=(1, 1e3), e=(0.5, 2), s=(0.1, 1), t=(0.1, 1))
    law = scaling.function(f, ("N", "D"), start, linear=("a", "b", "e"))
    data = noisy(grid())
    ours, built = scaling.fit(law, data), scaling.fit("chinchilla", data)
    np.testing.assert_allclose(list(ours.theta.values())[0], built.theta["A"], rtol=1e-6)
    assert ours.objective <= built.objective * (1 + 1e-9)
    saved = scaling.Fit.from_json(ours.to_json(), law)
    assert saved.theta == ours.theta
    with pytest.raises(ValueError, match="unknown law"):
        scaling.Fit.from_json(ours.to_json())


@pytest.mark.slow
def test_variable_projection_ends_where_the_full_descent_does():
    data = noisy(grid(5))
    for loss in (lsq(), lsq("raw")):
        full, projected = (scaling.fit("chinchilla", data, loss, method=m) for m in ("full", "varpro"))
        np.testing.assert_allclose(projected.objective, full.objective, rtol=1e-12)
        np.testing.assert_allclose(list(projected.theta.values()), list(full.theta.values()), rtol=1e-7)
        assert projected.hit_rate >= 0.99 and projected.settings["method"].startswith("variable projection")
    assert scaling.fit("chinchilla", data, lsq("raw")).settings == projected.settings  # auto
    assert "projection" not in scaling.fit("chinchilla", data, lsq()).settings["method"]
    for match, law, method in (("methods are", "chinchilla", "nnls"), ("linear in", "kaplan", "varpro")):
        with pytest.raises(ValueError, match=match):
            scaling.fit(law, data, lsq(), method=method)
    line = scaling.fit("power", Data(dict(N=data.x["N"]), data.y), lsq(), fixed=dict(alpha=0.1))  # nothing is drawn
    assert line.status == "converged" and line.hit_rate == 1


@pytest.mark.slow
def test_fixed_and_bounds():
    data = noisy(grid())
    free = scaling.fit("chinchilla", data, lsq())
    held = scaling.fit("chinchilla", data, lsq(), fixed=dict(E=1.69, A=406.4))
    assert held.theta["E"] == 1.69 and held.theta["A"] == 406.4 and held.objective > free.objective
    inside = scaling.fit("chinchilla", data, lsq(), bounds=dict(alpha=(0.1, 0.9)))
    np.testing.assert_allclose(inside.theta["alpha"], free.theta["alpha"], rtol=1e-7)
    steep = noisy(grid(theta=dict(TRUE, A=1e9, alpha=1.3)))
    outside = scaling.fit("chinchilla", steep, lsq(), bounds=dict(alpha=(0.1, 0.9)))
    assert outside.status == "bound" and "alpha is at its bound 0.9" in outside.reason


def test_weights_count_like_copies():
    data = noisy(grid())
    w = np.ones(16)
    w[:3] = 2
    rows = np.concatenate([np.arange(16), np.arange(3)])
    twice = Data({k: v[rows] for k, v in data.x.items()}, data.y[rows])
    weighted = scaling.fit("chinchilla", Data(data.x, data.y, w=w))
    with pytest.warns(scaling.DataWarning, match="duplicated runs: 3 rows"):
        copied = scaling.fit("chinchilla", twice)
    np.testing.assert_allclose(weighted.objective, copied.objective, rtol=1e-9)
    dropped = scaling.fit("chinchilla", Data(data.x, data.y, w=np.r_[0.0, np.ones(15)]))
    assert dropped.n == 15 and dropped.df == 10


class TestStatus:
    """A fit that came to nothing says so in one word and one line."""

    def test_floor_at_zero(self):
        x = np.geomspace(1e6, 1e9, 12)
        y = 30 * x**-0.1 * (1 - 0.02 * np.linspace(-1, 1, 12) ** 2)  # bends down: no floor can help
        fit = scaling.fit("power_offset", Data(dict(N=x), y), lsq())
        assert fit.status == "bound" and fit.reason.startswith("E went to 0")

    def test_one_size_only(self):
        data = grid(5)
        one = data.take(data.x["N"] == data.x["N"][0])
        with pytest.raises(ValueError, match="too few points"):
            scaling.fit("chinchilla", one.take(np.arange(4)))
        D = np.geomspace(1e8, 1e11, 10)
        rows = dict(N=np.full(10, 1e8), D=D)
        fit = scaling.fit("chinchilla", Data(rows, scaling.law_value(scaling.LAWS["chinchilla"](), TRUE, rows)))
        assert fit.status == "underdetermined" and "same N" in fit.reason

    def test_as_many_parameters_as_runs(self):
        fit = scaling.fit("power_offset", Data(dict(N=[1e6, 1e7, 1e8]), [4.0, 3.0, 2.5]), lsq())
        assert fit.status == "underdetermined" and "3 runs for 3" in fit.reason
        with pytest.raises(ValueError, match="no degrees of freedom|leave no degrees"):
            scaling.predict(fit, dict(N=1e9))

    def test_inputs_that_move_together(self):
        N = np.geomspace(1e7, 1e9, 12)
        x = dict(N=N, D=20 * N)
        y = scaling.law_value(scaling.LAWS["chinchilla"](), dict(TRUE, beta=0.34), x)
        fit = scaling.fit("chinchilla(tied=True)", Data(x, y))
        assert fit.status == "underdetermined" and "say nothing about" in fit.reason

    def test_flat_direction(self):
        data = noisy(grid(4, low=(1e8, 2e9), high=(1.3e8, 2.6e9)), 0.02)
        fit = scaling.fit("chinchilla", data, lsq())
        assert fit.status in ("flat", "bound") and fit.reason

    def test_good_fit_has_no_reason(self):
        fit = scaling.fit("chinchilla", noisy(grid(5), 0.002), lsq())
        assert fit.status == "converged" and fit.reason == ""


def test_bad_input_is_one_clear_line():
    data = grid()
    cases = [
        ("reads column 'D'", Data(dict(N=data.x["N"]), data.y), {}),
        (
            "column 'N', row 2: -5 is not positive",
            Data(dict(data.x, N=np.r_[1e7, 1e8, -5, np.full(13, 1e7)]), data.y),
            {},
        ),
        ("column 'y', row 0: nan is not a finite", Data(data.x, np.r_[np.nan, data.y[1:]]), {}),
        ("column 'y', row 0: 0 is not positive; use", Data(data.x, np.r_[0.0, data.y[1:]]), {}),
        ("'gamma' is not a parameter", data, dict(fixed=dict(gamma=1.0))),
        ("too few points: 5 free parameters, 4 distinct", data.take(np.arange(4)), {}),
    ]
    for match, bad, options in cases:
        with pytest.raises(ValueError, match=match) as error:
            scaling.fit("chinchilla", bad, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="unknown law 'chinchila'; known are chinchilla"):
        scaling.fit("chinchila", data)
    with pytest.raises(ValueError, match="shape"):
        Data(dict(N=[1.0, 2.0]), [1.0])
    with pytest.raises(ValueError, match="log"):
        huber(1e-3, "linear")


def test_mixed_units_are_named():
    data = grid()
    D = data.x["D"].copy()
    D[5] /= 1e9
    with pytest.warns(scaling.DataWarning, match=r"mixed units: column 'D' .* row 5"):
        scaling.fit("chinchilla", Data(dict(data.x, D=D), data.y))


def test_nothing_is_dropped_silently():
    data = grid().take(np.arange(1, 16), "diverged")
    assert data.note.endswith("1 of 16 rows left out: diverged")
    assert "1 of 16 rows left out: diverged" in scaling.fit("chinchilla", data).report()


def test_report_and_json():
    fit = scaling.fit("chinchilla", noisy(grid()))
    text = fit.report()
    for word in (
        "chinchilla",
        "converged",
        "huber(delta=0.001",
        "BFGS",
        "64",
        "condition",
        "16 runs",
        "counting",
    ):
        assert word in text
    again = scaling.Fit.from_json(fit.to_json())
    assert again.theta == fit.theta and again.report() == text and again.law == fit.law
    np.testing.assert_array_equal(again.data.y, fit.data.y)
    with pytest.raises(ValueError, match="not a saved fit"):
        scaling.Fit.from_json("{}")


def test_nothing_global_changes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaling.fit("chinchilla", noisy(grid()))
    assert jnp.ones(2).dtype == jnp.float32


@pytest.mark.parametrize("spec", ["chinchilla", "chinchilla(tied=True)", "power", "power_offset(input='C')"])
def test_units_of_every_law(spec):
    check_units(scaling.named(spec, scaling.LAWS))


def check_units(law):
    """predict(units(p, s), z + s) == predict(p, z), for any parameters and shifts."""
    import jax

    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        p = {}
        for k, d in law.params.items():
            lo, hi = (0.5, 1.5) if isinstance(d, str) else (d[0] + 0.3 * (d[1] - d[0]), d[1] - 0.3 * (d[1] - d[0]))
            p[k] = jnp.asarray(rng.uniform(lo, hi))
        z = {k: jnp.asarray(rng.uniform(-1, 1, 7)) for k in law.inputs}
        s = {k: float(rng.uniform(0.3, 1)) for k in law.inputs}
        moved = law.predict(law.units(p, s), {k: v + s[k] for k, v in z.items()})
        np.testing.assert_allclose(moved, law.predict(p, z), rtol=1e-12)
        assert not np.allclose(law.predict(p, {k: v + s[k] for k, v in z.items()}), law.predict(p, z))
