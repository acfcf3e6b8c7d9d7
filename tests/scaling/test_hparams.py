"""Hyperparameter laws: published anchors, planted constants, identities of spectra and of critical batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext.scaling import hparams
from jaxlib_ext.scaling.__main__ import main


def test_step_law_values_and_slopes():
    at, twice = hparams.step_law(1e9, 1e11), hparams.step_law(1e9, 2e11)
    np.testing.assert_allclose(at["lr"], 1.79 * 1e9**-0.713 * 1e11**0.307, rtol=1e-12)
    np.testing.assert_allclose(twice["lr"] / at["lr"], 2**0.307, rtol=1e-12)
    np.testing.assert_allclose(twice["batch"] / at["batch"], 2**0.571, rtol=1e-12)
    with pytest.raises(ValueError, match="must be positive"):
        hparams.step_law(0, 1e9)


def sweeps(noise=0.0, seed=0):
    """Grids over lr and batch whose valleys follow a planted law: columns N, D, lr, batch, loss."""
    law, rng = hparams.StepLaw(2.0, -0.7, 0.3, 0.5, 0.55), np.random.default_rng(seed)
    columns = []
    for N in (1e8, 3e8, 1e9):
        for D in (2e9, 1e10, 5e10):
            best = law(N, D)
            lr, batch = (best[k] * 2.0 ** np.arange(-3.3, 3.5, 0.75) for k in ("lr", "batch"))
            lr, batch = (v.ravel() for v in np.meshgrid(lr, batch))
            u, v = np.log(lr / best["lr"]), np.log(batch / best["batch"])
            log = 1.1 + 0.004 * u**2 + 0.003 * v**2 - 0.002 * u * v + noise * rng.standard_normal(len(u))
            columns.append(np.stack([np.full(len(u), N), np.full(len(u), D), lr, batch, np.exp(log)]))
    return law, np.concatenate(columns, 1)


def test_planted_step_law():
    law, columns = sweeps()
    got, _, found = hparams.fit_step_law(*columns, near=0.02)
    assert found.ok.all()
    for k in ("lr_scale", "lr_N", "lr_D", "batch_scale", "batch_D"):
        np.testing.assert_allclose(getattr(got, k), getattr(law, k), rtol=1e-8)
    law, columns = sweeps(noise=2e-4)
    got, draws, found = hparams.fit_step_law(*columns, near=0.02)
    for k in ("lr_N", "lr_D", "batch_D"):
        low, high = np.percentile(draws[k], [0.5, 99.5])
        assert low <= getattr(law, k) <= high and high - low < 0.2, k
    truth = law(found.keys["N"], found.keys["D"])["lr"]
    assert np.all(np.abs(np.log(found.best["lr"] / truth)) < 4 * found.se["lr"])
    lowest = [np.argmin(np.where((columns[0] == n) & (columns[1] == d), columns[4], 9)) for n, d in
              zip(found.keys["N"], found.keys["D"], strict=True)]  # fmt: skip
    off = lambda lr: np.sqrt(np.mean(np.log(lr / truth) ** 2))
    assert off(found.best["lr"]) < 0.5 * off(columns[2][lowest])  # interpolated beats picked


def test_optima_without_a_minimum_get_a_status():
    u = np.linspace(-1, 1, 9)
    curves = dict(ok=0.1 * u**2, curvature=-0.1 * u**2, edge=0.05 * (u - 3) ** 2, few=np.full(3, 0.0))
    keys = np.concatenate([np.full(len(c), float(i)) for i, c in enumerate(curves.values(), 1)])
    knob = np.exp(np.concatenate([u, u, u, u[:3]]))
    found = hparams.optima(dict(size=keys), dict(lr=knob), np.exp(np.concatenate(list(curves.values()))), near=1.0)
    assert found.status == tuple(curves) and np.isnan(found.best["lr"][1:]).all() and "curvature" in str(found)
    np.testing.assert_allclose(found.best["lr"][0], 1, rtol=1e-12)
    with pytest.raises(ValueError, match="row 1: not positive"):
        hparams.optima(dict(size=[1.0, 1.0]), dict(lr=[1.0, 0.0]), [1.0, 1.0])
    with pytest.raises(ValueError, match="the law needs 4"):
        hparams.fit_step_law(*(c[:200] for c in sweeps()[1]))


def test_published_step_law_and_its_sweeps(table):
    """Means of the published resamples are the published constants; interpolated optima of the runs give exponents
    inside the published 95% intervals."""
    t = table("steplaw_bootstrap_params.csv")
    mean = {k: v.mean() for k, v in t.items()}
    published = hparams.StepLaw()
    np.testing.assert_allclose(np.exp(mean["lr_intercept"]), 1.797, atol=1e-3)
    np.testing.assert_allclose([mean["lr_coefN"], mean["lr_coefD"]], [published.lr_N, published.lr_D], atol=1e-3)
    np.testing.assert_allclose([np.exp(mean["bs_intercept"]), mean["bs_coefD"]], [0.5807, 0.57094], atol=1e-4)
    want = dict(lr_coefN=(-0.774, -0.655), lr_coefD=(0.271, 0.345), bs_coefD=(0.534, 0.606))
    for k, ends in want.items():
        np.testing.assert_allclose(np.percentile(t[k], [2.5, 97.5]), ends, atol=1e-3)
    t = table("steplaw_lr_bsz.csv")
    batch = t["bsz"] * 2048  # sequences of 2048 tokens
    got, _, found = hparams.fit_step_law(t["non_embedding_param_size"], t["data_size"], t["lr"], batch, t["lm_loss"])
    assert found.ok.all() and len(found.ok) == 42
    for k, ends in zip(("lr_N", "lr_D", "batch_D"), want.values(), strict=True):
        assert ends[0] < getattr(got, k) < ends[1], (k, got)  # the lowest run of each grid gives -0.82, 0.29, 0.50


def test_critical_batch_anchors(table):
    t = table("critical_batch_steps.csv")
    got = hparams.measure_critical_batch(t["model_size_M"], t["batch_size_seqs"], t["steps_to_target"])
    np.testing.assert_allclose(got.batch, [745.32, 955.16, 1393.73, 1888.52, 2533.41], atol=0.005)
    law = hparams.growth(got)
    np.testing.assert_allclose([law.theta["A"], -law.theta["alpha"]], [93.196814, 0.468278], rtol=1e-5)
    ahead = hparams.predict_critical_batch(got, 7000.0)
    assert ahead.low[0] < 93.196814 * 7000**0.468278 < ahead.high[0] and ahead.distance[0] > 0


def test_critical_batch_identities():
    """The solver's batch has exactly the overhead asked for; planted exponents come back; steps and tokens."""
    size, batch, steps = [], [], []
    for n in (50.0, 200.0, 800.0):
        b = 2.0 ** np.arange(5, 15)
        size.append(np.full(len(b), n))
        batch.append(b)
        steps.append(300 * n**0.1 * (1 + 20 * n**0.5 / b))
    columns = [np.concatenate(v) for v in (size, batch, steps)]
    got = hparams.measure_critical_batch(*columns)
    np.testing.assert_allclose(got.noise_scale, 20 * np.sqrt(got.size), rtol=1e-7)
    for b, c in zip(got.batch, got.noise_scale, strict=True):
        np.testing.assert_allclose(hparams.overhead(b, 256.0, c), 0.2, rtol=1e-7)
    pure = hparams.measure_critical_batch(*columns, base=1e-9)  # then B* = extra B_c, a pure power law
    np.testing.assert_allclose(-hparams.growth(pure).theta["alpha"], 0.5, rtol=1e-6)
    least, noise, b = got.least_steps[1], got.noise_scale[1], 777.0
    s = least * (1 + noise / b)
    np.testing.assert_allclose((s / least - 1) * (s * b / (least * noise) - 1), 1, rtol=1e-7)
    with pytest.raises(ValueError, match="has 2 batches; the curve needs 3"):
        hparams.measure_critical_batch([1.0, 1.0], [64.0, 128.0], [10.0, 6.0])


