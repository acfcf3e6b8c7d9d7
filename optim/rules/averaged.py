"""averaged: any rule, evaluated at an average of its points in which the latest count for most.

    p <- p + inner;   x <- x + (gamma + 1) / (gamma + t) (p - x);   evaluate at x

source: polynomial-decay averaging, Shamir and Zhang 2012, arXiv 1212.1824; with DoG: Ivgi et al. 2023, arXiv 2302.12022
state: the inner rule's and 4 bytes a parameter
defaults: inner = dog, gamma = 8 (DoG's package)
departs: none; bfloat16 parameters enter the average before they are rounded
"""

import dataclasses
from typing import Any

from ..rule import Slot, Traced, decayed
from ..wrapped import Wrapped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Averaged(Wrapped):
    """The inner rule trains p; evaluate at x, `tx.eval_params(state, params)`. gamma: how much more late points
    count, about i^gamma for point i; 0 is the plain mean.

    >>> from jaxlib_ext import optim
    >>> tx = optim.averaged(1.0, inner="dowg", gamma=8.0)
    """

    inner: Any = "dog"
    gamma: Traced = 8.0

    own_decay = True  # the inner rule's step takes it along  # pyright: ignore
    two_points = True  # pyright: ignore

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.gamma) and not self.gamma >= 0:
            raise ValueError(f"Averaged: gamma must be at least 0, not {self.gamma!r}")

    def slots(self, leaf):
        return dict(average=Slot("params")) | self.inner.slots(leaf)

    def update(self, g, slots, p, h):
        delta, new = decayed(self.inner, g, {k: v for k, v in slots.items() if k != "average"}, p, h)
        x, share = slots["average"], h.once("averaged", lambda: (h.gamma + 1) / (h.gamma + h.t))
        return delta, dict(new, average=x + share * (p + delta - x))

    def evaluated(self, slots, p, h):
        return slots["average"]
