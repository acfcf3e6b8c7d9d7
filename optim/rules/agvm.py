"""agvm: any rule, with learning rates of parts of the model set so that their gradients are equally noisy.

    noise_i = 1 - cos(g1_i, g2_i)   of two half-batch gradients, over all parameters of part i
    every `interval` steps from `begin` on: f_i <- memory f_i + (1 - memory) sqrt(clip(noise_0 / noise_i, low, high))
    p <- p + inner(g) with learning_rate f_i;   g1, g2 are over sqrt(b2 v + (1 - b2) g1^2) + eps if the rule keeps a v

source: Xue et al. 2022, arXiv 2210.11078, as in the authors' code
state: the inner rule's, and a number a part
defaults: inner = adamw, memory = 0.97, interval = 5, begin = 500, low = 0.5, high = 10 (public code)
departs: none; 1e-6 is added to every noise as in the public code; the anchor, the paper's backbone, is the first part
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from ..rule import Traced, decayed
from ..table import path_of
from ..wrapped import Wrapped
from ._distance import TINY

SMALL = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agvm(Wrapped):
    """parts: patterns of parameter paths, or kinds of the declaration as "kind:matrix"; the first that matches takes a
    parameter, and the first of all is the anchor whose factor stays 1. memory, interval, begin, low, high: as above.
    `update` needs microbatch_grads=, gradients of two halves of the batch, [2, *shape] for every parameter.

    >>> from jaxlib_ext import optim
    >>> tx = optim.agvm(1e-3, parts=("backbone", "neck", "head"))
    """

    inner: Any = "adamw"
    parts: tuple[str, ...] = ("",)
    memory: Traced = 0.97
    interval: Traced = 5
    begin: Traced = 500
    low: Traced = 0.5
    high: Traced = 10.0

    own_decay = True  # it follows the part's rate  # pyright: ignore

    @property
    def needs(self):  # pyright: ignore
        return ("microbatch_grads", *self.inner.needs)

    def _part(self, leaf):
        for i, pattern in enumerate(self.parts):
            kind = pattern.removeprefix("kind:")
            if leaf.kind == kind if kind != pattern else re.search(pattern, leaf.path):
                return i
        raise ValueError(f"{leaf.path}: none of Agvm's parts {', '.join(map(repr, self.parts))} takes this parameter")

    def slots(self, leaf):
        self._part(leaf)
        return self.inner.slots(leaf)

    def shared(self):
        return {f"factor_{i}": 1.0 for i in range(len(self.parts))} | self.inner.shared()

    def prepare(self, grads, params, h):
        paths = [path_of(k) for k, _ in jax.tree.leaves_with_path(grads)]
        for pattern in self.parts:
            if not pattern.startswith("kind:") and not any(re.search(pattern, path) for path in paths):
                raise ValueError(f"Agvm: the part {pattern!r} matches no parameter")
        return self.inner.prepare(grads, params, h)

    def measure(self, g, slots, p, h):
        halves = jnp.asarray(h.extra["microbatch_grads"], g.dtype)
        if halves.shape != (2, *g.shape):
            raise ValueError(f"{h.leaf.path}: microbatch_grads must be {(2, *g.shape)}, not {halves.shape}")
        one, two = halves
        if "v" in slots and {"b2", "eps"} <= set(h.hyper) and slots["v"].shape == g.shape:
            scaled = lambda x: x / (jnp.sqrt(h.b2 * slots["v"] + (1 - h.b2) * x**2) + h.eps)
            one, two = scaled(one), scaled(two)
        here = self._part(h.leaf)
        found, none = self.inner.measure(g, slots, p, h), jnp.zeros((), g.dtype)
        for name, x, y in (("dot", one, two), ("one", one, one), ("two", two, two)):
            found |= {f"{name}_{i}": jnp.sum(x * y) if i == here else none for i in range(len(self.parts))}
        return found

    def decide(self, sums, h):
        size = lambda i: jnp.sqrt(jnp.maximum(sums[f"one_{i}"], TINY) * jnp.maximum(sums[f"two_{i}"], TINY))
        noise = [1 - sums[f"dot_{i}"] / size(i) + SMALL for i in range(len(self.parts))]
        now = (h.step >= h.begin) & (h.step % h.interval == 0)
        mine = {}
        for i, own in enumerate(noise):
            old, wanted = getattr(h, f"factor_{i}"), jnp.sqrt(jnp.clip(noise[0] / own, h.low, h.high))
            mine[f"factor_{i}"] = jnp.where(now, h.memory * old + (1 - h.memory) * wanted, old)
        return mine | self.inner.decide(sums, h)

    def update(self, g, slots, p, h):
        factor = getattr(h, f"factor_{self._part(h.leaf)}")
        mine = h.but(learning_rate=factor * h.learning_rate, unscaled=factor * h.unscaled)
        return decayed(self.inner, g, slots, p, mine)
