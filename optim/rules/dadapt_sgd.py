"""dadapt_sgd: gradient descent that estimates the distance to the solution and steps by it.

    lambda = d learning_rate / |g_1|, of the first gradient that is not 0;   r <- r + lambda <g, s>;   s <- s + lambda g
    d <- max(d, min(2 r / |s|, growth d));   p <- b1 p + (1 - b1) (p_0 - s)

source: Defazio and Mishchenko 2023, arXiv 2301.07733, as in the authors' package
state: 8 bytes a parameter, and 3 numbers
defaults: d0 = 1e-6, learning_rate = 1 (a factor of what it finds), growth unlimited, momentum b1 = 0 (package)
departs: a leaf's learning-rate factor stretches p_0 - p and is no part of the estimate
catalogue: d_adaptation
"""

import dataclasses
import math

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced
from ._distance import began, ratio, with_decay


@dataclasses.dataclass(frozen=True, kw_only=True)
class DadaptSgd(Rule):
    """learning_rate: a factor of the step that it finds, 1 or a schedule. d0: first estimate of the distance from the
    start to the solution, small. growth: largest factor of d in one update. b1: momentum. weight_decay: added to the
    gradient, times p.

    >>> from jaxlib_ext import optim
    >>> tx = optim.dadapt_sgd(1.0)
    """

    default_rate = 1.0

    d0: Traced = 1e-6
    growth: Traced = math.inf
    b1: Traced = 0.0

    own_decay = True

    def slots(self, leaf):
        return dict(s=Slot(exact=True), x0=Slot("params", constant=True))

    def shared(self):
        return dict(d=0.0, r=0.0, g1=0.0)

    def measure(self, g, slots, p, h):
        s, whole = slots["s"], with_decay(g, p, h)
        dot = lambda a, b: jnp.sum(a * b)
        return dict(first=dot(g, g), gg=dot(whole, whole), gs=dot(whole, s), ss=dot(s, s))

    def decide(self, sums, h):
        d, g1 = began(h.d, h), jnp.where(h.g1 > 0, h.g1, jnp.sqrt(sums["first"]))
        step = ratio(d * h.learning_rate, g1, 0.0)
        r = h.r + step * sums["gs"]
        length = jnp.sqrt(jnp.maximum(sums["ss"] + 2 * step * sums["gs"] + step**2 * sums["gg"], 0))
        return dict(d=jnp.maximum(d, jnp.minimum(ratio(2 * r, length, d), h.growth * d)), r=r, g1=g1)

    def update(self, g, slots, p, h):
        step = ratio(began(h.old_d, h) * h.unscaled, h.g1, 0.0)
        s = slots["s"] + step * with_decay(g, p, h)
        return (1 - h.b1) * (slots["x0"] - h.scale * s - p), dict(s=s, x0=slots["x0"])
