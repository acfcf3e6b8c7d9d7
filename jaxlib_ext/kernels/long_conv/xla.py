"""Three forms of a long causal convolution within documents.

Tokens are halved and halved again: what the first half of a block of 2 m tokens adds to its second half is one product
with the filter's Toeplitz matrix of lags 1 .. 2 m - 1, by a matrix product or by transforms of 2 m. Only the document
that is open at the cut between the halves takes part, so zeros stand for all others before anything is summed.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..exact import einsum
from ..short_conv import convolve

Array = jax.Array
BASE = 16  # tokens of a block that is summed tap by tap
BLOCK = 64  # tokens of a block of the Toeplitz form


def direct(x: Array, taps: Array, start: Array) -> Array:
    """The sum as it is written: the reference of the other forms."""
    t, reach = x.shape[1], taps.shape[0]
    doc, place = jnp.cumsum(start.astype(jnp.int32), 1), jnp.arange(t)
    lag = place[:, None] - place[None]
    seen = (doc[:, :, None] == doc[:, None, :]) & ((lag >= 0) & (lag < reach))[None]
    terms = taps[jnp.clip(lag, 0, reach - 1)][None] * x[:, None]
    return jnp.sum(jnp.where(seen[..., None], terms, 0.0), 2)


def toeplitz(x: Array, taps: Array, start: Array) -> Array:
    """Products with blocks of the filter's matrix throughout."""
    y = within(x, taps, start, BLOCK)
    return y + _between(x, taps, start) if x.shape[1] > BLOCK else y


def fft(x: Array, taps: Array, start: Array) -> Array:
    """One transform where every row is one document from its first token on, which is known in the call alone; blocks
    near the diagonal and transforms for larger halves where it is not."""
    return jax.lax.cond(jnp.any(start[:, 1:]), _halved, _whole, x, taps, start)


def _whole(x: Array, taps: Array, _: Array) -> Array:
    t, reach = x.shape[1], min(x.shape[1], taps.shape[0])
    n = 1 << (t + reach - 2).bit_length()
    spectrum = jnp.fft.rfft(x, n, 1) * jnp.fft.rfft(taps[:reach], n, 0)[None]
    return jnp.fft.irfft(spectrum, n, 1)[:, :t]


def _halved(x: Array, taps: Array, start: Array) -> Array:
    y, m = within(x, taps, start, BLOCK), BLOCK
    while m < x.shape[1]:
        y, m = y + _halves(x, taps, start, m, _by_transforms), 2 * m
    return y


def within(x: Array, taps: Array, start: Array, block: int) -> Array:
    """The same sum over inputs of the output's own block, blocks [0, block), [block, 2 block) ...; a power of 2."""
    y, m = _base(x, taps, start, min(BASE, block)), BASE
    while m < min(block, x.shape[1]):
        y, m = y + _halves(x, taps, start, m, _by_matrix), 2 * m
    return y


def _base(x: Array, taps: Array, start: Array, size: int) -> Array:
    """Blocks of a few tokens, tap by tap; a block begins where a document does and at multiples of size."""
    width = min(size, taps.shape[0])
    piece = jnp.cumsum((start | (jnp.arange(x.shape[1]) % size == 0)[None]).astype(jnp.int32), 1)
    before = lambda a: jnp.pad(a, ((0, 0), (width - 1, 0)) + ((0, 0),) * (a.ndim - 2))
    return convolve(before(x), taps[:width][::-1].T, before(piece), piece)


