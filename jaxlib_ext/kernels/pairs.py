"""Decays between the tokens of a chunk, alone or in products of queries and keys, exact at any speed.

For a block cut in two, a query i in the second half meets a key j in the first through
    (decay from the cut to i) (decay from j to the cut),
two factors of at most 1. Halving down to single tokens covers every pair once; the decays of a block are products of
those of its halves, so nothing cancels and nothing overflows, and one exponential a token and channel is taken. A
difference of prefix sums would lose what is small after something large.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..contracts import along
from .exact import einsum
from .triangular import blocks

Array = jax.Array
PRODUCT_FROM = 8  # tokens of a half from which a matrix product beats sums


@jax.custom_vjp
def decays(g: Array) -> Array:
    """exp(sum of g after j up to i) for j <= i and 0 elsewhere: g [..., C] <= 0 -> [..., C, C]; C a power of 2."""
    p = jnp.exp(g)[..., None]  # [..., N, m] in blocks of m: from the block's beginning to i, the token included
    s = jnp.ones_like(p)  # after j to the block's end
    out = s[..., None]
    while p.shape[-2] > 1:
        (p1, p2), (s1, s2) = ((a[..., 0::2, :], a[..., 1::2, :]) for a in (p, s))
        out = blocks(out[..., 0::2, :, :], p2[..., :, None] * s1[..., None, :], out[..., 1::2, :, :])
        p, s = jnp.concatenate([p1, p2 * p1[..., -1:]], -1), jnp.concatenate([s1 * p2[..., -1:], s2], -1)
    return out[..., 0, :, :]


def _decays_forward(g: Array) -> tuple[Array, Array]:
    out = decays(g)
    return out, out


def _decays_backward(out: Array, d: Array) -> tuple[Array]:
    """Every pair under way after token j and before its end adds to j's gradient. Only those are summed: in a
    difference of the sums of rows and columns the pairs inside would have to cancel."""
    c = out.shape[-1]
    before = jnp.triu(jnp.ones((c, c), out.dtype), 1)
    so_far = einsum("...ij,jt->...it", d * out, before)
    return (jnp.sum(jnp.where(along(jnp.tri(c, dtype=bool), d), so_far, 0.0), -2),)


decays.defvjp(_decays_forward, _decays_backward)


class Pairs(NamedTuple):
    """What a chunk of C tokens needs of its decays."""

    scores: Array  # [..., R, W, C, C]: sum_K q_i k_j exp(sum of g after j up to i) for j <= i, 0 elsewhere
    back: Array  # [..., R, C, K]: q_i times the decay from before the chunk to i
    push: Array  # [..., W, C, K]: k_j times the decay after j to the end of the chunk
    total: Array  # [..., K]: the decay of the chunk


def _halves(a: Array, m: int) -> tuple[Array, Array]:
    """[..., C, K] -> first and second halves of blocks of 2m, each [..., C/2m, m, K]."""
    a = a.reshape(*a.shape[:-2], -1, 2, m, a.shape[-1])
    return a[..., 0, :, :], a[..., 1, :, :]


def _rejoin(first: Array, second: Array) -> Array:
    """[..., N, m, K] twice -> blocks of 2m [..., N, 2m, K]."""
    return jnp.concatenate([first, second], -2)


def _meet(late: Array, early: Array) -> Array:
    """[..., R, N, m, K], [..., W, N, m, K] -> [..., R, W, N, m, m]."""
    late, early = late[..., :, None, :, :, :], early[..., None, :, :, :, :]
    if late.shape[-2] < PRODUCT_FROM:
        return jnp.sum(late[..., :, None, :] * early[..., None, :, :], -1)
    return late @ jnp.swapaxes(early, -1, -2)


@jax.custom_vjp
def pairs(q: Array, k: Array, g: Array) -> Pairs:
    """q [..., R, C, K] (R kinds of reads), k [..., W, C, K] (W kinds of writes), g [..., C, K] <= 0; C a power of 2."""
    return _forward(q, k, g)[0]


def _forward(q: Array, k: Array, g: Array) -> tuple[Pairs, tuple]:
    c = q.shape[-2]
    flat = lambda a: a.reshape(*a.shape[:-3], c, a.shape[-1])
    p = jnp.exp(g)[..., None, :, :]  # from the block's beginning to i, the token itself included
    s = jnp.ones_like(p)  # after j to the block's end
    scores = jnp.sum(q[..., :, None, :, :] * k[..., None, :, :, :], -1)[..., None, None]  # [..., R, W, C, 1, 1]
    levels, m = [], 1
    while m < c:
        (p1, p2), (s1, s2) = _halves(p, m), _halves(s, m)
        late, early = _halves(q, m)[1] * p2, _halves(k, m)[0] * s1
        levels.append((late, early, p2, s1))
        scores = blocks(scores[..., 0::2, :, :], _meet(late, early), scores[..., 1::2, :, :])
        p, s = flat(_rejoin(p1, p2 * p1[..., -1:, :])), flat(_rejoin(s1 * p2[..., -1:, :], s2))
        m *= 2
    out = Pairs(scores[..., 0, :, :], q * p, k * s, p[..., 0, -1, :])
    return out, (q, k, levels, p, s)


def _apply(d: Array, x: Array) -> Array:
    """[..., m, n] times [..., n, K]."""
    if d.shape[-1] < PRODUCT_FROM:
        return jnp.sum(d[..., None] * x[..., None, :, :], -2)
    return d @ x


def _backward(kept: tuple, grads: Pairs) -> tuple[Array, Array, Array]:
    """By g: every pair under way after token j and before its end adds to it, which sums of q dq - k dk count."""
    q, k, levels, p, s = kept
    m = c = q.shape[-2]
    dq, dk = grads.back * p, grads.push * s
    ends = jnp.sum(k * dk, (-3, -2)) + grads.total * p[..., 0, -1, :]
    scores = grads.scores[..., None, :, :]  # [..., R, W, 1, C, C]
    for late, early, p2, s1 in reversed(levels):
        m //= 2
        tiles = scores.reshape(*scores.shape[:-2], 2, m, 2, m)
        d = tiles[..., 1, :, 0, :]
        scores = jnp.stack([tiles[..., 0, :, 0, :], tiles[..., 1, :, 1, :]], -3)
        scores = scores.reshape(*scores.shape[:-4], -1, m, m)
        to_late = jnp.sum(_apply(d, early[..., None, :, :, :, :]), -4) * p2
        to_early = jnp.sum(_apply(jnp.swapaxes(d, -1, -2), late[..., :, None, :, :, :]), -5) * s1
        (q1, q2), (k1, k2) = _halves(dq, m), _halves(dk, m)
        dq = _rejoin(q1, q2 + to_late).reshape(dq.shape)
        dk = _rejoin(k1 + to_early, k2).reshape(dk.shape)
    moved = jnp.sum(q * dq, -3) - jnp.sum(k * dk, -3)  # what meets itself does not decay
    after = jnp.triu(jnp.ones((c, c), q.dtype))
    dg = einsum("lc,...ck->...lk", after, moved) + ends[..., None, :]
    own = scores[..., 0, 0]  # [..., R, W, C]
    dq = dq + jnp.einsum("...rwc,...wck->...rck", own, k)
    return dq, dk + jnp.einsum("...rwc,...rck->...wck", own, q), dg


pairs.defvjp(_forward, _backward)
