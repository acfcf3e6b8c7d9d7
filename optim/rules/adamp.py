"""adamp: Adam without the radial part of the step in weights whose loss does not depend on their length.

    u = m^ / (sqrt(v^) + eps), Adam's step;   for one neuron at a time, then for the whole matrix:
    if max |cos(g, p)| < delta / sqrt(entries of p):  u <- u - p <p, u> / |p|^2,  weight_decay <- wd_ratio weight_decay,
    and no further;   p <- p - learning_rate (u + weight_decay p)

source: Heo et al. 2020, arXiv 2006.08217, as in the authors' code
state: 8 bytes a parameter
defaults: b1 = 0.9, b2 = 0.999, eps = 1e-8, delta = 0.1, wd_ratio = 0.1 (authors' code)
departs: a neuron is what makes one output, and a row in an embedding; each copy of a stacked leaf is tested on its own;
    vectors are not projected
"""

import dataclasses
import math

import jax.numpy as jnp

from ..rule import Traced
from .adam import Adam


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adamp(Adam):
    """Adam; where gradients are all but orthogonal to the weights, only the part of the step along the sphere.

    delta: how small the cosine between gradient and weights must be, over the root of their number. wd_ratio: factor
    of the weight decay where the step is projected.

    >>> from jaxlib_ext import optim
    >>> tx = optim.adamp(1e-3, weight_decay=0.01)
    """

    b2: Traced = 0.999
    delta: Traced = 0.1
    wd_ratio: Traced = 0.1

    own_decay = True

    def update(self, g, slots, p, h):
        u, new = super().update(g, slots, p, h.but(learning_rate=-1.0))
        decay = h.weight_decay
        if h.leaf.unit:
            neuron, matrix = self._along(g, p, u, h.leaf.unit, h), self._along(g, p, u, h.leaf.own, h)
            u = jnp.where(neuron[0], neuron[1], jnp.where(matrix[0], matrix[1], u))
            decay = decay * jnp.where(neuron[0] | matrix[0], h.wd_ratio, 1)
        return -h.learning_rate * u - h.unscaled * decay * p, new

    def _along(self, g, p, u, axes, h):
        """(whether p is scale-invariant over axes, u without its part along p)."""
        dot = lambda x, y: jnp.sum(x * y, axes, keepdims=True)
        size, length = jnp.sqrt(dot(p, p)), jnp.sqrt(dot(g, g))
        cosine = jnp.abs(dot(g, p)) / jnp.maximum(size * length, h.eps)
        entries = math.prod(p.shape[i] for i in axes)
        fires = jnp.max(cosine, h.leaf.own, keepdims=True) < h.delta / math.sqrt(entries)
        direction = p / (size + h.eps)
        return fires, u - direction * dot(direction, u)
