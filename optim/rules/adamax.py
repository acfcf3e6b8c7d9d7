"""adamax: Adam with the largest recent gradient in place of the root mean square.

    m <- b1 m + (1 - b1) g;   v <- max(b2 v, |g| + eps);   p <- p - learning_rate m / (1 - b1^t) / v

source: Kingma and Ba 2014, arXiv 1412.6980, section 7.1
state: 8 bytes a parameter
defaults: learning_rate = 2e-3, b1 = 0.9, b2 = 0.999 (paper), eps = 1e-8
departs: eps, as in PyTorch and optax; the paper has none
catalogue: adam
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Traced
from .adam import Adam


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adamax(Adam):
    """p <- p - learning_rate m^ / v, v <- max(b2 v, |g| + eps).

    >>> from jaxlib_ext import optim
    >>> tx = optim.adamax(2e-3)
    """

    default_rate = 2e-3

    b2: Traced = 0.999

    def update(self, g, slots, p, h):
        m = h.b1 * slots["m"] + (1 - h.b1) * g
        v = jnp.maximum(h.b2 * slots["v"], jnp.abs(g) + h.eps)
        return -h.learning_rate * m / h.unbias("b1") / v, dict(m=m, v=v)
