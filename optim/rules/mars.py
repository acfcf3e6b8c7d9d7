"""mars: any rule with momentum, on gradients from which the change since the last batch is partly extrapolated.

    c = g + gamma b1 / (1 - b1) (g - last);   c <- c / max(1, |c|);   last <- g;   the inner rule sees c

source: Yuan et al. 2024, arXiv 2411.10438, the approximate form, as in the authors' code
state: the inner rule's and 4 bytes a parameter
defaults: learning_rate = 3e-3, gamma = 0.025, inner = adamw(b1=0.95, b2=0.99) (authors' code); signum(b1=0.95) is
    their MARS-Lion
departs: |c| is of one copy of a stacked leaf; vectors are treated as matrices are, as with the authors' optimize_1d
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ..rule import Slot, Traced, hypers
from ..wrapped import Wrapped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mars(Wrapped):
    """The inner rule on c = g + gamma b1 / (1 - b1) (g - last), shortened to length 1; last is the gradient before.

    inner: a rule with a b1, the decay of its momentum. gamma: strength of the correction.

    >>> from jaxlib_ext import optim
    >>> tx = optim.mars(3e-3), optim.mars(3e-4, inner="signum(b1=0.95)")
    """

    default_rate = 3e-3  # pyright: ignore

    inner: Any = "adamw(b1=0.95, b2=0.99)"
    gamma: Traced = 0.025

    def __post_init__(self):
        super().__post_init__()
        if "b1" not in hypers(self.inner):
            raise ValueError(f"Mars: the inner rule needs a momentum b1, {type(self.inner).__name__} has none")

    def slots(self, leaf):
        return dict(last=Slot()) | self.inner.slots(leaf)

    def measure(self, g, slots, p, h):
        return self.inner.measure(*self._seen(g, slots, h), p, h)

    def update(self, g, slots, p, h):
        delta, new = self.inner.update(*self._seen(g, slots, h), p, h)
        return delta, dict(new, last=g)

    def _seen(self, g, slots, h):
        """(gradient, slots) as the inner rule has them."""
        c = g + h.gamma * h.b1 / (1 - h.b1) * (g - slots["last"])
        return c / jnp.maximum(1, h.leaf.norm(c)), {k: v for k, v in slots.items() if k != "last"}
