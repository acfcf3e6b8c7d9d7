"""The short convolution in bfloat16: one rounding, the same in a scan and in steps, and nothing wide kept."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_ext.contracts import from_starts
from jaxlib_ext.kernels.short_conv import convolve, short_conv, short_conv_step

B, T, C, W = 2, 100, 64, 4
KEYS = jax.random.split(jax.random.key(0), 4)
X, DY = (jax.random.normal(key, (B, T, C), jnp.bfloat16) for key in KEYS[:2])
TAPS, HELD = jax.random.normal(KEYS[2], (C, W), jnp.bfloat16), jax.random.normal(KEYS[3], (B, W - 1, C))
SEQ = from_starts(jnp.zeros((B, T), bool).at[0, [0, 41]].set(True))
wide = lambda a: np.asarray(a.astype(jnp.float32), np.float64)


def test_scan_and_step_agree_bit_for_bit_in_bfloat16():
    def token(held, row):
        x, seq = row
        y, held = short_conv_step(x, TAPS, held, seq)
        return held, y

    rows = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (X, SEQ))
    last, y = jax.jit(lambda: jax.lax.scan(token, HELD, rows))()
    scanned, held = jax.jit(lambda: short_conv(X, TAPS, HELD, SEQ))()
    assert scanned.dtype == y.dtype == jnp.bfloat16
    assert jnp.array_equal(jnp.moveaxis(y, 0, 1), scanned) and jnp.array_equal(last, held)


def test_outputs_and_their_gradients_are_exact_sums_rounded_once():
    """To the nearest of bfloat16's 8 digits, an error of at most 2^-8 of the value, beside W roundings of the largest
    term in float32, which has 24."""
    doc = jnp.zeros((B, T), jnp.int32)
    seen = jnp.concatenate([HELD.astype(X.dtype), X], 1)
    theirs = jnp.zeros(seen.shape[:2], jnp.int32)
    y, pull = jax.jit(lambda: jax.vjp(lambda seen: convolve(seen, TAPS, theirs, doc), seen))()
    taps, late = wide(TAPS), np.pad(wide(DY), ((0, 0), (W - 1, W - 1), (0, 0)))
    exact_y = sum(wide(seen)[:, j : j + T] * taps[:, j] for j in range(W))
    exact_dx = sum(late[:, W - 1 - j : 2 * W - 2 - j + T] * taps[:, j] for j in range(W))
    for got, exact in ((y, exact_y), (pull(DY)[0], exact_dx)):
        largest = max(np.abs(wide(X)).max(), np.abs(late).max()) * np.abs(taps).max()
        assert (np.abs(wide(got) - exact) <= 2.0**-8 * np.abs(exact) + W * 2.0**-24 * largest).all()


def test_the_gradient_keeps_its_inputs_alone_and_in_their_dtype():
    _, pull = jax.vjp(lambda x, taps: short_conv(x, taps, HELD, SEQ)[0], X, TAPS)
    kept = [a for a in jax.tree.leaves(pull) if jnp.issubdtype(a.dtype, jnp.floating)]
    assert all(a.dtype == jnp.bfloat16 for a in kept)
    assert sum(a.size for a in kept) <= (T + W - 1) * B * C + HELD.size + TAPS.size
