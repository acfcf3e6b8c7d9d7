"""What makes weights of logits: softmax and the functions that stand in its place.

Each takes logits, float32 [B, N, G, T, S], and what a query may see, bool [B, 1, 1, T, S], and returns weights of that
shape and what the weighted sum of values is divided by, [B, N, G, T], or None. What is hidden has weight 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
Weigh = Callable[[Array, Array], tuple[Array, Array | None]]
HIDDEN = -1e30  # far below any logit, and finite: a row that sees nothing must not be NaN


def softmax(logits: Array, seen: Array) -> tuple[Array, Array]:
    # Added and not selected: the gradient needs no mask, for what is hidden has weight 0. Divided last, on [T, V]
    # instead of [T, S]: the gradient then takes no sum over the scores either.
    logits = logits + jnp.where(seen, 0.0, HIDDEN)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True)))
    return weights, jnp.sum(weights, -1)


def any_seen(logits: Array, seen: Array) -> tuple[Array, Array]:
    """softmax, and zero for a query that sees nothing."""
    weights, total = softmax(logits, seen)
    return jnp.where(seen, weights, 0.0), jnp.where(jnp.any(seen, -1), total, 1.0)


def sunk(sink: Array) -> Weigh:
    """softmax over the keys and one more, whose logit is sink [N, G] and whose value is zero."""

    def weigh(logits: Array, seen: Array) -> tuple[Array, Array]:
        logits, own = logits + jnp.where(seen, 0.0, HIDDEN), sink.astype(jnp.float32)[None, :, :, None]
        top = jax.lax.stop_gradient(jnp.maximum(jnp.max(logits, -1), own))
        weights = jnp.exp(logits - top[..., None])
        return weights, jnp.sum(weights, -1) + jnp.exp(own - top)

    return weigh


def sigmoid(length: int | None) -> Weigh:
    """sigmoid(logit - log n), n = length or, if that is None, the number of keys that the query sees."""

    def weigh(logits: Array, seen: Array) -> tuple[Array, None]:
        n = jnp.float32(length) if length else jnp.sum(seen, -1, keepdims=True).astype(jnp.float32)
        return jnp.where(seen, jax.nn.sigmoid(logits - jnp.log(n)), 0.0), None

    return weigh


def normalized(gain: Array, bias: Array, eps: float) -> Weigh:
    """gain (logit - mean) / (deviation + eps) + bias over the keys that a query sees; gain and bias are [N, G]."""
    gain, bias = (v.astype(jnp.float32)[None, :, :, None, None] for v in (gain, bias))

    def weigh(logits: Array, seen: Array) -> tuple[Array, None]:
        n = jnp.sum(seen, -1, keepdims=True).astype(jnp.float32)
        apart = jnp.where(seen, logits - jnp.sum(jnp.where(seen, logits, 0.0), -1, keepdims=True) / n, 0.0)
        variance = jnp.sum(apart * apart, -1, keepdims=True) / n
        # One key has variance 0, where the square root has no gradient.
        deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
        return jnp.where(seen, gain * apart / (deviation + eps) + bias, 0.0), None

    return weigh
