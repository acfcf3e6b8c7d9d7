"""Chunked form: inside a chunk a masked product of queries and keys, which all heads of a group share."""

import jax
import jax.numpy as jnp

from ..chunks import Documents, Transition, masked
from ..chunks import chunked as chunks
from ..pairs import decays

Array = jax.Array
CHUNK = 64


def _local(inputs: tuple[Array, ...], docs: Documents) -> tuple:
    """q, k [n, B, G, C, K], v [n, B, G, R, C, V], g [n, B, G, R, C, 1]."""
    q, k, v, g = inputs
    decay = masked(docs.seen, decays(g[..., 0]))  # [n, B, G, R, C, C]
    scores = (q @ jnp.swapaxes(k, -1, -2))[..., None, :, :]
    y = (decay * scores) @ v
    prefix = masked(docs.old, decay[..., 0] * jnp.exp(g[..., :1, 0]))  # [n, B, G, R, C]
    added = jnp.einsum("...ck,...rcv->...rkv", k, v * decay[..., -1, :, None])
    through = masked(docs.through, prefix[..., -1])[..., None, None]
    return y, (through, added), (q, prefix[..., None])


def _carry(s: Array, moves: tuple[Array, Array]) -> tuple[Array, Array]:
    through, added = moves
    return s * through + added, s


def _read(reads: tuple[Array, Array], before: Array) -> Array:
    q, prefix = reads
    return jnp.einsum("...ck,...rkv->...rcv", q, before) * prefix


def chunked(q: Array, k: Array, v: Array, g: Array, state: Array, start: Array) -> tuple[Array, Array]:
    groups, heads = q.shape[2], v.shape[2]
    split = lambda a, axis: a.reshape(*a.shape[:axis], groups, heads // groups, *a.shape[axis + 1 :])
    g = jnp.where(start[:, :, None], 0.0, g)  # what a start forgets is said by the documents
    inputs = (q, k, split(v, 2), split(g[..., None], 2))
    chunk = min(CHUNK, 1 << (start.shape[1] - 1).bit_length())
    y, s = chunks(Transition(_local, _carry, _read), inputs, split(state, 1), start, chunk=chunk)
    return y.reshape(v.shape), s.reshape(state.shape)
