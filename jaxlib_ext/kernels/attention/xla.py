"""Attention in plain XLA: whole score matrix, or block by block of queries with the scores recomputed backwards."""

import jax
import jax.numpy as jnp

Array = jax.Array
BLOCK = 512
HIDDEN = -1e30  # far below any logit, and finite: a row that sees nothing must not be NaN


def visible(at, to, causal: bool, window: int | None) -> Array:
    """bool [B, T, S]: which query sees which key."""
    ahead = at.place[:, :, None] - to.place[:, None, :]
    seen = at.doc[:, :, None] == to.doc[:, None, :]
    if causal:
        seen &= ahead >= 0
    if window is not None:
        seen &= jnp.abs(ahead) < window
    return seen


def whole(q: Array, k: Array, v: Array, at, to, *, causal, window, cap, scale, bias) -> Array:
    logits = jnp.einsum("btngk,bsnk->bngts", q * jnp.asarray(scale, q.dtype), k, preferred_element_type=jnp.float32)
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    if bias is not None:
        logits = logits + bias
    # Added and not selected: the gradient needs no mask, for what is hidden has weight 0. Divided last, on [T, V]
    # instead of [T, S]: the gradient then takes no sum over the scores either.
    logits = logits + jnp.where(visible(at, to, causal, window), 0.0, HIDDEN)[:, None, None]
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True)))
    total = jnp.moveaxis(jnp.sum(weights, -1), -1, 1)[..., None]
    y = jnp.einsum("bngts,bsnv->btngv", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (y / total).astype(v.dtype)


def blocked(q: Array, k: Array, v: Array, at, to, *, causal, window, cap, scale, bias) -> Array:
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
        return whole(q, k, v, at, to, causal=causal, window=window, cap=cap, scale=scale, bias=bias)

    y = jax.lax.map(one, queries)
    return jnp.moveaxis(y, 0, 1).reshape(b, n * BLOCK, *y.shape[3:])[:, :t]
