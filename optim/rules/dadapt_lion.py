"""dadapt_lion: Lion that estimates the distance to the solution and steps by it.

    e = d learning_rate;   u = sign(b1 m + (1 - b1) g);   p <- p - e (u + weight_decay p);   q = sqrt(b2)
    m <- b2 m + (1 - b2) e g;   r <- q r + (1 - q) e <u, s>   with s from before;   s <- q s + (1 - q) e u
    d <- max(d, r / ((1 - q) |s|_1))

source: Defazio and Mishchenko 2023, arXiv 2301.07733, as in the authors' package
state: 8 bytes a parameter, and 2 numbers
defaults: d0 = 1e-6, b1 = 0.9, b2 = 0.99, learning_rate = 1 (a factor of what it finds) (package, which calls the method
    experimental and says to leave it at 1 "unless you encounter instability")
departs: a leaf's learning-rate factor scales its step and is no part of the estimate
catalogue: d_adaptation
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced
from ._distance import began, ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class DadaptLion(Rule):
    """learning_rate: a factor of the step that it finds, 1 or a schedule. At 1 the estimate d may run away: on a small
    language model it did, as the package's does, and settled at 0.3; state.shared["d"] shows it. d0: first estimate of
    the distance from the start to the solution, small. b1: interpolation of the update; b2: of the momentum and of the
    estimate.

    >>> from jaxlib_ext import optim
    >>> tx = optim.dadapt_lion(1.0, weight_decay=0.1)
    """

    default_rate = 1.0

    b1: Traced = 0.9
    b2: Traced = 0.99
    d0: Traced = 1e-6

    def slots(self, leaf):
        return dict(m=Slot(), s=Slot(exact=True))

    def shared(self):
        return dict(d=0.0, r=0.0)

    def _sum(self, g, slots, e, h):
        """(sign, new s)."""
        u, q = jnp.sign(h.b1 * slots["m"] + (1 - h.b1) * g), jnp.sqrt(h.b2)
        return u, q * slots["s"] + (1 - q) * e * u

    def measure(self, g, slots, p, h):
        u, s = self._sum(g, slots, began(h.d, h) * h.unscaled, h)
        return dict(us=jnp.sum(u * slots["s"]), size=jnp.sum(jnp.abs(s)))

    def decide(self, sums, h):
        d, q = began(h.d, h), jnp.sqrt(h.b2)
        r = q * h.r + (1 - q) * d * h.learning_rate * sums["us"]
        return dict(d=jnp.maximum(d, ratio(r, (1 - q) * sums["size"], d)), r=r)

    def update(self, g, slots, p, h):
        e = self.rate(h)
        u, s = self._sum(g, slots, e, h)
        return -h.scale * e * u, dict(m=h.b2 * slots["m"] + (1 - h.b2) * e * g, s=s)

    def rate(self, h):
        return began(h.old_d, h) * h.unscaled
