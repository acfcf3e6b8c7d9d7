"""schedule_free: any rule without a schedule; the point is averaged instead of the rate being lowered.

    z <- z + inner(grad f(y));   x <- (1 - c) x + c z;   y = (1 - blend) z + blend x
    c = w_t / sum w,  w_t = t^power (max learning_rate so far)^rate_power

source: Defazio et al. 2024, arXiv 2405.15682, as in the authors' package
state: the inner rule's and 4 bytes a parameter
defaults: inner = sgd(momentum=0), blend = 0.9, power = 0, rate_power = 2 (package)
departs: none; the parameters that are trained are y, `eval_params` gives x
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ..rule import Array, Now, Slot, Traced, decayed
from ..wrapped import Wrapped


def weigh(h: Now) -> dict[str, Array]:
    """The shared numbers: the largest learning rate so far, the sum of the weights."""
    top = jnp.maximum(h.top_rate, h.learning_rate)
    return dict(weights=h.weights + _weight(h.t, top, h), top_rate=top)


def _weight(t: Array, top: Array, h: Now) -> Array:
    return t**h.power * top**h.rate_power


def advance(z: Array, y: Array, step: Array, blend: Array, h: Now) -> tuple[Array, Array]:
    """(what is added to y, new z) when z moves by step."""
    c = _weight(h.t, h.top_rate, h) / jnp.maximum(h.weights, 1e-30)
    return c * (z - y) + (1 - blend * (1 - c)) * step, z + step


def average(z: Array, y: Array, blend: Array) -> Array:
    """x, of y = (1 - blend) z + blend x."""
    return z + (y - z) / blend


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleFree(Wrapped):
    """The inner rule moves z; gradients are taken at y between z and its average x. Evaluate at
    `tx.eval_params(state, params)`. blend: weight of x in y, above 0. power, rate_power: weights of the average.

    >>> from jaxlib_ext import optim
    >>> tx = optim.schedule_free(1e-3, inner="lion", weight_decay=0.1)
    """

    inner: Any = "sgd(momentum=0.0)"
    blend: Traced = 0.9
    power: Traced = 0.0
    rate_power: Traced = 2.0

    own_decay = True  # the inner rule's step takes it along, at y  # pyright: ignore

    two_points = True  # pyright: ignore

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.blend) and not 0 < self.blend < 1:
            raise ValueError(f"ScheduleFree: blend must be in (0, 1), not {self.blend!r}")

    def slots(self, leaf):
        return dict(z=Slot("params")) | self.inner.slots(leaf)

    def shared(self):
        return dict(weights=0.0, top_rate=0.0) | self.inner.shared()

    def decide(self, sums, h):
        return weigh(h) | self.inner.decide(sums, h)

    def update(self, g, slots, p, h):
        step, new = decayed(self.inner, g, {k: v for k, v in slots.items() if k != "z"}, p, h)
        delta, z = advance(slots["z"], p, step, h.blend, h)
        return delta, dict(new, z=z)

    def evaluated(self, slots, p, h):
        return average(slots["z"], p, h.blend)