def test_critical_batch_of_sgd_on_least_squares():
    """Mean risk of one-pass SGD on a power-law spectrum, in closed recursion: more data to see, larger batches."""
    spectrum, batches, noise = np.arange(1.0, 65) ** -1.5, 4.0 ** np.arange(0, 8), 1.0
    lr = (0.8 * 2.0 ** -np.arange(0, 10))[:, None, None]
    error = np.ones((10, 8, 64))
    curve = []
    for _ in range(3000):
        excess = error @ spectrum
        curve.append(np.minimum(excess, 1e3))
        kick = lr**2 * spectrum * (spectrum * error + excess[..., None] + noise) / batches[:, None]
        error = np.minimum(error * (1 - lr * spectrum) ** 2 + kick, 1e6)
    curve, count, targets = np.array(curve), np.arange(1, 3001), (0.5, 0.25, 0.12)
    best = lambda target, b: min(hparams.steps_to(count, curve[:, i, b], target) for i in range(10))
    steps = [best(target, b) for target in targets for b in range(8)]
    got = hparams.measure_critical_batch(np.repeat(1 / np.array(targets), 8), np.tile(batches, 3), steps, base=1.0)
    assert np.all(np.diff(got.batch) > 0) and got.batch[2] > 1.8 * got.batch[0], got


