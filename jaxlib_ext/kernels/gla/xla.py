"""Chunked form: the pairs inside a chunk by halves, see `pairs`; the states between chunks by their sums."""

import jax
import jax.numpy as jnp

from ..chunks import Documents, Transition, masked
from ..chunks import chunked as chunks
from ..pairs import pairs

Array = jax.Array
CHUNK = 32


def _local(inputs: tuple[Array, ...], docs: Documents) -> tuple:
    """q, k, g [n, B, H, C, K], v [n, B, H, C, V]."""
    q, k, v, g = inputs
    scores, back, push, total = pairs(q[..., None, :, :], k[..., None, :, :], g)
    y = masked(docs.seen, scores[..., 0, 0, :, :]) @ v
    push = masked(docs.open, jnp.swapaxes(push[..., 0, :, :], -1, -2))  # [n, B, H, K, C]
    back = jnp.where(docs.old[:, :, None, :, None], back[..., 0, :, :], 0.0)
    decay = jnp.where(docs.through[:, :, None, None], total, 0.0)
    return y, (decay, push @ v), back


def _carry(s: Array, moves: tuple[Array, Array]) -> tuple[Array, Array]:
    decay, added = moves
    return s * decay[..., None] + added, s


def _read(back: Array, before: Array) -> Array:
    return back @ before


def chunked(q: Array, k: Array, v: Array, g: Array, state: Array, start: Array) -> tuple[Array, Array]:
    g = jnp.where(start[:, :, None, None], 0.0, g)  # what a start forgets is said by the documents
    chunk = min(CHUNK, 1 << (start.shape[1] - 1).bit_length())
    return chunks(Transition(_local, _carry, _read), (q, k, v, g), state, start, chunk=chunk)
