"""centralised: any rule, on gradients whose mean over the inputs of each neuron is taken out.

    g <- g - mean_in(g)   for matrices;   the inner rule sees g

source: Yong et al. 2020, arXiv 2004.01461
state: the inner rule's
defaults: inner = adamw
departs: none; for an embedding the mean is over each row. optax.centralize takes all axes but the first, which are the
    outputs where a matrix is stored as (in, out)
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ..wrapped import Wrapped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Centralised(Wrapped):
    """The inner rule on gradients of which each neuron's sum to zero, so that the sum of its weights does not move.

    >>> from jaxlib_ext import optim
    >>> tx = optim.centralised(0.1, inner="sgd")
    """

    inner: Any = "adamw"

    def measure(self, g, slots, p, h):
        return self.inner.measure(self._centred(g, h), slots, p, h)

    def update(self, g, slots, p, h):
        return self.inner.update(self._centred(g, h), slots, p, h)

    def _centred(self, g, h):
        return g - jnp.mean(g, h.leaf.unit, keepdims=True) if h.leaf.unit else g
