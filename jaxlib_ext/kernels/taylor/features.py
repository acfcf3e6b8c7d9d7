"""The feature map whose products are 1 + z + z^2/2, z = q.k / sqrt(K), with one feature for each pair of channels."""

import jax
import jax.numpy as jnp

Array = jax.Array


def width(k: int) -> int:
    """Number of features: 1 + K + K (K + 1) / 2, where all ordered pairs would be K^2.

    >>> width(16)
    153
    """
    return 1 + k + k * (k + 1) // 2


def features(x: Array) -> Array:
    """x [..., K] -> [..., F].

    >>> round(float(features(jnp.ones(2)) @ features(jnp.ones(2))), 4)  # 1 + sqrt 2 + 1
    3.4142
    """
    k = x.shape[-1]
    x = x * k**-0.25
    pairs = [x[..., : k - n] * x[..., n:] for n in range(1, k)]
    return jnp.concatenate([jnp.ones_like(x[..., :1]), x, x * x * 0.5**0.5, *pairs], -1)
