"""lion: the sign of an interpolated momentum.

    c = b1 m + (1 - b1) g;   p <- p - learning_rate (sign(c) + weight_decay p);   m <- b2 m + (1 - b2) g

source: Chen et al. 2023, arXiv 2302.06675
state: 4 bytes a parameter
defaults: b1 = 0.9, b2 = 0.99 (paper); learning_rate = 3e-4, weight_decay = 0.1
departs: none; the sign is taken of m' + (b2 - b1)/b1 g with the new momentum m', which is a positive multiple of c
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Rule):
    """p <- p - learning_rate sign(b1 m + (1 - b1) g). b1: interpolation of the update, above 0; b2: of the momentum.

    >>> from jaxlib_ext import optim
    >>> tx = optim.lion(1e-4, weight_decay=1.0)
    """

    b1: Traced = 0.9
    b2: Traced = 0.99

    default_rate = 3e-4
    default_decay = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.b1) and not self.b1 > 0:
            raise ValueError(f"Lion: b1 must be above 0, not {self.b1!r}")

    def slots(self, leaf):
        return dict(m=Slot())

    def update(self, g, slots, p, h):
        # With the old momentum below, a donated one must be copied first: XLA on CPU then takes 3.7 times as long.
        m = h.b2 * slots["m"] + (1 - h.b2) * g
        return -h.learning_rate * jnp.sign(m + (h.b2 - h.b1) / h.b1 * g), dict(m=m)
