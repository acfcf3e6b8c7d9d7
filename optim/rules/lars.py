"""lars: momentum on gradients that are scaled to a fixed share of the parameter's length.

    ratio = trust_coefficient |p| / (|g| + weight_decay |p|)
    m <- momentum m + learning_rate ratio (g + weight_decay p);   p <- p - m
    with nesterov  p <- p - (momentum m + learning_rate ratio (g + weight_decay p))

source: You et al. 2017, arXiv 1708.03888
state: 4 bytes a parameter
defaults: learning_rate = 1, trust_coefficient = 0.001, momentum = 0.9 (paper), weight_decay = 0.0005 (paper)
departs: where |p| or the denominator is 0 the ratio is 1, as in optax, whose denominator is |g + weight_decay p|; the
    norms are of one copy of a stacked leaf
catalogue: lamb
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lars(Rule):
    """Momentum with learning_rate trust_coefficient |p| / (|g| + weight_decay |p|) as each leaf's own rate.

    momentum: decay of the sum of steps. nesterov: look one step of momentum ahead. vectors: False for plain steps, the
    ratio 1, where a leaf is no matrix.

    >>> from jaxlib_ext import optim
    >>> tx = optim.lars(1.0, vectors=False)
    """

    default_rate = 1.0

    trust_coefficient: Traced = 0.001
    momentum: Traced = 0.9
    nesterov: bool = False
    vectors: bool = True

    default_decay = 0.0005
    own_decay = True

    def slots(self, leaf):
        return dict(m=Slot())

    def update(self, g, slots, p, h):
        u = h.learning_rate * self._ratio(g, p, h) * (g + h.weight_decay * p)
        m = h.momentum * slots["m"] + u
        return -(h.momentum * m + u if self.nesterov else m), dict(m=m)

    def _ratio(self, g, p, h):
        if not (self.vectors or h.leaf.unit):
            return 1
        size = h.leaf.norm(p)
        length = h.leaf.norm(g) + h.weight_decay * size
        return jnp.where((size > 0) & (length > 0), h.trust_coefficient * size / jnp.where(length > 0, length, 1), 1)
