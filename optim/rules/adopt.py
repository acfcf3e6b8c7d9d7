"""adopt: Adam that divides by the second moment of earlier gradients only, and before the momentum is taken.

    at t = 1: v = g^2, nothing moves;   after that
    m <- b1 m + (1 - b1) clip(g / max(sqrt(v), eps), -c, c),  c = (t - 1)^0.25;   p <- p - learning_rate m
    v <- b2 v + (1 - b2) g^2

source: Taniguchi et al. 2024, arXiv 2411.02853, with the clipping of its second version; the authors' code
state: 8 bytes a parameter
defaults: b1 = 0.9, b2 = 0.9999, eps = 1e-6 (authors' code)
departs: none; weight decay acts from the first update on, as in the authors' code
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adopt(Rule):
    """m <- b1 m + (1 - b1) clip(g / max(sqrt(v), eps), (t - 1)^clip_power);  p <- p - learning_rate m.

    b1: decay of the momentum. b2: of the second moment v, that of the gradients before this one. eps: least root of v.
    clip_power: how fast the bound on a normalised gradient grows.

    >>> from jaxlib_ext import optim
    >>> tx = optim.adopt(1e-3, weight_decay=0.1)
    """

    b1: Traced = 0.9
    b2: Traced = 0.9999
    eps: Traced = 1e-6
    clip_power: Traced = 0.25

    def slots(self, leaf):
        return dict(m=Slot(), v=Slot(signed=False))

    def update(self, g, slots, p, h):
        first = h.t == 1
        bound = jnp.where(first, 0, (h.t - 1) ** h.clip_power)
        normal = jnp.clip(g / jnp.maximum(jnp.sqrt(slots["v"]), h.eps), -bound, bound)
        m = h.b1 * slots["m"] + (1 - h.b1) * normal
        v = jnp.where(first, g**2, h.b2 * slots["v"] + (1 - h.b2) * g**2)
        return -h.learning_rate * m, dict(m=m, v=v)