def test_steps_to_a_target():
    steps = np.arange(1, 2000)
    loss = 3 * steps**-0.2
    np.testing.assert_allclose(hparams.steps_to(steps[9::50], loss[9::50], 1.0), 243, rtol=0.02)
    assert hparams.steps_to(steps, loss, 0.1) == np.inf and hparams.steps_to(steps, loss, 5.0) == 1


def test_power_lr():
    tokens, batch = (a.ravel() for a in np.meshgrid(np.geomspace(1e9, 1e11, 5), [128.0, 512, 1024]))
    got = hparams.fit_power_lr(tokens, batch, hparams.power_lr(tokens, batch, 4.6, -0.51))
    np.testing.assert_allclose([got.a, got.b], [4.6, -0.51], rtol=1e-8)
    assert float(hparams.power_lr(1.0, 1024, 4.6, -0.51, most=0.02)) == 0.02
    with pytest.raises(ValueError, match="must be positive"):
        hparams.power_lr(0.0, 1024, 4.6, -0.51)


class TestBatchRates:
    """The spiked model against random matrices, and what follows for rates."""

    @pytest.mark.parametrize("spike", [3.0, 1.0, 0.4])
    def test_top_eigenvalue_and_its_phase_transition(self, spike):
        P, batch, noise = 600, 4.0, 4.0  # threshold: spike = sqrt(noise / batch) = 1
        rng = np.random.default_rng(0)
        g = rng.standard_normal((P, P))
        wigner = (g + g.T) / np.sqrt(2 * P) * np.sqrt(noise / batch)
        v = rng.standard_normal(P)
        v /= np.linalg.norm(v)
        top = np.linalg.eigvalsh(wigner + spike * np.outer(v, v))[-1]
        spectrum = hparams.Spectrum(spike, noise)
        np.testing.assert_allclose(top, hparams.batch_eigenvalue(spectrum, batch), rtol=0.03)

    def test_rules(self):
        """b' / b for SGD and its root for Adam below the threshold, the same through a spectrum, none far above."""
        assert hparams.scale_lr(0.1, 64, 256, "sgd") == pytest.approx(0.4)
        assert hparams.scale_lr(0.1, 64, 256, "adam") == pytest.approx(0.2)
        noisy = hparams.Spectrum(1e-3, 1.0)
        below = hparams.batch_eigenvalue(noisy, 100.0) / hparams.batch_eigenvalue(noisy, 400.0)
        np.testing.assert_allclose(below, 2, rtol=1e-12)  # the bulk's edge falls with the root of b
        clear = hparams.Spectrum(1.0, 100.0)  # outlier, noise still rules between 100 and 10^4
        for rule, most in (("sgd", 1.01), ("adam", 1.005)):
            assert 1 < hparams.scale_lr(1.0, 1e4, 1e6, rule, clear) < most
        back = hparams.Spectrum.measured(150, float(hparams.batch_eigenvalue(clear, 150)), 900,
                                         float(hparams.batch_eigenvalue(clear, 900)))  # fmt: skip
        np.testing.assert_allclose([back.top, back.noise], [1, 100], rtol=1e-9)
        with pytest.raises(ValueError, match="rules are sgd, adam"):
            hparams.scale_lr(0.1, 1, 2, "lion")
        with pytest.raises(ValueError, match="fit no outlier"):
            hparams.Spectrum.measured(1, 1.0, 2, 5.0)

    def test_descent_diverges_just_above_the_stable_rate(self):
        """On a batch's own quadratic, with the top eigenvalue measured by Lanczos."""
        rng = np.random.default_rng(1)
        x = jnp.asarray(rng.standard_normal((8, 24)), jnp.float32)
        hessian = x.T @ x / 8
        ritz = hparams.lanczos(lambda v: hessian @ v, 24, 20, vectors=2)
        edge = float(hparams.stable_lr(hparams.Spectrum(ritz.top, 0.0), 1.0))
        for factor, grows in ((0.99, False), (1.01, True)):
            move = np.eye(24) - factor * edge * np.asarray(hessian, np.float64)
            far = np.linalg.norm(np.linalg.matrix_power(move, 2000) @ rng.standard_normal(24))
            assert (far > 1e3) == grows


