"""The Legendre memory: its matrices, chunks against FFT and recurrence, and what it remembers."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_ext import param
from jaxlib_ext.kernels.lmu import continuous, discrete, memory
from jaxlib_ext.models.token_mixers import LmuFormer
from jaxlib_ext.testing.verdict import apart

B, T, C, Q, THETA = 2, 75, 2, 6, 20.0


def test_the_matrices_are_those_of_the_formula_and_of_scipy():
    from scipy.signal import cont2discrete

    a, b = continuous(Q, THETA)
    for i in range(Q):
        assert b[i] == (2 * i + 1) * (-1) ** i / THETA
        for j in range(Q):
            assert a[i, j] == (2 * i + 1) / THETA * (-1 if i < j else (-1.0) ** (i - j + 1))
    by_scipy = cont2discrete((a, b[:, None], np.ones((1, Q)), np.zeros((1, 1))), 1.0, method="zoh")
    ours = discrete(Q, THETA)
    np.testing.assert_allclose(ours[0], by_scipy[0], atol=1e-12)
    np.testing.assert_allclose(ours[1], by_scipy[1][:, 0], atol=1e-12)


def test_chunks_equal_the_recurrence_in_values_state_and_gradients():
    keys = iter(jax.random.split(jax.random.key(0), 2))
    u, state = jax.random.normal(next(keys), (B, T, C)), jax.random.normal(next(keys), (B, C, Q))
    start = jnp.zeros((B, T), bool).at[0, 0].set(True).at[0, 41].set(True)
    mask = jnp.ones((B, T), bool).at[0, 36:41].set(False).at[1, 70:].set(False)
    a, b = (jnp.asarray(v, jnp.float32) for v in discrete(Q, THETA))

    def recurrence(u, state):
        def body(m, x):
            u, start, mask = x
            m = jnp.where(start[:, None, None], 0.0, m)
            m = jnp.where(mask[:, None, None], m @ a.T + u[..., None] * b[None, None], m)
            return m, m

        last, m = jax.lax.scan(body, state, tuple(jnp.moveaxis(v, 1, 0) for v in (u, start, mask)))
        return jnp.where(mask[..., None, None], jnp.moveaxis(m, 0, 1), 0.0), last

    def chunks(u, state):
        m, last = memory(u, state, start, mask, theta=THETA)
        return jnp.where(mask[..., None, None], m, 0.0), last

    score = lambda f: lambda *x: sum(jnp.sum(jnp.sin(v)) for v in f(*x))
    both = lambda f: (f(u, state), jax.grad(score(f), argnums=(0, 1))(u, state))
    assert apart(*jax.jit(lambda: (both(chunks), both(recurrence)))()) < 1e-5


def test_one_document_is_a_convolution_by_fft_with_the_impulse_response():
    u = jax.random.normal(jax.random.key(1), (B, T, C))
    a, b = discrete(Q, THETA)
    response = np.stack([np.linalg.matrix_power(a, t) @ b for t in range(T)])
    by_fft = np.fft.irfft(
        np.fft.rfft(u, 2 * T, 1)[..., None] * np.fft.rfft(response, 2 * T, 0)[None, :, None], 2 * T, 1
    )
    all_ = jnp.ones((B, T), bool)
    m, _ = jax.jit(lambda: memory(u, jnp.zeros((B, C, Q)), ~all_, all_, theta=THETA))()
    assert apart(m, jnp.asarray(by_fft[:, :T], jnp.float32)) < 1e-5


def test_shifted_legendre_polynomials_read_delayed_inputs_better_with_a_higher_order():
    time, theta = 300, 60.0
    t = np.arange(time)
    u = np.sin(2 * np.pi * t / 70) + 0.5 * np.cos(2 * np.pi * t / 45)
    errors = []
    for order in (4, 8, 12):
        row = jnp.ones((1, time), bool)
        m, _ = memory(jnp.asarray(u, jnp.float32)[None, :, None], jnp.zeros((1, 1, order)), ~row, row, theta=theta)
        worst = 0.0
        for delay in (6, 15, 30, 45, 54):
            basis = np.polynomial.legendre.legvander([2 * delay / theta - 1], order - 1)[0]
            read = np.asarray(m)[0, :, 0] @ basis
            # The input is held over a step, so that the memory of step t ends half a step later than u_t on average.
            wanted = np.interp(t - delay + 0.5, t, u)
            worst = max(worst, np.abs(read - wanted)[150:].max())
        errors.append(worst)
    assert errors[0] > 5 * errors[1] and errors[1] > errors[2] and errors[2] < 0.01, errors


def test_decoding_costs_the_same_after_any_number_of_tokens():
    mixer = LmuFormer(16, order=8, signals=3)
    assert mixer.cost(1, 1024) == mixer.cost(1, 16384) == (2 * 3 * 8 * 8, 4 * 3 * 8)
    assert param.nbytes(mixer.state(1, 1024)) == param.nbytes(mixer.state(1, 16384)) == 4 * 3 * 8
