"""signum: the sign of the momentum.

    m <- b1 m + (1 - b1) g;   p <- p - learning_rate sign(m)

source: Bernstein et al. 2018, arXiv 1802.04434
state: 4 bytes a parameter; 0 with b1 0, which is signSGD
defaults: b1 = 0.9 (paper's experiments)
departs: none
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signum(Rule):
    """p <- p - learning_rate sign(m), m <- b1 m + (1 - b1) g. A b1 of exactly 0 keeps no state.

    >>> from jaxlib_ext import optim
    >>> tx = optim.signum(1e-4, weight_decay=0.1)
    """

    b1: Traced = 0.9

    linear = ("m",)

    def slots(self, leaf):
        return dict(m=Slot()) if callable(self.b1) or self.b1 else {}

    def update(self, g, slots, p, h):
        if not slots:
            return -h.learning_rate * jnp.sign(g), {}
        m = h.b1 * slots["m"] + (1 - h.b1) * g
        return -h.learning_rate * jnp.sign(m), dict(m=m)
