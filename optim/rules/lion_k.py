"""lion_k: Lion with the gradient of any convex function K of the momentum in place of its sign.

    c = b1 m + (1 - b1) g;   p <- p - learning_rate (grad K(c) + weight_decay p);   m <- b2 m + (1 - b2) g
    l1: sign(c)   l2: c / |c|   rows: each neuron's c / |c|   huber: clip(c / width, -1, 1)
    log_cosh: tanh(c / width)   identity: c

source: Chen et al. 2023, arXiv 2310.05898; it minimises the loss plus K*(weight_decay p) / weight_decay
state: 4 bytes a parameter
defaults: learning_rate = 3e-4, K = l1, b1 = 0.9, b2 = 0.99, weight_decay = 0.1 (Lion's here); width = 1
departs: c is written with the new momentum m', as b1/b2 m' + (b2 - b1)/b2 g, which is the same. Norms are of one copy
    of a stacked leaf; a vector is one row. The nuclear norm, which makes a Muon, is not among the K
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced

NAMES = ("l1", "l2", "rows", "huber", "log_cosh", "identity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LionK(Rule):
    """p <- p - learning_rate grad K(c), c = b1 m + (1 - b1) g.

    b1: interpolation of the update; b2: of the momentum, above 0; with b1 = b2 c is the new momentum. K: l1 (Lion;
    Signum where b1 = b2), l2 (normalised descent), rows (per neuron: what makes one output, or one row of an
    embedding), huber or log_cosh (linear below width, sign above), identity (descent with momentum). width: of the
    linear part of huber and log_cosh.

    >>> from jaxlib_ext import optim
    >>> tx = optim.lion_k(1e-4, K="huber", width=1e-3, weight_decay=1.0)
    """

    default_rate = 3e-4

    b1: Traced = 0.9
    b2: Traced = 0.99
    width: Traced = 1.0
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
        if self.K == "huber":
            return jnp.clip(c / h.width, -1, 1)
        if self.K == "log_cosh":
            return jnp.tanh(c / h.width)
        return jnp.sign(c) if self.K == "l1" else c
