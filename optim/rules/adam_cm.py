"""adam_cm: Adam on the momentum plus the mean of a few past momenta, those of the largest gradients.

    m <- b1 m + (1 - b1) g;   a = m + mean(buffer);   v <- b2 v + (1 - b2) a^2
    p <- p - learning_rate a / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
    m enters the buffer with priority |g| while there is room, then in the place of the smallest priority that is below
    |g|; after each update priorities are multiplied by decay. At t = 1 g itself enters and nothing moves

source: Malviya et al. 2023, arXiv 2307.09638, as in the authors' code; the buffer: McRae et al. 2021, arXiv 2106.10708
state: 8 + 4 capacity bytes a parameter
defaults: b1 = 0.9, b2 = 0.999, eps = 1e-8, capacity = 5, decay = 0.7, synced (authors' code)
departs: none; v is of a, not of g, as in the authors' code. Without synced |g| is of one copy of a stacked leaf
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced
from .adam import step


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamCm(Rule):
    """p <- p - learning_rate a^ / (sqrt(v^) + eps), a = m + mean of the buffered momenta.

    b1, b2: decay of the momentum and of the second moment of a. capacity: momenta kept. decay: of their priorities.
    synced: the priority is the sum of all leaves' gradient norms, so that all keep momenta of the same updates; False
    for each leaf's own.

    >>> from jaxlib_ext import optim
    >>> tx = optim.adam_cm(1e-3, capacity=3)
    """

    b1: Traced = 0.9
    b2: Traced = 0.999
    eps: Traced = 1e-8
    decay: Traced = 0.7
    capacity: int = 5
    synced: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not self.capacity >= 1:
            raise ValueError(f"AdamCm: capacity must be at least 1, not {self.capacity!r}")

    def slots(self, leaf):
        buffer = Slot(shape=(self.capacity, *leaf.shape))
        priority = Slot(shape=(self.capacity, *leaf.scalar), signed=False, exact=True)
        return dict(m=Slot(), v=Slot(signed=False), buffer=buffer, priority=priority)

    def shared(self):
        return dict(norms=0.0) if self.synced else {}

    def measure(self, g, slots, p, h):
        return dict(norms=jnp.sum(h.leaf.norm(g))) if self.synced else {}

    def decide(self, sums, h):
        return sums

    def update(self, g, slots, p, h):
        first, buffer, priority = h.t == 1, slots["buffer"], slots["priority"]
        m = jnp.where(first, 0, h.b1 * slots["m"] + (1 - h.b1) * g)
        held = jnp.minimum(h.t - 1, self.capacity)
        a = m + jnp.sum(buffer, 0) / jnp.maximum(held, 1)
        v = h.b2 * slots["v"] + (1 - h.b2) * a**2
        norm = jnp.broadcast_to(h.norms, h.leaf.scalar) if self.synced else h.leaf.norm(g)
        place = jnp.arange(self.capacity).reshape(-1, *(1 for _ in g.shape))
        least = place == jnp.argmin(priority, 0, keepdims=True)
        enters = jnp.where(h.t <= self.capacity, place == h.t - 1, least & (norm[None] > priority))
        buffer = jnp.where(enters, jnp.where(first, g, m)[None], buffer)
        priority = h.decay * jnp.where(enters, norm[None], priority)
        return step(a, v, h), dict(m=m, v=v, buffer=buffer, priority=priority)
