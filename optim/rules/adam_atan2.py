"""adam_atan2: Adam with the arc tangent of the quotient, which needs no eps and bounds the step.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
    p <- p - learning_rate a atan2(m / (1 - b1^t), b sqrt(v / (1 - b2^t)))

source: Everett et al. 2024, arXiv 2407.05872
state: 8 bytes a parameter
defaults: a = 1.27, b = 1 (paper; a = 4/pi makes a step of 1 where m^ = sqrt(v^)); b1 = 0.9, b2 = 0.99 as in the
    public package adam-atan2-pytorch
departs: none
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamAtan2(Rule):
    """p <- p - learning_rate a atan2(m^, b sqrt(v^)); multiplying all gradients by a number changes nothing.

    b1, b2: decay of the first and second moment. a: scale of the step. b: of the root; a/b is the slope at 0.

    >>> from jaxlib_ext import optim
    >>> tx = optim.adam_atan2(1e-3, weight_decay=0.1)
    """

    b1: Traced = 0.9
    b2: Traced = 0.99
    a: Traced = 1.27
    b: Traced = 1.0

    def slots(self, leaf):
        return dict(m=Slot(), v=Slot(signed=False))

    def update(self, g, slots, p, h):
        m = h.b1 * slots["m"] + (1 - h.b1) * g
        v = h.b2 * slots["v"] + (1 - h.b2) * g**2
        u = h.a * jnp.arctan2(m / h.unbias("b1"), h.b * jnp.sqrt(v / h.unbias("b2")))
        return -h.learning_rate * u, dict(m=m, v=v)
