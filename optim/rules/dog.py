"""dog: gradient descent by the distance moved over the gradients seen; no learning rate to set.

    r <- max(r, |p - p_0|, distance + relative (1 + |p_0|));   G <- G + |g|^2
    p <- p - learning_rate r / sqrt(G + eps) g

source: Ivgi et al. 2023, arXiv 2302.12022
state: 4 bytes a parameter, and 2 numbers
defaults: relative = 1e-6 (1e-4 with batch norm), eps = 1e-8, learning_rate = 1 (paper)
departs: none; the paper evaluates an average of the points: averaged(inner="dog")
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced
from ._distance import with_decay


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dog(Rule):
    """learning_rate: a factor, 1 or a schedule. relative, distance: the first step's length is distance + relative
    (1 + |p_0|), norms of all parameters together; it should be small. eps: added under the root. weight_decay: added to
    the gradient, times p.

    >>> from jaxlib_ext import optim
    >>> tx = optim.dog(1.0), optim.averaged(1.0, inner="dog")
    """

    default_rate = 1.0

    relative: Traced = 1e-6
    distance: Traced = 0.0
    eps: Traced = 1e-8

    own_decay = True

    def slots(self, leaf):
        return dict(x0=Slot("params", constant=True))

    def shared(self):
        return dict(r=0.0, seen=0.0)

    def measure(self, g, slots, p, h):
        x0, total = slots["x0"], lambda x: jnp.sum(jnp.square(x))
        return dict(gg=total(with_decay(g, p, h)), moved=total(p - x0), start=total(x0))

    def decide(self, sums, h):
        first = h.distance + h.relative * (1 + jnp.sqrt(sums["start"]))
        r = jnp.maximum(jnp.maximum(h.r, first), jnp.sqrt(sums["moved"]))
        return dict(r=r, seen=h.seen + sums["gg"])

    def update(self, g, slots, p, h):
        return -h.learning_rate * h.r / jnp.sqrt(h.seen + h.eps) * with_decay(g, p, h), slots
