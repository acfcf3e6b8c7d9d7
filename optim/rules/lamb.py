"""lamb: Adam whose step in each parameter has the length of the parameter.

    r = m^ / (sqrt(v^) + eps) + weight_decay p;   p <- p - learning_rate |p| / |r| r

source: You et al. 2019, arXiv 1904.00962
state: 8 bytes a parameter
defaults: b1 = 0.9, b2 = 0.999, eps = 1e-6, weight_decay = 0.01 (paper's experiments)
departs: phi(|p|) is |p|; where |p| or |r| is 0 the ratio is 1, as in optax. The norms are of one copy of a stacked leaf
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Traced
from .adam import Adam


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lamb(Adam):
    """p <- p - learning_rate (|p| / |r|) r, r being Adam's update with its decay; a norm per copy of a stacked leaf.

    >>> from jaxlib_ext import optim
    >>> tx = optim.lamb(1e-2)
    """

    b2: Traced = 0.999
    eps: Traced = 1e-6

    default_rate = 1e-2
    default_decay = 0.01
    own_decay = True

    def update(self, g, slots, p, h):
        u, new = super().update(g, slots, p, h.but(learning_rate=-1.0))
        r = u + h.weight_decay * p
        size, length = h.leaf.norm(p), h.leaf.norm(r)
        ratio = jnp.where((size > 0) & (length > 0), size / jnp.where(length > 0, length, 1), 1.0)
        return -h.learning_rate * ratio * r, new
