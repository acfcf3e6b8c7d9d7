"""adan: Adam with Nesterov's extrapolation by the running mean of gradient differences.

    m <- b1 m + (1 - b1) g;   d <- b2 d + (1 - b2) (g - last);   v <- b3 v + (1 - b3) (g + b2 (g - last))^2;   last <- g
    u = (m / (1 - b1^t) + b2 d / (1 - b2^t)) / (sqrt(v / (1 - b3^t)) + eps)
    p <- (p - learning_rate u) / (1 + learning_rate weight_decay)

source: Xie et al. 2022, arXiv 2208.06677, as in the authors' code; the paper writes 1 - b for each b here
state: 16 bytes a parameter
defaults: b1 = 0.98, b2 = 0.92, b3 = 0.99, eps = 1e-8, weight_decay = 0 (authors' code)
departs: none; the decay is the paper's proximal one, and g - last is 0 at the first update
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adan(Rule):
    """p <- (p - learning_rate (m^ + b2 d^) / (sqrt(v^) + eps)) / (1 + learning_rate weight_decay).

    b1: decay of the momentum m. b2: of the mean gradient difference d. b3: of the second moment v of g + b2 (g - last).

    >>> from jaxlib_ext import optim
    >>> tx = optim.adan(1e-3, weight_decay=0.02)
    """

    b1: Traced = 0.98
    b2: Traced = 0.92
    b3: Traced = 0.99
    eps: Traced = 1e-8

    own_decay = True

    def slots(self, leaf):
        return dict(m=Slot(), d=Slot(), v=Slot(signed=False), last=Slot())

    def update(self, g, slots, p, h):
        change = jnp.where(h.t == 1, 0, g - slots["last"])
        m = h.b1 * slots["m"] + (1 - h.b1) * g
        d = h.b2 * slots["d"] + (1 - h.b2) * change
        v = h.b3 * slots["v"] + (1 - h.b3) * (g + h.b2 * change) ** 2
        u = (m / h.unbias("b1") + h.b2 * d / h.unbias("b2")) / (jnp.sqrt(v / h.unbias("b3")) + h.eps)
        decay = h.unscaled * h.weight_decay
        return -(h.learning_rate * u + decay * p) / (1 + decay), dict(m=m, d=d, v=v, last=g)
