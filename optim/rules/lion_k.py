"""lion_k: Lion with the gradient of any convex function K of the momentum in place of its sign.

    c = b1 m + (1 - b1) g;   p <- p - learning_rate (grad K(c) + weight_decay p);   m <- b2 m + (1 - b2) g
    l1: sign(c)   l2: c / |c|   rows: each neuron's c / |c|   huber: clip(c / width, -1, 1)
    log_cosh: tanh(c / width)   identity: c   threshold: sign(c) [|c| > width]
    lp: sign(c) |c|^(power - 1) / |c|_power^(power - 1)   nuclear: U V', of c = U S V'

source: Chen et al. 2023, arXiv 2310.05898; it minimises the loss plus K*(weight_decay p) / weight_decay. nuclear: the
    same authors' https://www.cs.utexas.edu/~lqiang/lionk/html/intro.html, who show that it is Muon
state: 4 bytes a parameter
defaults: learning_rate = 3e-4, K = l1, b1 = 0.9, b2 = 0.99, weight_decay = 0.1 (Lion's here); width = 1, power = 1.5
departs: which K are here is our choice, the paper takes any that is convex. c is written with the new momentum m', as
    b1/b2 m' + (b2 - b1)/b2 g, which is the same. Norms are of one copy of a stacked leaf; a vector is one row. U V' is
    computed by matrix products alone, exact where a singular value is above 1e-4 of |c|, below that too small
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced
from ._distance import TINY
from ._polar import polar

NAMES = ("l1", "l2", "lp", "rows", "nuclear", "huber", "log_cosh", "threshold", "identity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LionK(Rule):
    """p <- p - learning_rate grad K(c), c = b1 m + (1 - b1) g.

    b1: interpolation of the update; b2: of the momentum, above 0; with b1 = b2 c is the new momentum. K: l1 (Lion;
    Signum where b1 = b2), l2 (normalised descent), rows (per neuron: what makes one output, or one row of an
    embedding), lp (between l1 at power 1 and l2 at 2), nuclear (Muon's: all singular values 1, of the matrix from
    inputs to outputs), huber or log_cosh (linear below width, sign above), threshold (nothing below width, sign above:
    the loss plus width |p|_1), identity (descent with momentum). width: of huber, log_cosh and threshold. power: of lp,
    above 1.

    >>> from jaxlib_ext import optim
    >>> tx = optim.lion_k(1e-4, K="huber", width=1e-3, weight_decay=1.0)
    """

    default_rate = 3e-4

    b1: Traced = 0.9
    b2: Traced = 0.99
    width: Traced = 1.0
    power: Traced = 1.5
    K: str = "l1"

    default_decay = 0.1

    def __post_init__(self):
        super().__post_init__()
        if self.K not in NAMES:
            raise ValueError(f"LionK: K must be one of {', '.join(NAMES)}, not {self.K!r}")
        for name in ("b2", "width"):
            value = getattr(self, name)
            if not callable(value) and not value > 0:
                raise ValueError(f"LionK: {name} must be above 0, not {value!r}")
        if not callable(self.power) and not self.power > 1:
            raise ValueError(f"LionK: power must be above 1, not {self.power!r}")

    def slots(self, leaf):
        return dict(m=Slot())

    def update(self, g, slots, p, h):
        m = h.b2 * slots["m"] + (1 - h.b2) * g
        c = (h.b1 * m + (h.b2 - h.b1) * g) / h.b2
        return -h.learning_rate * self._gradient(c, h), dict(m=m)

    def _gradient(self, c, h):
        """grad K(c)."""
        if self.K in ("l2", "rows"):
            axes = h.leaf.unit if self.K == "rows" and h.leaf.unit else h.leaf.own
            length = jnp.sqrt(jnp.sum(c**2, axes, keepdims=True))
            return c / jnp.where(length > 0, length, 1)
        if self.K == "lp":
            size = jnp.abs(c)
            share = size / jnp.maximum(jnp.max(size, h.leaf.own, keepdims=True), TINY)  # its powers do not underflow
            length = h.leaf.sum(share**h.power) ** (1 / h.power)
            return jnp.sign(c) * (share / jnp.maximum(length, TINY)) ** (h.power - 1)
        if self.K == "nuclear":
            return polar(c, h.leaf)
        if self.K == "threshold":
            return jnp.where(jnp.abs(c) > h.width, jnp.sign(c), 0.0)
        if self.K == "huber":
            return jnp.clip(c / h.width, -1, 1)
        if self.K == "log_cosh":
            return jnp.tanh(c / h.width)
        return jnp.sign(c) if self.K == "l1" else c
