"""ademamix: Adam with a second, slow momentum beside the fast one.

    m <- b1 m + (1 - b1) g;   slow <- b3_t slow + (1 - b3_t) g;   v <- b2 v + (1 - b2) g^2
    p <- p - learning_rate (m / (1 - b1^t) + alpha_t slow) / (sqrt(v / (1 - b2^t)) + eps)
    s = min(t / warmup, 1);   alpha_t = s alpha;   1 / log b3_t = (1 - s) / log b1 + s / log b3

source: Pagliardini et al. 2024, arXiv 2409.03137
state: 12 bytes a parameter
defaults: b1 = 0.9, b2 = 0.999, b3 = 0.9999, alpha = 5, eps = 1e-8 (authors' code); weight_decay = 0.1 (paper's language
    models)
departs: warmup = 0 is no warm-up; the paper warms up over the whole run, so give its number of steps. alpha and b3 have
    one warm-up length; schedules may be given for both instead
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ademamix(Rule):
    """p <- p - learning_rate (m^ + alpha slow) / (sqrt(v^) + eps); the slow momentum is not bias-corrected.

    b1, b2: decay of the fast momentum, above 0, and of the second moment. b3: of the slow momentum. alpha: its weight.
    warmup: steps over which alpha rises from 0 and the slow momentum's decay from b1, linearly in its half-life.

    >>> from jaxlib_ext import optim
    >>> tx = optim.ademamix(1e-3, b3=0.999, alpha=8.0, warmup=10_000)
    """

    b1: Traced = 0.9
    b2: Traced = 0.999
    b3: Traced = 0.9999
    alpha: Traced = 5.0
    warmup: Traced = 0.0
    eps: Traced = 1e-8

    default_decay = 0.1

    def __post_init__(self):
        super().__post_init__()
        for name in ("b1", "b3"):
            value = getattr(self, name)
            if not callable(value) and not value > 0:
                raise ValueError(f"Ademamix: {name} must be above 0, not {value!r}")

    def slots(self, leaf):
        return dict(m=Slot(), slow=Slot(), v=Slot(signed=False))

    def update(self, g, slots, p, h):
        share = jnp.where(h.t < h.warmup, h.t / jnp.maximum(h.warmup, 1), 1)
        half_life = (1 - share) / jnp.log(h.b1) + share / jnp.log(h.b3)
        b3 = jnp.where(share < 1, jnp.exp(1 / half_life), h.b3)
        m = h.b1 * slots["m"] + (1 - h.b1) * g
        slow = b3 * slots["slow"] + (1 - b3) * g
        v = h.b2 * slots["v"] + (1 - h.b2) * g**2
        u = (m / h.unbias("b1") + share * h.alpha * slow) / (jnp.sqrt(v / h.unbias("b2")) + h.eps)
        return -h.learning_rate * u, dict(m=m, slow=slow, v=v)
