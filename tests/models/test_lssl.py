"""Linear state spaces with HiPPO-LegS: the step without matrices, convolution and recurrence, gates and time scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts, whole
from jaxlib_ext.kernels.lti import gbt, legs, legs_matrices, legs_step, lti, matrices
from jaxlib_ext.models.token_mixers import Lssl
from jaxlib_ext.testing.verdict import apart, draw

D, T = 6, 150
START = np.zeros((2, T), bool)
START[:, 0] = START[0, 67] = True
SEQ = from_starts(START)
X = jax.random.normal(jax.random.key(1), (2, T, D))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.7, 1.0])
def test_running_sums_are_the_step_of_the_dense_matrices(alpha):
    n, dt = 24, np.array([0.003, 0.07, 0.4], np.float32)
    a, b = legs_matrices(jnp.asarray(dt), n, alpha)
    for c in range(3):
        theirs = gbt(*legs(n), float(dt[c]), alpha)
        assert apart((a[c], b[c]), tuple(jnp.asarray(v, jnp.float32) for v in theirs)) < 1e-5


def test_the_matrix_is_that_of_the_formula():
    a, b = legs(5)
    for i in range(5):
        assert b[i] == np.sqrt(2 * i + 1)
        for j in range(5):
            below = -np.sqrt((2 * i + 1) * (2 * j + 1))
            assert a[i, j] == pytest.approx(below if i > j else -(i + 1) if i == j else 0.0)


def test_chunks_and_recurrence_are_the_dense_toeplitz_matrix_of_the_krylov_kernel():
    """Of 64 numbers a feature, in float64, without the skip that would outweigh them."""
    mixer = Lssl(D, n=64)
    params = draw(mixer.decl(), jax.random.key(0)) | dict(skip=jnp.zeros(D))
    dt, c = jnp.exp(params["log_dt"]), np.float64(params["c"])
    doc, lag = np.asarray(SEQ.doc), np.arange(T)[:, None] - np.arange(T)[None]
    wanted = np.zeros((2, T, D))
    for d in range(D):
        a, b = gbt(*legs(64), float(dt[d]))
        taps = [b]
        for _ in range(T - 1):
            taps.append(a @ taps[-1])
        taps = np.array(taps) @ c[d]
        for r in range(2):
            seen = (lag >= 0) & (doc[r][:, None] == doc[r][None])
            wanted[r, :, d] = np.where(seen, taps[np.maximum(lag, 0)], 0.0) @ np.float64(X[r, :, d])
    mask, zero = jnp.ones((2, T), bool), jnp.zeros((2, D, 64))
    system = lambda: matrices(*legs_matrices(dt, 64, 0.5), params["c"], params["skip"])
    y, _ = jax.jit(lambda: lti(X, zero, SEQ.start, mask, system()))()

    def token(x, row):
        u, start = row
        x = legs_step(jnp.where(start[:, None, None], 0.0, x), u, dt, 0.5)
        return x, jnp.sum(x * params["c"][None], -1)

    _, folded = jax.jit(lambda: jax.lax.scan(token, zero, (jnp.moveaxis(X, 1, 0), SEQ.start.T)))()
    assert apart(y, jnp.asarray(wanted, jnp.float32)) < 1e-5
    assert apart(jnp.moveaxis(folded, 0, 1), jnp.asarray(wanted, jnp.float32)) < 1e-5


def test_one_number_and_the_backward_method_are_the_gate_of_an_rnn():
    """N = 1 has A = -1 and B = 1: with dt = exp(z), x_t = (1 - s) x_{t-1} + s u_t and s = sigmoid(z)."""
    z = jax.random.normal(jax.random.key(0), (D,))
    x, u = jax.random.normal(jax.random.key(1), (2, D, 1)), jax.random.normal(jax.random.key(2), (2, D))
    s = jax.nn.sigmoid(z)[None]
    gated = (1 - s) * x[..., 0] + s * u
    assert apart(legs_step(x, u, jnp.exp(z), 1.0)[..., 0], gated) < 1e-6


def test_twice_the_time_step_at_half_the_rate_gives_the_same_output_of_smooth_inputs():
    errors = []
    for fine in (1, 2):  # a grid and one twice as fine
        n = 200 * fine
        u = jnp.sin(2 * jnp.pi * jnp.arange(n) / (80 * fine))[None, :, None]
        row = jnp.ones((1, n), bool)
        system = lambda dt: matrices(*legs_matrices(jnp.full(1, dt), 8, 0.5), jnp.ones((1, 8)), jnp.zeros(1))
        y = lti(u, jnp.zeros((1, 1, 8)), ~row, row, system(0.02 / fine))[0][0, 1::2, 0]
        half = lti(u[:, 1::2], jnp.zeros((1, 1, 8)), ~row[:, 1::2], row[:, 1::2], system(0.04 / fine))[0][0, :, 0]
        errors.append(float(apart(half, y)))
    assert errors[0] < 0.05 and errors[1] < 0.7 * errors[0], errors


def test_a_feature_reads_itself_alone_before_the_mixing():
    mixer = Lssl(D, n=4)
    params = draw(mixer.decl(), jax.random.key(0)) | dict(out=jnp.eye(D))
    run = lambda x: mixer.scan(params, x, param.zeros(mixer.state(1, 0)), whole(1, 9))[0][0, -1]
    reach = np.abs(jax.jit(jax.jacobian(run))(X[:1, :9]))[:, 0].max(1)  # [D out, D in]
    assert (np.diag(reach) > 0).all() and (reach - np.diag(np.diag(reach)) == 0).all()


def test_decoding_costs_the_same_after_any_number_of_tokens():
    mixer = Lssl(16, n=8)
    assert mixer.cost(1, 1024) == mixer.cost(1, 16384) == (2 * 16 * 8, 4 * 16 * 8)
    assert param.nbytes(mixer.state(1, 1024)) == param.nbytes(mixer.state(1, 16384)) == 4 * 16 * 8


BAD = {
    "lssl: n must be at least 1, not 0": dict(n=0),
    "lssl: low=0.2 is above high=0.1": dict(low=0.2),
    "lssl: alpha must be in [0, 1], not 2.0": dict(alpha=2.0),
    "lssl: unstable, (1 - 2 alpha) high n must be at most 2; alpha=0.0, high=0.1, n=32": dict(alpha=0.0),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_options_say_what_is_wrong(said):
    with pytest.raises(ValueError) as error:
        Lssl(D, **BAD[said])
    assert str(error.value) == said
