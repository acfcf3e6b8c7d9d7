"""What recurrent mixers start with, against what their authors' code draws: decays, time steps, ranks, gains."""

import jax
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.models.token_mixers import GatedDeltaNet, Lssl, Mamba, Mamba2, Rwkv7

N = 2048  # numbers drawn: the largest distance of their distribution from the one meant is below 0.05, see `uniform`


def start(mixer, *names):
    """The parameters of those names, float64."""
    decl = mixer.decl()
    params = jax.jit(lambda key: param.init({n: decl[n] for n in names}, key))(jax.random.key(0))
    return [np.asarray(params[n], np.float64) for n in names]


def uniform(drawn, low, high):
    """Whether numbers are uniform in [low, high], by Kolmogorov and Smirnov: 2.2 / sqrt(N) is passed once in 10^4."""
    drawn = np.sort(drawn.ravel())
    share = (drawn - low) / (high - low)
    assert len(drawn) >= N and share[0] > -1e-5 and share[-1] < 1 + 1e-5
    return np.abs(share - (np.arange(len(drawn)) + 0.5) / len(drawn)).max() < 2.2 / len(drawn) ** 0.5


@pytest.mark.parametrize("mixer", [Mamba(N // 2), Mamba2(N, head_dim=2), GatedDeltaNet(4 * N, heads=N)])
def test_time_steps_start_log_uniform_between_a_thousandth_and_a_tenth(mixer):
    """dt = softplus(bias), as in Gu and Dao's, Dao and Gu's and Yang's code."""
    (bias,) = start(mixer, "dt_bias")
    dt = np.log1p(np.exp(bias))
    assert uniform(np.log(dt), np.log(1e-3), np.log(0.1))
    assert not uniform(dt, 1e-3, 0.1)


def test_lssls_steps_start_log_uniform_between_a_thousandth_and_a_tenth():
    (log_dt,) = start(Lssl(N), "log_dt")
    assert uniform(log_dt, np.log(1e-3), np.log(0.1))


def test_mambas_decays_start_as_1_to_n_in_every_channel():
    """S4D-Real: A = -(1, ..., N); and D = 1."""
    a_log, skip = start(Mamba(8, n=5), "a_log", "skip")
    np.testing.assert_allclose(np.exp(a_log), np.broadcast_to(np.arange(1, 6), (16, 5)), rtol=1e-6)
    assert (skip == 1).all()


@pytest.mark.parametrize(("mixer", "low"), [(Mamba2(N, head_dim=2), 1), (GatedDeltaNet(4 * N, heads=N), 0)])
def test_decays_of_heads_start_uniform_up_to_16(mixer, low):
    """From 1 in Dao and Gu's code, from 0 in Yang's."""
    a = np.exp(start(mixer, "a_log")[0])
    assert uniform(a, low, 16)


def test_mamba2s_skip_and_norm_start_at_1():
    skip, norm, bias = start(Mamba2(16, head_dim=8, n=4), "skip", "norm", "conv_bias")
    assert (skip == 1).all() and (norm == 1).all() and (bias == 0).all()


RANKS = {  # of BlinkDL's suggestions, worked out by hand for the widths of released models
    768: dict(w=64, a=64, v=32, g=128),
    1024: dict(w=64, a=64, v=32, g=160),
    2048: dict(w=96, a=96, v=64, g=256),
    4096: dict(w=128, a=128, v=96, g=480),
}


@pytest.mark.parametrize("width", RANKS)
def test_rwkv7s_ranks_are_the_authors(width):
    """max(32, 32 round(1.8 sqrt(D) / 32)) for w and a, 1.3 sqrt(D) for v, 0.6 D^0.8 for g."""
    assert Rwkv7(width, residual=True).ranks == RANKS[width]
    assert Rwkv7(width).ranks == {n: r for n, r in RANKS[width].items() if n != "v"}
    assert Rwkv7(width, decay_rank=5).ranks["w"] == 5


def test_rwkv7_starts_as_its_header_says():
    names = ("w_bias", "a_bias", "v_bias", "kappa", "alpha", "rho", "norm", "mix")
    w, a, v, kappa, alpha, rho, norm, mix = start(Rwkv7(128, residual=True), *names)
    np.testing.assert_allclose(w, np.broadcast_to(np.linspace(-6, 1, 64), (2, 64)), atol=1e-6)
    decay = np.exp(-np.exp(-0.5) / (1 + np.exp(-w)))
    assert 0.998 < decay.max() < 0.999 and 0.64 < decay.min() < 0.65  # memories of 2 to 700 tokens
    assert (a == 0).all() and (v == 1).all() and np.allclose(kappa, 0.85) and (alpha == 1).all()
    assert (rho == 0).all() and (norm == 1).all() and (mix == 0.5).all()
    (up,) = start(Rwkv7(1024), "w_up")
    assert abs(np.std(up) / (0.1 * 64**-0.5) - 1) < 0.02