class TestLanczos:
    def net(self):
        rng = np.random.default_rng(0)
        params = dict(w=jnp.asarray(rng.standard_normal((3, 4)), jnp.float32),
                      v=jnp.asarray(rng.standard_normal((4, 1)), jnp.float32))  # fmt: skip
        x, y = (jnp.asarray(rng.standard_normal((16, n)), jnp.float32) for n in (3, 1))
        loss = lambda p, x, y: jnp.mean((jnp.tanh(x @ p["w"]) @ p["v"] - y) ** 2)
        return loss, params, x, y

    def test_ritz_values_are_the_eigenvalues_of_a_network(self):
        loss, params, x, y = self.net()
        product, size = hparams.hessian_vector(loss, params, x, y)
        exact = np.linalg.eigvalsh(np.asarray(jax.vmap(product)(jnp.eye(size)), np.float64))
        ritz = hparams.lanczos(product, size, size, vectors=1)
        np.testing.assert_allclose(ritz.values[0], exact, atol=2e-5 * np.abs(exact).max())
        np.testing.assert_allclose([ritz.top, ritz.bottom], exact[[-1, 0]], atol=1e-5 * np.abs(exact).max())

    def test_quadrature_is_exact_for_moments_and_a_density(self):
        rng = np.random.default_rng(2)
        a = rng.standard_normal((60, 60))
        a = (a + a.T) / 2
        product = lambda v: jnp.asarray(a, v.dtype) @ v
        with jax.enable_x64(True):
            ritz = hparams.lanczos(product, 60, 8, vectors=40)
        np.testing.assert_allclose(ritz.moment(2), np.trace(a @ a) / 60, rtol=0.15)
        at = np.linspace(-14, 14, 400)
        np.testing.assert_allclose(np.sum(hparams.density(ritz, at, 0.5)) * (at[1] - at[0]), 1, rtol=1e-3)
        np.testing.assert_allclose(ritz.weights.sum(1), 1, rtol=1e-12)

    def test_an_exhausted_space_invents_nothing(self):
        """Three distinct eigenvalues: three Ritz values, however many steps."""
        d = np.repeat([1.0, 2.0, 5.0], 10).astype(np.float32)
        ritz = hparams.lanczos(lambda v: d * v, 30, 12, vectors=2)
        live = ritz.weights > 1e-6
        assert live.sum(1).tolist() == [3, 3]
        np.testing.assert_allclose(ritz.values[live].reshape(2, 3), [[1, 2, 5]] * 2, rtol=1e-5)
        with pytest.raises(ValueError, match="from 1 to the size 30"):
            hparams.lanczos(lambda v: v, 30, 31)


def test_hparams_on_the_command_line(capsys, tmp_path):
    assert main(["hparams", "--N", "7e9", "--D", "1.4e12"]) == 0
    text = capsys.readouterr().out
    want = hparams.step_law(7e9, 1.4e12)
    assert f"{want['lr']:.4g}" in text and f"{want['batch']:.4g}" in text and "93.2" in text
    _, columns = sweeps()
    rows = ["N,D,lr,batch,loss", *(",".join(map(repr, row)) for row in columns.T.tolist())]
    (tmp_path / "sweeps.csv").write_text("\n".join(rows))
    assert main(["hparams", "--N", "1e9", "--D", "1e11", "--sweeps", str(tmp_path / "sweeps.csv")]) == 0
    assert "0.3000" in capsys.readouterr().out
    assert main(["hparams", "--N", "-1", "--D", "1e11"]) == 2
