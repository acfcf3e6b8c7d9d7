"""cautious: any rule, with the entries left out that would climb the current gradient.

    u <- u [u (-g) > 0] / max(mean[u (-g) > 0], floor)

source: Liang et al. 2024, arXiv 2411.16085
state: the inner rule's
defaults: inner = adamw, floor = 1e-3 (public code)
departs: the mean is over one copy of a stacked leaf
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ..rule import Traced
from ..wrapped import Wrapped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cautious(Wrapped):
    """Keeps what of the inner rule's update agrees in sign with the descent direction, rescaled to the same mean.

    floor: smallest share of agreeing entries that the rescaling goes by.

    >>> from jaxlib_ext import optim
    >>> tx = optim.cautious(1e-3, inner="lion")
    """

    inner: Any = "adamw"
    floor: Traced = 1e-3

    def update(self, g, slots, p, h):
        u, new = self.inner.update(g, slots, p, h)
        agree = (u * g < 0).astype(u.dtype)
        return u * agree / jnp.maximum(h.leaf.mean(agree), h.floor), new
