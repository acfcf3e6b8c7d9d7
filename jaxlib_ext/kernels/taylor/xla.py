"""Chunked form: pairs of a chunk by a polynomial of their products, what came before by features and a sum."""

import jax
import jax.numpy as jnp

from ..chunks import Documents, Transition, masked
from ..chunks import chunked as chunks
from .features import features

Array = jax.Array
CHUNK = 64


def _local(inputs: tuple[Array, ...], docs: Documents) -> tuple:
    """q, k [n, B, H, C, K], v [n, B, H, C, V + 1]."""
    q, k, v = inputs
    z = q @ jnp.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5
    y = masked(docs.seen, 1 + z + 0.5 * z * z) @ v
    added = jnp.einsum("...cf,...cv->...fv", features(k), masked(docs.open[..., None], v))
    return y, (docs.through[:, :, None, None, None], added), masked(docs.old[..., None], features(q))


def _carry(s: Array, moves: tuple[Array, Array]) -> tuple[Array, Array]:
    through, added = moves
    return jnp.where(through, s, 0.0) + added, s


def chunked(q: Array, k: Array, v: Array, state: Array, start: Array, mask: Array) -> tuple[Array, Array]:
    real = mask[:, :, None, None]
    v = jnp.where(real, jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1), 0.0)
    chunk = min(CHUNK, 1 << (start.shape[1] - 1).bit_length())
    y, state = chunks(Transition(_local, _carry, jnp.matmul), (q, k, v), state, start, chunk=chunk)
    return y[..., :-1] / jnp.where(real, y[..., -1:], 1.0), state
