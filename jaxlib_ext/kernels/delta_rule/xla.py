"""Chunked form: the tokens of a chunk see each other's writes through the inverse of one triangular matrix.

With D_ij the decay after j up to i and S the state before the chunk, what token i writes along k_i is
    u_i = beta_i (v_i - D_i0 S^T k_i - sum_{j<i} D_ij (k_i.k_j) u_j),  so  (I + A) u = beta v - beta D_0 k S
and u = U - W S of two products with (I + A)^-1 that need no state.
"""

import jax
import jax.numpy as jnp

from ..chunks import Documents, Transition, masked
from ..chunks import chunked as chunks
from ..pairs import decays
from ..triangular import inverse

Array = jax.Array
CHUNK = 64


def _local(inputs: tuple[Array, ...], docs: Documents) -> tuple:
    """q, k [n, B, G, C, K], v [n, B, G, R, C, V], beta, g [n, B, G, R, C, 1]."""
    q, k, v, beta, g = inputs
    turned = jnp.swapaxes(k, -1, -2)
    decay = masked(docs.seen, decays(g[..., 0]))  # [n, B, G, R, C, C]
    prefix = masked(docs.old, decay[..., 0] * jnp.exp(g[..., :1, 0]))[..., None]  # [n, B, G, R, C, 1]
    c = q.shape[-2]
    weave = jnp.where(jnp.eye(c, dtype=bool).reshape((1,) * (decay.ndim - 2) + (c, c)), 0.0, decay)
    solve = inverse(beta * (k @ turned)[..., None, :, :] * weave)
    both = solve @ jnp.concatenate([beta * v, beta * prefix * k[..., None, :, :]], -1)
    own, seen = jnp.split(both, (v.shape[-1],), -1)  # U [n, B, G, R, C, V] and W [n, B, G, R, C, K]
    push = turned[..., None, :, :] * decay[..., -1:, :]
    through = masked(docs.through, prefix[..., -1, 0])[..., None, None]
    scores = decay * (q @ turned)[..., None, :, :]
    return jnp.zeros_like(v), (through, own, seen, push), (scores, prefix * q[..., None, :, :])


def _carry(s: Array, moves: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
    through, own, seen, push = moves
    u = own - seen @ s
    return through * s + push @ u, (s, u)


def _read(reads: tuple[Array, Array], kept: tuple[Array, Array]) -> Array:
    (scores, back), (before, u) = reads, kept
    return back @ before + scores @ u


def chunked(q: Array, k: Array, v: Array, beta: Array, g: Array, state: Array, start: Array) -> tuple[Array, Array]:
    groups, heads = q.shape[2], v.shape[2]
    split = lambda a, axis: a.reshape(*a.shape[:axis], groups, heads // groups, *a.shape[axis + 1 :])
    g = jnp.where(start[:, :, None], 0.0, g)  # what a start forgets is said by the documents
    inputs = (q, k, split(v, 2), split(beta[..., None], 2), split(g[..., None], 2))
    chunk = min(CHUNK, 1 << (start.shape[1] - 1).bit_length())
    y, s = chunks(Transition(_local, _carry, _read), inputs, split(state, 1), start, chunk=chunk)
    return y.reshape(v.shape), s.reshape(state.shape)
