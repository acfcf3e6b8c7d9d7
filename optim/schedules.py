"""Learning-rate schedules: pure functions of the step, finite at step 0. `make_schedule` picks one by name.

source: cosine: Loshchilov and Hutter 2016, arXiv 1608.03983; wsd: Hu et al. 2024, arXiv 2404.06395
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp

from ..registry import make

Schedule = Callable[[Any], Any]


def cosine(steps: int, warmup: int, end: float = 0.0) -> Schedule:
    """Linear warm-up to 1 over `warmup` steps, then half a cosine to `end` at `steps`."""
    return _warmed(steps, warmup, lambda t: end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * t)))


def linear(steps: int, warmup: int, end: float = 0.0) -> Schedule:
    """Linear warm-up to 1, then a straight line to `end`."""
    return _warmed(steps, warmup, lambda t: 1 + (end - 1) * t)


def constant(steps: int, warmup: int) -> Schedule:
    """Linear warm-up to 1, which stays."""
    return _warmed(steps, warmup, jnp.ones_like)


def wsd(steps: int, warmup: int, cooldown: float = 0.2, end: float = 0.0) -> Schedule:
    """Warm-up, stable, decay: 1 until the last `cooldown` share of the steps, then a straight line to `end`."""
    share = lambda t: jnp.clip((t - 1) / cooldown + 1, 0, 1)
    return _warmed(steps, warmup, lambda t: 1 + (end - 1) * share(t), of_all=True)


def _warmed(steps: int, warmup: int, after: Callable, of_all: bool = False) -> Schedule:
    """after(t) for t in [0, 1], counted from the end of the warm-up or, of_all, from step 0."""

    def factor(step):
        begin = 0 if of_all else warmup
        t = jnp.clip((step - begin) / max(steps - begin, 1), 0.0, 1.0)
        return jnp.minimum((step + 1) / max(warmup, 1), 1.0) * after(t)

    return factor


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear, "wsd": wsd}


def make_schedule(spec: str, peak: float, steps: int, warmup: int) -> Schedule:
    """step -> learning rate: peak times the named schedule, `make_schedule("wsd(cooldown=0.1)", 1e-3, 1000, 50)`.

    >>> float(make_schedule("linear", 1.0, steps=10, warmup=0)(5))
    0.5
    """
    if not 0 <= warmup <= steps:
        raise ValueError(f"warmup={warmup} must be between 0 and steps={steps}")
    factor = make(spec, SCHEDULES, "schedule", steps=steps, warmup=warmup)
    return partial(_scaled, peak, factor)


def _scaled(peak: float, factor: Schedule, step: Any) -> Any:
    return peak * factor(step)
