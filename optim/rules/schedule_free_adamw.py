"""schedule_free_adamw: AdamW without a schedule; the average of the points takes the place of the first moment.

    v <- b2 v + (1 - b2) g^2;   u = g / (sqrt(v / (1 - b2^t)) + eps) + weight_decay y;   z <- z - learning_rate u
    x <- (1 - c) x + c z;   y = (1 - b1) z + b1 x
    c = w_t / sum w,  w_t = t^power (max learning_rate so far)^rate_power

source: Defazio et al. 2024, arXiv 2405.15682, as in the authors' package
state: 8 bytes a parameter, and 2 numbers
defaults: b1 = 0.9, b2 = 0.999, eps = 1e-8, power = 0, rate_power = 2 (package, with learning_rate = 0.0025)
departs: none; the parameters that are trained are y, `eval_params` gives x. The package's warmup_steps is
    `schedules.Constant(warmup=...)` here
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced
from .schedule_free import advance, average, weigh


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamw(Rule):
    """Gradients are taken at y between z and its average x. Evaluate at `tx.eval_params(state, params)`. b1: weight of
    x in y, above 0. b2, eps: Adam's. power, rate_power: weights of the average. learning_rate: without a decay.

    >>> from jaxlib_ext import optim
    >>> tx = optim.schedule_free_adamw(0.0025, weight_decay=0.1)
    """

    default_rate = 2.5e-3

    b1: Traced = 0.9
    b2: Traced = 0.999
    eps: Traced = 1e-8
    power: Traced = 0.0
    rate_power: Traced = 2.0

    own_decay = True
    two_points = True

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.b1) and not self.b1 > 0:
            raise ValueError(f"ScheduleFreeAdamw: b1 must be in (0, 1), not {self.b1!r}")

    def slots(self, leaf):
        return dict(z=Slot("params"), v=Slot(signed=False))

    def shared(self):
        return dict(weights=0.0, top_rate=0.0)

    def decide(self, sums, h):
        return weigh(h)

    def update(self, g, slots, p, h):
        v = h.b2 * slots["v"] + (1 - h.b2) * g**2
        u = -h.learning_rate * g / (jnp.sqrt(v / h.unbias("b2")) + h.eps) - h.unscaled * h.weight_decay * p
        delta, z = advance(slots["z"], p, u, h.b1, h)
        return delta, dict(z=z, v=v)

    def evaluated(self, slots, p, h):
        return average(slots["z"], p, h.b1)
