"""Attention in plain XLA: whole score matrix, block by block of queries with the scores recomputed backwards, or the
band of it that a window needs."""

import jax
import jax.numpy as jnp

Array = jax.Array
NOBODYS = -3  # a document of nobody's
BLOCK = 512


def visible(at, to, causal: bool, window: int | None, pattern=None) -> Array:
    """bool [B, T, S]: which query sees which key."""
    ahead = at.place[:, :, None] - to.place[:, None, :]
    seen = at.doc[:, :, None] == to.doc[:, None, :]
    if causal:
        seen &= ahead >= 0
    if window is not None:
        seen &= jnp.abs(ahead) < window
    if pattern is not None:
        seen &= pattern(at.place[:, :, None], to.place[:, None, :])
    return seen


def whole(q: Array, k: Array, v: Array, at, to, *, causal, window, cap, scale, bias, pattern, weigh) -> Array:
    logits = jnp.einsum("btngk,bsnk->bngts", q * jnp.asarray(scale, q.dtype), k, preferred_element_type=jnp.float32)
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    if bias is not None:
        logits = logits + bias
    weights, total = weigh(logits, visible(at, to, causal, window, pattern)[:, None, None])
    y = jnp.einsum("bngts,bsnv->btngv", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    if total is not None:
        y = y / jnp.moveaxis(total, -1, 1)[..., None]
    return y.astype(v.dtype)


def blocked(q: Array, k: Array, v: Array, at, to, *, bias, **how) -> Array:
    """The same by blocks of queries: memory grows with BLOCK x S instead of T x S, forwards and backwards."""
    b, t = q.shape[:2]
    n = -(-t // BLOCK)
    extra = n * BLOCK - t

    def cut(a, axis):  # [.., T, ..] -> [n, .., BLOCK, ..]; repeats of the last query see what it sees and are dropped
        a = jnp.concatenate([a, jnp.repeat(jax.lax.slice_in_dim(a, t - 1, t, axis=axis), extra, axis)], axis)
        return jnp.moveaxis(a.reshape(*a.shape[:axis], n, BLOCK, *a.shape[axis + 1 :]), axis, 0)

    queries = (cut(q, 1), jax.tree.map(lambda a: cut(a, 1), at), None if bias is None else cut(bias, 3))

    @jax.checkpoint
    def one(block):
        q, at, bias = block
        return whole(q, k, v, at, to, bias=bias, **how)

    y = jax.lax.map(one, queries)
    return jnp.moveaxis(y, 0, 1).reshape(b, n * BLOCK, *y.shape[3:])[:, :t]


def banded(q: Array, k: Array, v: Array, at, to, *, window, bias, **how) -> Array:
    """Queries in blocks of a window, each against its own block and the one before; for keys of the same tokens."""
    if bias is not None or window is None or q.shape[1] != k.shape[1]:
        raise ValueError("attention: xla_banded needs a window, no bias, and the keys of the queries' own tokens")
    b, t = q.shape[:2]
    m = max(window - 1, 1)
    n = -(-t // m)
    pad = lambda a, fill=0: jnp.pad(a, ((0, 0), (0, n * m - t)) + ((0, 0),) * (a.ndim - 2), constant_values=fill)
    cut = lambda a: a.reshape(b, n, m, *a.shape[2:])
    flat = lambda a: a.reshape(b * n, *a.shape[2:])

    def with_last(a, fill=0):
        a = cut(a)
        return flat(jnp.concatenate([jnp.full_like(a[:, :1], fill), a[:, :-1]], 1)), flat(a)

    join = lambda pair: jnp.concatenate(pair, 1)
    at = at._replace(doc=pad(at.doc, NOBODYS), place=pad(at.place))
    band = to._replace(doc=join(with_last(at.doc, NOBODYS - 1)), place=join(with_last(at.place)))
    at = jax.tree.map(lambda a: flat(cut(a)), at)
    y = whole(
        flat(cut(pad(q))), join(with_last(pad(k))), join(with_last(pad(v))), at, band, window=window, bias=None, **how
    )
    return y.reshape(b, n * m, *y.shape[2:])[:, :t]
