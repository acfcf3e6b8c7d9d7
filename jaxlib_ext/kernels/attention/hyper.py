"""Attention in nearly linear time: large entries by sorting, the rest by sampling, joined by log-sum-exp.

Queries and keys are sorted by the signs of a few random projections, in an order in which neighbouring signs differ in
one bit, so that a query's large entries lie near the diagonal: blocks there are exact. What is outside the query's
block is estimated from uniformly drawn keys, each standing for as many as there are per draw. A causal call is cut in
halves: two causal ones, and later queries against earlier keys, which no mask divides.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .weigh import HIDDEN

Array = jax.Array
NOBODYS = -3  # a document of nobody's, of padding; keys have the next one


class Part(NamedTuple):
    """Attention to some of the keys: y [B, H, T, V] and the log of its sum of weights [B, H, T], float32."""

    y: Array
    total: Array


class Rows(NamedTuple):
    """Queries or keys [B, H, T, K], values [B, H, T, V] and documents [B, H or 1, T]."""

    x: Array
    doc: Array
    v: Array | None = None


def exact(q: Array, k: Array, v: Array, seen: Array) -> Part:
    """q [..., T, K], k, v [..., S, .], seen [..., T, S]; a query that sees nothing has y = 0."""
    logits = jnp.einsum("...tk,...sk->...ts", q, k, preferred_element_type=jnp.float32) + jnp.where(seen, 0.0, HIDDEN)
    top = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    weights = jnp.where(seen, jnp.exp(logits - top), 0.0)
    total = jnp.sum(weights, -1)
    some = total > 0
    total = jnp.where(some, total, 1.0)
    y = jnp.einsum("...ts,...sv->...tv", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return Part(y / total[..., None], jnp.where(some, top[..., 0] + jnp.log(total), HIDDEN))


def merge(a: Part, b: Part) -> Part:
    """Attention to the keys of both, which have none in common."""
    top = jax.lax.stop_gradient(jnp.maximum(a.total, b.total))
    left, right = jnp.exp(a.total - top), jnp.exp(b.total - top)
    total = left + right
    y = (left[..., None] * a.y + right[..., None] * b.y) / total[..., None]
    return Part(y, top + jnp.log(total))


def order(x: Array, directions: Array) -> Array:
    """Sorts x [B, H, T, K] by the signs of its products with directions [K, bits], read as a Gray code: [B, H, T]."""
    bits = (jax.lax.stop_gradient(x) @ directions.astype(x.dtype) > 0).astype(jnp.int32)
    code = jnp.cumsum(bits, -1) % 2  # from Gray to binary: each bit is the parity of those up to it
    place = 2 ** jnp.arange(bits.shape[-1])[::-1]
    return jnp.argsort(jnp.sum(code * place.reshape(1, 1, 1, -1), -1), -1, stable=True)


def _cut(rows: Rows, blocks: int, fill: int) -> Rows:
    """Into blocks of equal length, [B, H, blocks, T / blocks, ...], with rows of document `fill` added."""
    size = -(-rows.x.shape[2] // blocks)

    def cut(a, value=0):
        pad = ((0, 0), (0, 0), (0, blocks * size - a.shape[2])) + ((0, 0),) * (a.ndim - 3)
        a = jnp.pad(a, pad, constant_values=value)
        return a.reshape(*a.shape[:2], blocks, size, *a.shape[3:])

    return Rows(cut(rows.x), cut(rows.doc, fill), None if rows.v is None else cut(rows.v))


def unmasked(q: Rows, k: Rows, key: Array, *, block: int, samples: int, bits: int) -> Part:
    """Every query against every key of its document, block x T + samples x T products a head."""
    b, h, t, _ = q.x.shape
    s = k.x.shape[2]
    blocks = -(-s // block)
    doc = lambda rows: jnp.broadcast_to(rows.doc, rows.x.shape[:3])
    same = lambda a, b: a[..., :, None] == b[..., None, :]
    if blocks == 1:
        return exact(q.x, k.x, k.v, same(doc(q), doc(k)))
    directions, drawn = jax.random.split(key)
    directions = jax.random.normal(directions, (q.x.shape[-1], bits))
    at, to = order(q.x, directions), order(k.x, directions)
    take = lambda a, i: jnp.take_along_axis(a, i.reshape(*i.shape, *(1,) * (a.ndim - 3)), 2)
    q = Rows(take(q.x, at), take(doc(q), at))
    k = Rows(take(k.x, to), take(doc(k), to), take(k.v, to))
    q_cut, k_cut = _cut(q, blocks, NOBODYS), _cut(k, blocks, NOBODYS - 1)
    near = exact(q_cut.x, k_cut.x, k_cut.v, same(q_cut.doc, k_cut.doc))
    near = Part(*(a.reshape(b, h, -1, *a.shape[4:])[:, :, :t] for a in near))
    sample = jax.random.randint(drawn, (b, h, samples), 0, s)
    own = jnp.arange(t) // q_cut.x.shape[3]
    outside = own.reshape(1, 1, -1, 1) != sample[:, :, None] // k_cut.x.shape[3]
    far = exact(q.x, take(k.x, sample), take(k.v, sample), same(q.doc, take(k.doc, sample)) & outside)
    far = far._replace(total=far.total + jnp.log(s / samples))
    y, total = merge(near, far)
    back = jnp.argsort(at, -1)
    return Part(take(y, back), take(total, back))


def causal(q: Rows, k: Rows, key: Array, *, least: int, **how: int) -> Part:
    """Every query against the keys of its document up to itself; calls of up to `least` tokens are exact."""
    b, h, t, _ = q.x.shape
    if t <= least:
        seen = q.doc[..., :, None] == k.doc[..., None, :]
        return exact(q.x, k.x, k.v, seen & jnp.tril(jnp.ones((t, t), bool)).reshape(*(1,) * (seen.ndim - 2), t, t))
    if t % 2:
        pad = lambda a, value=0: jnp.pad(a, ((0, 0), (0, 0), (0, 1)) + ((0, 0),) * (a.ndim - 3), constant_values=value)
        q = Rows(pad(q.x), pad(q.doc, NOBODYS))
        k = Rows(pad(k.x), pad(k.doc, NOBODYS - 1), pad(k.v))
    half = q.x.shape[2] // 2
    early = lambda rows: jax.tree.map(lambda a: a[:, :, :half], rows)
    late = lambda rows: jax.tree.map(lambda a: a[:, :, half:], rows)
    both = lambda rows: jax.tree.map(lambda x, y: jnp.concatenate([x, y]), early(rows), late(rows))
    inner, across = jax.random.split(key)
    halves = causal(both(q), both(k), inner, least=least, **how)
    first, second = (jax.tree.map(lambda a, cut=cut: a[cut], halves) for cut in (slice(0, b), slice(b, None)))
    second = merge(second, unmasked(late(q), early(k), across, **how))
    return Part(*(jnp.concatenate(pair, 2)[:, :, :t] for pair in zip(first, second, strict=True)))


def pairs(t: int, *, is_causal: bool, least: int, block: int, samples: int, bits: int) -> tuple[int, int]:
    """Products of a head over t tokens: of queries with keys, each then of weights with values, and with directions."""

    def one(t):  # of `unmasked`
        blocks = -(-t // block)
        size = -(-t // blocks)
        return (t * t, 0) if blocks == 1 else (blocks * size**2 + t * samples, 2 * t * bits)

    if not is_causal:
        return (t * t, 0) if t <= least else one(t)
    calls, near, sorted_ = 1, 0, 0
    while t > least:
        t = -(-t // 2)
        keys, signs = one(t)
        near, sorted_, calls = near + calls * keys, sorted_ + calls * signs, 2 * calls
    return near + calls * t * t, sorted_


def hyper_attention(q: Array, k: Array, v: Array, doc: Array, key: Array, *, scale: float, is_causal: bool, least: int,
                    block: int, samples: int, bits: int) -> Array:  # fmt: skip
    """q [B, T, N, G, K], k, v [B, T, N, .], doc [B, T] -> [B, T, N, G, V], an estimate of softmax attention.

    least: exact up to so many tokens. block: of sorted keys. samples: drawn keys a head. bits: of the sorting.
    """
    b, t, n, g, _ = q.shape
    heads = lambda a: jnp.moveaxis(a.reshape(b, t, n * g, -1), 2, 1)
    spread = lambda a: heads(jnp.broadcast_to(a[:, :, :, None], (*a.shape[:3], g, a.shape[-1])))
    queries = Rows(heads(q * jnp.asarray(scale, q.dtype)), doc[:, None])
    keys = Rows(spread(k), doc[:, None], spread(v))
    how = dict(block=block, samples=samples, bits=bits)
    if is_causal:
        y = causal(queries, keys, key, least=least, **how).y
    else:
        y = unmasked(queries, keys, key, **how | (dict(block=t) if t <= least else {})).y
    return jnp.moveaxis(y, 1, 2).reshape(b, t, n, g, -1).astype(v.dtype)
