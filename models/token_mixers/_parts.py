"""What several recurrent mixers are made of: short convolutions over heads, starts of time steps, unit vectors."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ...contracts import Seq, along

Array = jax.Array


def convolve(run: Callable, x: Array, taps: Array, held: Array, seq: Seq) -> tuple[Array, Array]:
    """short_conv or short_conv_step on x [..., *F] with taps [*F, W] and held [B, W-1, *F]; *F as wide as wanted."""
    features = taps.ndim - 1
    flat = lambda a: a.reshape(*a.shape[: a.ndim - features], -1)
    y, new = run(flat(x), taps.reshape(-1, taps.shape[-1]), flat(held), seq)
    return y.reshape(x.shape), new.reshape(held.shape)


def dt_bias(low: float, high: float) -> Callable:
    """An init: time steps start log-uniform in [low, high], so the bias is the inverse softplus of that."""

    def init(key, shape, dtype):
        dt = jnp.exp(log_uniform(low, high)(key, shape, jnp.float32))
        return (dt + jnp.log(-jnp.expm1(-dt))).astype(dtype)

    return init


def log_uniform(low: float, high: float) -> Callable:
    """An init: logarithms of what is log-uniform in [low, high]."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, math.log(low), math.log(high))


def log_of_uniform(low: float, high: float) -> Callable:
    """An init: logarithms of what is uniform in [low, high]; low may be 0."""
    low = max(low, 1e-30)  # 0 itself may be drawn, and has no logarithm
    return lambda key, shape, dtype: jnp.log(jax.random.uniform(key, shape, minval=low, maxval=high)).astype(dtype)


def unit(x: Array, eps: float = 1e-6) -> Array:
    """x [..., K] at length 1."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + eps)


def rms(x: Array, gain: Array, eps: float) -> Array:
    """x [..., V] over its root mean square, times gain [V]."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * along(gain, x)
