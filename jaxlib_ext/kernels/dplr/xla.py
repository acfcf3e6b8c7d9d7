"""Chunked form. Two reads (q of the state after a token, a of that before) meet two writes (k of v, b of what a reads).

With p_i = S_{i-1}^T a_i and X_ij the decayed products of a read x and a write,
    p = AB p + AK v + a' S,  so  p = (I - AB)^-1 (AK v + a' S),  AB and AK strictly lower,
and y = QK v + QB p + q' S.
"""

import jax
import jax.numpy as jnp

from ..chunks import Documents, Transition, masked
from ..chunks import chunked as chunks
from ..pairs import pairs
from ..triangular import inverse

Array = jax.Array
CHUNK = 32


def _shift(x: Array) -> Array:
    """Rows [..., C, .] one token later, zeros first: what a token reads before itself is read after the one before."""
    return jnp.concatenate([jnp.zeros_like(x[..., :1, :]), x[..., :-1, :]], -2)


def _local(inputs: tuple[Array, ...], docs: Documents) -> tuple:
    """q, k, a, b, g [n, B, H, C, K], v [n, B, H, C, V]."""
    q, k, v, a, b, g = inputs
    sooner = jnp.concatenate([a[..., 1:, :], jnp.zeros_like(a[..., :1, :])], -2)
    scores, back, push, total = pairs(jnp.stack([q, sooner], -3), jnp.stack([k, b], -3), g)
    qk, qb = (masked(docs.seen, scores[..., 0, i, :, :]) for i in (0, 1))
    ak, ab = (masked(docs.seen, _shift(scores[..., 1, i, :, :])) for i in (0, 1))
    first = (jnp.arange(q.shape[-2]) == 0).reshape((1,) * (q.ndim - 2) + (-1, 1))
    old = docs.old[:, :, None, :, None]
    back_q = jnp.where(old, back[..., 0, :, :], 0.0)
    back_a = jnp.where(old, jnp.where(first, a, _shift(back[..., 1, :, :])), 0.0)
    both = inverse(-ab) @ jnp.concatenate([ak @ v, back_a], -1)
    own, seen = jnp.split(both, (v.shape[-1],), -1)  # of p: without a state [n, B, H, C, V], by a state [n, B, H, C, K]
    push_k, push_b = (masked(docs.open, jnp.swapaxes(push[..., i, :, :], -1, -2)) for i in (0, 1))  # [n, B, H, K, C]
    through = jnp.where(docs.through[:, :, None, None], total, 0.0)[..., None]
    moves = (through, push_k @ v, push_b, own, seen)
    return qk @ v, moves, (qb, back_q)


def _carry(s: Array, moves: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
    through, added, push, own, seen = moves
    p = own + seen @ s
    return through * s + added + push @ p, (s, p)


def _read(reads: tuple[Array, Array], kept: tuple[Array, Array]) -> Array:
    (qb, back), (before, p) = reads, kept
    return back @ before + qb @ p


def chunked(
    q: Array, k: Array, v: Array, a: Array, b: Array, g: Array, state: Array, start: Array
) -> tuple[Array, Array]:
    g = jnp.where(start[:, :, None, None], 0.0, g)  # what a start forgets is said by the documents
    chunk = min(CHUNK, 1 << (start.shape[1] - 1).bit_length())
    return chunks(Transition(_local, _carry, _read), (q, k, v, a, b, g), state, start, chunk=chunk)
