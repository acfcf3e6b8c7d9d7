"""accumulated: gradients of several microbatches gathered in the first moment itself, without a buffer of their own.

    m_new = A m + B g is how the inner rule's moment sees a gradient.  Between boundaries, and p stands still:
    m <- m + B / (A steps) g;   at every steps-th call: p <- p + inner(g / steps)

source: Su 2023, https://github.com/bojone/tiger; for Adam's moments Zhang et al. 2023, arXiv 2305.19982
state: the inner rule's
defaults: inner = signum, steps = 4
departs: Tiger's code decays m at the first microbatch; here at the last, so that the inner rule stays as it is. Only
    for rules whose step is decided by moments linear in the gradient: it is then the step on the mean gradient,
    exactly. Clipping of the gradient's norm acts on every microbatch's
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ..rule import Traced, decayed
from ..wrapped import Wrapped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accumulated(Wrapped):
    """steps: calls of `update` for one step of the inner rule, which sees the mean of their gradients. Schedules count
    calls. The decay of the inner rule's moment must be above 0.

    >>> from jaxlib_ext import optim
    >>> tx = optim.accumulated(1e-3, inner="tiger", steps=8)
    """

    inner: Any = "signum"
    steps: Traced = 4

    own_decay = True  # only where p moves  # pyright: ignore

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.steps) and (self.steps < 1 or self.steps != int(self.steps)):
            raise ValueError(f"Accumulated: steps must be a whole number from 1, not {self.steps!r}")
        if not self.inner.linear or self.inner.shared():
            name = type(self.inner).__name__
            raise ValueError(f"Accumulated: {name}'s step is not decided by moments that are linear in the gradient")

    def slots(self, leaf):
        slots = self.inner.slots(leaf)
        if set(slots) != set(self.inner.linear):
            have, need, name = ", ".join(slots) or "nothing", ", ".join(self.inner.linear), type(self.inner).__name__
            raise ValueError(f"{leaf.path}: Accumulated gathers gradients in {need}, {name} keeps {have}")
        return slots

    def update(self, g, slots, p, h):
        t, share = jnp.ceil(h.t / h.steps), g / h.steps
        last = h.t % h.steps == 0
        inner = h.but(t=t, cache={})
        delta, moved = decayed(self.inner, share, slots, p, inner)
        # A and B, from how the rule treats a moment of ones and a gradient of ones; it folds to constants.
        none, ones = jnp.zeros((), g.dtype), jnp.ones((), g.dtype)
        full = lambda x: {k: jnp.broadcast_to(x, v.shape) for k, v in slots.items()}
        kept = self.inner.update(jnp.broadcast_to(none, g.shape), full(ones), p, inner)[1]
        taken = self.inner.update(jnp.broadcast_to(ones, g.shape), full(none), p, inner)[1]
        gathered = {k: v + taken[k] / kept[k] * share for k, v in slots.items()}
        return jnp.where(last, delta, 0.0), {k: jnp.where(last, moved[k], v) for k, v in gathered.items()}
