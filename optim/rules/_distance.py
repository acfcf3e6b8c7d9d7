"""What methods that estimate their own step size share: the distance they began with, and decay inside the gradient."""

from typing import Any

import jax.numpy as jnp

from ..rule import Array, Now

TINY = 1e-30  # below every sum that means anything


def began(d: Array, h: Now) -> Array:
    """The estimate d as it stood before this update: d0 at the first."""
    return jnp.where(h.t == 1, h.d0, d)


def paced(d: Array, rate: Array, h: Now, corrected: bool) -> Array:
    """d times the rate, times the ratio of Adam's bias corrections where the moments are not corrected themselves."""
    return began(d, h) * rate * (jnp.sqrt(h.unbias("b2")) / h.unbias("b1") if corrected else 1.0)


def with_decay(g: Array, p: Array, h: Now) -> Array:
    """g + weight_decay p where the leaf decays: L2 regularisation as part of the gradient."""
    return g if isinstance(h.weight_decay, float) else g + h.weight_decay * p


def ratio(above: Array, below: Array, otherwise: Any) -> Array:
    """above / below, and `otherwise` where below is 0."""
    return jnp.where(below > TINY, above / jnp.maximum(below, TINY), otherwise)
