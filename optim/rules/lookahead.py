"""lookahead: every k steps of any rule, back to a point between where it began and where it came.

    p <- p + inner;   every k steps: slow <- slow + alpha (p - slow), p <- slow

source: Zhang et al. 2019, arXiv 1907.08610
state: the inner rule's and 4 bytes a parameter
defaults: inner = adamw, k = 5, alpha = 0.5 (paper)
departs: none; the inner rule's state is kept, or with reset started anew at every return; `eval_params` gives slow
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ..rule import Slot, Traced, decayed
from ..wrapped import Wrapped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lookahead(Wrapped):
    """k: inner steps between returns. alpha: how far slow goes, 1 all the way. reset: start the inner rule's slots and
    its step count anew after every return. Evaluate at `tx.eval_params(state, params)`.

    >>> from jaxlib_ext import optim
    >>> tx = optim.lookahead(1e-3, inner="lion", k=5)
    """

    inner: Any = "adamw"
    k: Traced = 5
    alpha: Traced = 0.5
    reset: bool = False

    own_decay = True  # the inner rule's step takes it along  # pyright: ignore
    two_points = True  # pyright: ignore

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.k) and (self.k < 1 or self.k != int(self.k)):
            raise ValueError(f"Lookahead: k must be a whole number from 1, not {self.k!r}")
        if self.reset and self.inner.shared():
            name = type(self.inner).__name__
            raise ValueError(f"Lookahead: reset cannot start {name} anew; it keeps numbers of all leaves")

    def slots(self, leaf):
        inner = self.inner.slots(leaf)
        if self.reset and any(slot.start not in ("zeros", "ones") for slot in inner.values()):
            raise ValueError(f"Lookahead: reset cannot start {type(self.inner).__name__} anew; it keeps a copy of p")
        return dict(slow=Slot("params")) | inner

    def _now(self, h):
        return h.but(t=(h.t - 1) % h.k + 1, cache={}) if self.reset else h

    def measure(self, g, slots, p, h):
        return self.inner.measure(g, slots, p, self._now(h))

    def update(self, g, slots, p, h):
        delta, new = decayed(self.inner, g, {k: v for k, v in slots.items() if k != "slow"}, p, self._now(h))
        back = h.t % h.k == 0
        moved = jnp.where(back, p + delta - slots["slow"], 0.0)
        if self.reset:
            starts = self.inner.slots(h.leaf)
            new = {k: jnp.where(back, getattr(jnp, str(starts[k].start))(v.shape, v.dtype), v) for k, v in new.items()}
        return delta - (1 - h.alpha) * moved, dict(new, slow=slots["slow"] + h.alpha * moved)

    def evaluated(self, slots, p, h):
        return slots["slow"]
