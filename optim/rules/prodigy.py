"""prodigy: Adam that estimates the distance to the solution, weighing recent gradients more, and steps by it.

    e = d learning_rate [sqrt(1 - b2^t) / (1 - b1^t) if bias_correction]
    r <- b3 r + (d / d0) e <g, p_0 - p>;   s <- b3 s + (d / d0) (d if safeguard_warmup else e) g
    m <- b1 m + (1 - b1) d g;   v <- b2 v + (1 - b2) d^2 g^2;   found = d_coef r / |s|_1
    d <- min(max of d0 and all found, growth d), but found itself if d is still d0
    p <- p - e m / (sqrt(v) + d eps) - e weight_decay p, with the new d in the divisor

source: Mishchenko and Defazio 2023, arXiv 2306.06101, as in the authors' package
state: 8 + 8 / slice_p bytes a parameter, and 3 numbers
defaults: d0 = 1e-6, d_coef = 1, b1 = 0.9, b2 = 0.999, b3 = sqrt(b2), eps = 1e-8, growth unlimited, slice_p = 1,
    bias_correction = False, safeguard_warmup = False, learning_rate = 1, a factor (package; optax corrects always)
departs: slice_p takes every entry of that many along the last axis, not of the flattened parameter; a leaf's
    learning-rate factor scales its step and is no part of the estimate
"""

import dataclasses
import math

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced
from ._distance import began, paced, ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prodigy(Rule):
    """learning_rate: a factor of the step that it finds, 1 or a schedule. d_coef: factor of the estimate, the way to
    tune the method. d0: first estimate, small. growth: largest factor of d in one update. b1, b2, eps: Adam's. b3:
    memory of the estimate, None for sqrt(b2). slice_p: estimate from one entry in so many; 11 saves nearly half the
    state. safeguard_warmup: keep the rate out of the estimate's divisor, for long warm-ups.
    bias_correction: of the moments, by the factor of e.

    >>> from jaxlib_ext import optim
    >>> tx = optim.prodigy(1.0, slice_p=11, weight_decay=0.01)
    """

    default_rate = 1.0

    b1: Traced = 0.9
    b2: Traced = 0.999
    b3: float | None = None
    eps: Traced = 1e-8
    d0: Traced = 1e-6
    d_coef: Traced = 1.0
    growth: Traced = math.inf
    bias_correction: bool = False
    safeguard_warmup: bool = False
    slice_p: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.b3 is not None and not 0 <= self.b3 < 1:
            raise ValueError(f"Prodigy: b3 must be in [0, 1) or None, not {self.b3!r}")
        if not isinstance(self.slice_p, int) or self.slice_p < 1:
            raise ValueError(f"Prodigy: slice_p must be a whole number from 1, not {self.slice_p!r}")

    def slots(self, leaf):
        shape = (*leaf.shape[:-1], -(-leaf.shape[-1] // self.slice_p)) if leaf.shape else ()
        return dict(m=Slot(), v=Slot(signed=False), s=Slot(shape=shape, exact=True),
                    x0=Slot(self._slice, shape=shape, constant=True))  # fmt: skip

    def _slice(self, x):
        return x[..., :: self.slice_p] if x.ndim else x

    def shared(self):
        return dict(d=0.0, top=0.0, r=0.0)

    def _memory(self, h):
        return jnp.sqrt(h.b2) if self.b3 is None else self.b3

    def _sum(self, g, s, d, h):
        d, e = began(d, h), paced(d, h.unscaled, h, self.bias_correction)
        return self._memory(h) * s + d / h.d0 * (d if self.safeguard_warmup else e) * self._slice(g)

    def measure(self, g, slots, p, h):
        moved = jnp.sum(self._slice(g) * (slots["x0"] - self._slice(p)))
        return dict(moved=moved, size=jnp.sum(jnp.abs(self._sum(g, slots["s"], h.d, h))))

    def decide(self, sums, h):
        d, top = began(h.d, h), began(h.top, h)
        r = self._memory(h) * h.r + d / h.d0 * paced(h.d, h.learning_rate, h, self.bias_correction) * sums["moved"]
        found = ratio(h.d_coef * r, sums["size"], 0.0)
        first = jnp.where(d == h.d0, jnp.maximum(d, found), d)
        high = jnp.maximum(top, found)
        return dict(d=jnp.where(sums["size"] > 0, jnp.minimum(high, first * h.growth), d), top=high, r=r)

    def update(self, g, slots, p, h):
        d = began(h.old_d, h)
        m = h.b1 * slots["m"] + (1 - h.b1) * d * g
        v = h.b2 * slots["v"] + (1 - h.b2) * d**2 * g**2
        delta = -h.scale * self.rate(h) * m / (jnp.sqrt(v) + h.d * h.eps)
        return delta, dict(m=m, v=v, s=self._sum(g, slots["s"], h.old_d, h), x0=slots["x0"])

    def rate(self, h):
        return paced(h.old_d, h.unscaled, h, self.bias_correction)