def in_blocks(a: Array, size: int) -> Array:
    """[B, T, ...] -> [B, N, size, ...] with zeros at the end."""
    b, t, *rest = a.shape
    n = -(-t // size)
    return jnp.pad(a, ((0, 0), (0, n * size - t)) + ((0, 0),) * len(rest)).reshape(b, n, size, *rest)


def _lags(taps: Array, n: int) -> Array:
    """The first n taps, with zeros beyond the filter's reach."""
    return jnp.pad(taps[:n], ((0, max(0, n - taps.shape[0])), (0, 0)))


def _halves(x: Array, taps: Array, start: Array, m: int, product: Callable) -> Array:
    """What first halves of blocks of 2 m tokens add to second halves [B, T, C]."""
    (b, t, c), reach = x.shape, m
    while reach // 2 >= taps.shape[0]:
        reach //= 2  # tokens on either side of the cut that lie within the filter's reach
    doc, rows = in_blocks(jnp.cumsum(start.astype(jnp.int32), 1), 2 * m), in_blocks(x, 2 * m)
    cut_doc, before, after = doc[:, :, m - 1 : m], slice(m - reach, m), slice(m, m + reach)
    early = jnp.where((doc[:, :, before] == cut_doc)[..., None], rows[:, :, before], 0.0)
    late = product(early, _lags(taps, 2 * reach))
    late = jnp.where((doc[:, :, after] == cut_doc)[..., None], late, 0.0)
    return jnp.pad(late, ((0, 0), (0, 0), (m, m - reach), (0, 0))).reshape(b, -1, c)[:, :t]


def _by_matrix(early: Array, taps: Array) -> Array:
    """y_l = sum_k taps_{m+l-k} early_k: early [B, N, m, C], taps [2 m, C] -> [B, N, m, C]."""
    return einsum("clk,bnkc->bnlc", _hankel(taps[1:].T), early[:, :, ::-1])


def _by_transforms(early: Array, taps: Array) -> Array:
    """The same: none of the lags wraps around a transform of 2 m."""
    m = early.shape[2]
    spectrum = jnp.fft.rfft(early, 2 * m, 2) * jnp.fft.rfft(taps, 2 * m, 0)[None, None]
    return jnp.fft.irfft(spectrum, 2 * m, 2)[:, :, m:]


@jax.custom_vjp
def _hankel(v: Array) -> Array:
    """v [C, 2 m - 1] -> [C, m, m] with entries v_{l+k}, of copies and slices alone."""
    m = (v.shape[1] + 1) // 2
    rows = jnp.tile(jnp.pad(v, ((0, 0), (0, 1))), (1, m + 1))[:, : m * (2 * m + 1)]
    return rows.reshape(-1, m, 2 * m + 1)[:, :, :m]


def _sums(_, d: Array) -> tuple[Array]:
    """Row by row; left to jax, copies become sums over strides, which take a hundred times as long on a CPU."""
    c, m, _ = d.shape

    def add(total, row):
        at, values = row
        values = values + jax.lax.dynamic_slice_in_dim(total, at, m, 1)
        return jax.lax.dynamic_update_slice_in_dim(total, values, at, 1), None

    return (jax.lax.scan(add, jnp.zeros((c, 2 * m - 1), d.dtype), (jnp.arange(m), jnp.moveaxis(d, 1, 0)))[0],)


_hankel.defvjp(lambda v: (_hankel(v), None), _sums)


def _between(x: Array, taps: Array, start: Array) -> Array:
    """What blocks add to later blocks, one distance between blocks after the other [B, T, C]."""
    (b, t, c), k = x.shape, BLOCK
    doc, rows = in_blocks(jnp.cumsum(start.astype(jnp.int32), 1), k), in_blocks(x, k)
    n = rows.shape[1]
    last = doc[..., -1]
    before = jnp.pad(last[:, :-1], ((0, 0), (1, 0)), constant_values=-1)  # document open where a block begins
    early = jnp.where((doc == last[..., None])[..., None], rows, 0.0)[:, :, ::-1]
    early = jnp.pad(early.transpose(3, 2, 0, 1), ((0, 0),) * 3 + ((n, 0),))  # [C, K, B, 2 N], nothing before the first
    ends = jnp.pad(last, ((0, 0), (n, 0)), constant_values=-2)
    lags = _lags(taps, (n + 1) * k).T

    @jax.checkpoint
    def at(early, lags, d):
        matrix = _hankel(jax.lax.dynamic_slice_in_dim(lags, (d - 1) * k + 1, 2 * k - 1, 1))
        theirs = jax.lax.dynamic_slice_in_dim(early, n - d, n, 3)
        same = jax.lax.dynamic_slice_in_dim(ends, n - d, n, 1) == before
        return jnp.where(same[None, None], einsum("clk,ckbn->clbn", matrix, theirs), 0.0)

    distances = jnp.arange(1, min(n - 1, (taps.shape[0] - 2) // k + 1) + 1)
    y, _ = jax.lax.scan(lambda y, d: (y + at(early, lags, d), None), jnp.zeros((c, k, b, n)), distances)
    y = jnp.where((doc == before[..., None])[..., None], y.transpose(2, 3, 1, 0), 0.0)
    return y.reshape(b, n * k, c)[:, :t]
