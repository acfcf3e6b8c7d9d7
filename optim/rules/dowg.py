"""dowg: gradient descent by the distance moved over the gradients seen, each weighed by the distance of its time.

    q <- max(q, |p - p_0|^2, square);   v <- v + q |g|^2;   p <- p - learning_rate q / (sqrt(v) + eps) g

source: Khaled et al. 2023, arXiv 2305.16284
state: 4 bytes a parameter, and 2 numbers
defaults: square = 1e-4, eps = 1e-4, learning_rate = 1 (authors' code, as in optax)
departs: none; the paper's bounds are for an average of the points: averaged(inner="dowg")
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced
from ._distance import with_decay


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dowg(Rule):
    """learning_rate: a factor, 1 or a schedule. square: first estimate of the squared distance from the start to the
    solution, over all parameters. eps: added to the root. weight_decay: added to the gradient, times p.

    >>> from jaxlib_ext import optim
    >>> tx = optim.dowg(1.0)
    """

    default_rate = 1.0

    square: Traced = 1e-4
    eps: Traced = 1e-4

    own_decay = True

    def slots(self, leaf):
        return dict(x0=Slot("params", constant=True))

    def shared(self):
        return dict(q=0.0, seen=0.0)

    def measure(self, g, slots, p, h):
        total = lambda x: jnp.sum(jnp.square(x))
        return dict(gg=total(with_decay(g, p, h)), moved=total(p - slots["x0"]))

    def decide(self, sums, h):
        q = jnp.maximum(jnp.maximum(h.q, h.square), sums["moved"])
        return dict(q=q, seen=h.seen + q * sums["gg"])

    def update(self, g, slots, p, h):
        return -h.learning_rate * h.q / (jnp.sqrt(h.seen) + h.eps) * with_decay(g, p, h), slots
