"""dadapt_adam: Adam that estimates the distance to the solution and steps by it.

    e = d learning_rate [sqrt(1 - b2^t) / (1 - b1^t) if bias_correction];   q = sqrt(b2)
    r <- q r + (1 - q) e <g, s / (sqrt(v) + eps)>   with s and v from before;   s <- q s + (1 - q) e g
    m <- b1 m + (1 - b1) e g;   v <- b2 v + (1 - b2) g^2
    d <- max(d, min(r / ((1 - q) |s|_1), growth d));   p <- p - m / (sqrt(v) + eps) - e weight_decay p

source: Defazio and Mishchenko 2023, arXiv 2301.07733, as in the authors' package
state: 12 bytes a parameter, and 2 numbers
defaults: d0 = 1e-6, b1 = 0.9, b2 = 0.999, eps = 1e-8, learning_rate = 1 (a factor of what it finds), growth unlimited,
    bias_correction = False (package; optax corrects always)
departs: none; a leaf's learning-rate factor is the package's layer_scale
catalogue: d_adaptation
"""

import dataclasses
import math

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced
from ._distance import began, paced, ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class DadaptAdam(Rule):
    """learning_rate: a factor of the step that it finds, 1 or a schedule. d0: first estimate of the distance from the
    start to the solution, small. growth: largest factor of d in one update; 1.02 warms up slowly. b1, b2, eps: Adam's.
    bias_correction: of the moments, by the factor of e.

    >>> from jaxlib_ext import optim
    >>> tx = optim.dadapt_adam(1.0, weight_decay=0.1)
    """

    default_rate = 1.0

    b1: Traced = 0.9
    b2: Traced = 0.999
    eps: Traced = 1e-8
    d0: Traced = 1e-6
    growth: Traced = math.inf
    bias_correction: bool = False

    def slots(self, leaf):
        return dict(m=Slot(), v=Slot(signed=False), s=Slot(exact=True))

    def shared(self):
        return dict(d=0.0, r=0.0)

    def _sum(self, g, s, e, h):
        q = jnp.sqrt(h.b2)
        return q * s + (1 - q) * e * g

    def measure(self, g, slots, p, h):
        s, e = slots["s"], paced(h.d, h.unscaled, h, self.bias_correction)
        along = jnp.sum(g * s / (jnp.sqrt(slots["v"]) + h.eps))
        return dict(gs=h.scale * along, size=h.scale * jnp.sum(jnp.abs(self._sum(g, s, e, h))))

    def decide(self, sums, h):
        d, q = began(h.d, h), jnp.sqrt(h.b2)
        r = q * h.r + (1 - q) * paced(h.d, h.learning_rate, h, self.bias_correction) * sums["gs"]
        return dict(d=jnp.maximum(d, jnp.minimum(ratio(r, (1 - q) * sums["size"], d), h.growth * d)), r=r)

    def update(self, g, slots, p, h):
        e = self.rate(h)
        m = h.b1 * slots["m"] + (1 - h.b1) * h.scale * e * g
        v = h.b2 * slots["v"] + (1 - h.b2) * g**2
        return -m / (jnp.sqrt(v) + h.eps), dict(m=m, v=v, s=self._sum(g, slots["s"], e, h))

    def rate(self, h):
        return paced(h.old_d, h.unscaled, h, self.bias_correction)
