"""Time-invariant recurrences in chunks against the plain loop, and how their tables and matrices are made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext.kernels.lmu import continuous
from jaxlib_ext.kernels.long_conv import long_conv
from jaxlib_ext.kernels.lti import gbt, krylov, lti, matrices, modal, powers
from jaxlib_ext.testing.verdict import apart

B, T, C, S = 2, 150, 3, 4


def sequence():
    """Documents that begin in the call, inside a chunk and at its end, with pads between and after them."""
    start, mask = np.zeros((B, T), bool), np.ones((B, T), bool)
    start[0, [0, 64, 100]] = start[1, 90] = True
    mask[0, 92:100] = mask[0, 140:] = mask[1, 85:90] = False
    return jnp.asarray(start), jnp.asarray(mask)


def system(kind: str):
    """What makes a System of arrays, those arrays, and one token of the recurrence with them."""
    keys = iter(jax.random.split(jax.random.key(5), 6))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    if kind == "modal":
        arrays = (0.3 * jnp.exp(normal(C, 2)), normal(C, 2), normal(C, 2), normal(C, 2), normal(C))

        def token(s, u, rate, angle, re, im, skip):
            y = jnp.sum(re[None] * s[..., :2] - im[None] * s[..., 2:], -1) + skip[None] * u
            x = jax.lax.complex(s[..., :2], s[..., 2:]) * jnp.exp(jax.lax.complex(-rate, angle))[None] + u[..., None]
            return jnp.concatenate([x.real, x.imag], -1), y

        return modal, arrays, token
    a = np.array(normal(C, S, S))
    a = jnp.asarray(0.9 * a / np.abs(np.linalg.eigvals(a)).max(-1)[:, None, None])  # stable
    arrays = (a, normal(C, S), normal(C, S), normal(C))

    def token(s, u, a, b, c, skip):
        s = jnp.einsum("cij,bcj->bci", a, s) + b[None] * u[..., None]
        return s, jnp.sum(c[None] * s, -1) + skip[None] * u

    return matrices, arrays, token


@pytest.mark.parametrize("kind", ["modal", "matrices"])
@pytest.mark.parametrize("time", [T, 20])
def test_chunks_equal_the_recurrence_in_values_states_and_gradients(kind, time):
    make, arrays, token = system(kind)
    start, mask = (v[:, :time] for v in sequence())
    u, state = jax.random.normal(jax.random.key(1), (B, time, C)), jax.random.normal(jax.random.key(2), (B, C, S))

    def recurrence(u, state, *arrays):
        def body(s, row):
            u, start, mask = row
            old = jnp.where(start[:, None, None], 0.0, s)
            s, y = token(old, u, *arrays)
            return jnp.where(mask[:, None, None], s, old), jnp.where(mask[:, None], y, 0.0)

        last, y = jax.lax.scan(body, state, tuple(jnp.moveaxis(v, 1, 0) for v in (u, start, mask)))
        return jnp.moveaxis(y, 0, 1), last

    def chunks(u, state, *arrays):
        y, last = lti(jnp.where(mask[..., None], u, 0.0), state, start, mask, make(*arrays))
        return jnp.where(mask[..., None], y, 0.0), last

    score = lambda f: lambda *a: sum(jnp.sum(jnp.sin(v)) for v in f(*a))
    inputs = (u, state, *arrays)
    both = lambda f: (f(*inputs), jax.grad(score(f), argnums=tuple(range(len(inputs))))(*inputs))
    assert apart(*jax.jit(lambda: (both(chunks), both(recurrence)))()) < 1e-5


def test_pads_alone_leave_the_state_as_it_was():
    make, arrays, _ = system("matrices")
    state, none = jax.random.normal(jax.random.key(2), (B, C, S)), jnp.zeros((B, 70), bool)
    assert jnp.array_equal(lti(jnp.zeros((B, 70, C)), state, none, none, make(*arrays))[1], state)


@pytest.mark.parametrize("kind", ["modal", "matrices"])
@pytest.mark.parametrize("form", ["direct", "toeplitz", "fft"])
def test_the_recurrence_is_a_convolution_with_the_krylov_kernel(kind, form):
    make, arrays, _ = system(kind)
    start, mask = sequence()[0], jnp.ones((B, T), bool)
    u = jax.random.normal(jax.random.key(1), (B, T, C))
    taps = make(*arrays, chunk=256).response[:T]
    y, _ = jax.jit(lambda: lti(u, jnp.zeros((B, C, S)), start, mask, make(*arrays)))()
    assert apart(y, long_conv(u, taps, start, implementation=form)) < 1e-5


def test_krylov_vectors_by_squares_are_the_powers_one_by_one():
    a, b = 0.4 * jax.random.normal(jax.random.key(0), (C, S, S)), jax.random.normal(jax.random.key(1), (C, S))
    naive = np.stack([np.stack([np.linalg.matrix_power(np.float64(m), j) @ v for m, v in zip(a, b, strict=True)])
                      for j in range(32)])  # fmt: skip
    assert apart(krylov(powers(a, 5), b), jnp.asarray(naive, jnp.float32)) < 1e-5


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.7, 1.0])
def test_the_generalised_bilinear_transform_is_scipys(alpha):
    from scipy.signal import cont2discrete

    a, b = continuous(6, 20.0)
    theirs = cont2discrete((a, b[:, None], np.ones((1, 6)), np.zeros((1, 1))), 0.3, method="gbt", alpha=alpha)
    ours = gbt(a, b, 0.3, alpha)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-12)
    np.testing.assert_allclose(ours[1], theirs[1][:, 0], atol=1e-12)


def test_the_state_of_hippo_legt_reads_the_window_by_legendre_polynomials():
    time, theta, order = 300, 60.0, 12
    t = np.arange(time)
    u = np.sin(2 * np.pi * t / 70) + 0.5 * np.cos(2 * np.pi * t / 45)
    a, b = gbt(*continuous(order, theta), 1.0)
    worst = 0.0
    for delay in (6, 15, 30, 45, 54):
        basis = np.polynomial.legendre.legvander([2 * delay / theta - 1], order - 1)[0]
        made = matrices(*(jnp.asarray(v, jnp.float32)[None] for v in (a, b, basis)), jnp.zeros(1))
        row = jnp.ones((1, time), bool)
        read, _ = lti(jnp.asarray(u, jnp.float32)[None, :, None], jnp.zeros((1, 1, order)), ~row, row, made)
        wanted = np.interp(t - delay + 0.5, t, u)  # an input is held over its step
        worst = max(worst, np.abs(np.asarray(read)[0, :, 0] - wanted)[150:].max())
    assert worst < 0.02, worst
