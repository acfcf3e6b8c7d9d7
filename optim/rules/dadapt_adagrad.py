"""dadapt_adagrad: AdaGrad by dual averaging that estimates the distance to the solution and steps by it.

    a <- a + g^2;   s <- s + d learning_rate g;   r <- r + (d learning_rate)^2 sum g^2 / (sqrt(a) + eps)
    d <- max(d, min((sum s^2 / (sqrt(a) + eps) - r) / |s|_1, growth d))
    p <- b1 p + (1 - b1) (p_0 - s / (sqrt(a) + eps)),   a starting at 1e-6

source: Defazio and Mishchenko 2023, arXiv 2301.07733, as in the authors' package
state: 12 bytes a parameter, and 2 numbers
defaults: d0 = 1e-6, eps = 1e-6, learning_rate = 1 (a factor of what it finds), growth unlimited, b1 = 0 (package)
departs: the sum of s^2 is taken anew at every step, not from differences; a leaf's learning-rate factor stretches
    p_0 - p and is no part of the estimate
catalogue: d_adaptation
"""

import dataclasses
import math

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced
from ._distance import began, ratio, with_decay

FLOOR = 1e-6  # what a starts with


@dataclasses.dataclass(frozen=True, kw_only=True)
class DadaptAdagrad(Rule):
    """learning_rate: a factor of the step that it finds, 1 or a schedule. d0: first estimate of the distance from the
    start to the solution, small. growth: largest factor of d in one update. b1: momentum. eps: added to the root.
    weight_decay: added to the gradient, times p.

    >>> from jaxlib_ext import optim
    >>> tx = optim.dadapt_adagrad(1.0)
    """

    default_rate = 1.0

    d0: Traced = 1e-6
    growth: Traced = math.inf
    b1: Traced = 0.0
    eps: Traced = 1e-6

    own_decay = True

    def slots(self, leaf):
        return dict(a=Slot(signed=False, exact=True), s=Slot(exact=True), x0=Slot("params", constant=True))

    def shared(self):
        return dict(d=0.0, r=0.0)

    def _sums(self, g, slots, d, h):
        """(new s, new a, the divisor)."""
        a = slots["a"] + g**2
        return slots["s"] + d * h.unscaled * g, a, jnp.sqrt(a + FLOOR) + h.eps

    def measure(self, g, slots, p, h):
        g = with_decay(g, p, h)
        s, _, root = self._sums(g, slots, began(h.d, h), h)
        return dict(ss=jnp.sum(s**2 / root), gg=jnp.sum(g**2 / root), size=jnp.sum(jnp.abs(s)))

    def decide(self, sums, h):
        d = began(h.d, h)
        r = h.r + (d * h.learning_rate) ** 2 * sums["gg"]
        return dict(d=jnp.maximum(d, jnp.minimum(ratio(sums["ss"] - r, sums["size"], d), h.growth * d)), r=r)

    def update(self, g, slots, p, h):
        s, a, root = self._sums(with_decay(g, p, h), slots, began(h.old_d, h), h)
        return (1 - h.b1) * (slots["x0"] - h.scale * s / root - p), dict(s=s, a=a, x0=slots["x0"])
