"""Learning-rate schedules: pure functions of the step, finite at step 0. `make_schedule` picks one by name.

A schedule is a frozen dataclass whose numbers are leaves of a pytree: an optimizer keeps them in its state, so another
peak or length is data and compiles nothing. Each returns a factor of the peak rate, 1 at its largest.

>>> float(Cosine(steps=100, warmup=10)(9)), round(float(Linear(steps=10)(5)), 6)
(1.0, 0.5)
"""

import dataclasses
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp

from ..registry import make

Array = jax.Array
_static = dict(static=True)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def _record(cls: type) -> type:
    """A frozen dataclass whose fields are leaves. Not by `register_dataclass`: the structures of two classes that it
    registers compare equal where their fields match, and jit may then run the one's program for the other."""
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    names = [f.name for f in dataclasses.fields(made) if not f.metadata.get("static")]
    static = [f.name for f in dataclasses.fields(made) if f.metadata.get("static")]

    def flatten(self):
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names]
        return keyed, tuple(getattr(self, name) for name in static)

    def unflatten(aux, leaves):
        return made(**dict(zip(names, leaves, strict=True)), **dict(zip(static, aux, strict=True)))

    jax.tree_util.register_pytree_with_keys(made, flatten, unflatten)
    return made


class Schedule:
    """step (integer or float, from 0) -> factor. Numbers may be traced."""

    def __call__(self, step: Any) -> Array:
        raise NotImplementedError


def _warm(step: Any, warmup: Any) -> Array:
    """1/warmup, 2/warmup ... 1: the first step already moves."""
    return jnp.minimum((step + 1) / jnp.maximum(warmup, 1), 1.0)


def _share(step: Any, begin: Any, end: Any) -> Array:
    """How much of [begin, end] has passed, in [0, 1]."""
    return jnp.clip((step - begin) / jnp.maximum(end - begin, 1), 0.0, 1.0)


def _half_cosine(x: Array) -> Array:
    return 0.5 * (1 + jnp.cos(jnp.pi * x))


@_record
class Constant(Schedule):
    """Linear warm-up to 1, which stays."""

    steps: Any
    warmup: Any = 0

    def __call__(self, step):
        return _warm(step, self.warmup)


@_record
class Cosine(Schedule):
    """Linear warm-up to 1 over `warmup` steps, then half a cosine to `end` at `steps`.

    source: Loshchilov and Hutter 2016, arXiv 1608.03983
    """

    steps: Any
    warmup: Any = 0
    end: Any = 0.0

    def __call__(self, step):
        x = _share(step, self.warmup, self.steps)
        return _warm(step, self.warmup) * (self.end + (1 - self.end) * _half_cosine(x))


@_record
class Linear(Schedule):
    """Linear warm-up to 1, then a straight line to `end`."""

    steps: Any
    warmup: Any = 0
    end: Any = 0.0

    def __call__(self, step):
        return _warm(step, self.warmup) * (1 + (self.end - 1) * _share(step, self.warmup, self.steps))


SHAPES = {
    "linear": lambda x: 1 - x,
    "sqrt": lambda x: 1 - jnp.sqrt(x),
    "cosine": _half_cosine,
    "square": lambda x: 1 - x**2,
}


@_record
class Wsd(Schedule):
    """Warm-up, stable, decay: 1 until the last `cooldown` share of the steps, then `shape` down to `end`.

    shape: linear 1-x, sqrt 1-sqrt(x), cosine, square 1-x^2, with x the share of the cooldown.
    source: Hu et al. 2024, arXiv 2404.06395; shapes: Haegele et al. 2024, arXiv 2405.18392
    """

    steps: Any
    warmup: Any = 0
    cooldown: Any = 0.2
    end: Any = 0.0
    shape: str = dataclasses.field(default="linear", metadata=_static)

    def __post_init__(self):
        if self.shape not in SHAPES:
            raise ValueError(f"shape is one of {', '.join(SHAPES)}, not {self.shape!r}")

    def __call__(self, step):
        down = SHAPES[self.shape](_share(step, (1 - self.cooldown) * self.steps, self.steps))
        return _warm(step, self.warmup) * (self.end + (1 - self.end) * down)


@_record
class Power(Schedule):
    """min(1, batch a n^b / peak) of the n tokens seen, warmed up linearly, with a last linear decay; meant for muP.

    batch: sequences a step. tokens: tokens a step. peak: the largest rate, which the factor is a share of. The
    stable phase does not know `steps`; in the last `cooldown` share of them its value stands, times a line to `end`.
    source: Shen et al. 2024, arXiv 2408.13359; a = 4.6 and b = -0.51 as in its public code
    catalogue: power_schedule
    """

    steps: Any
    tokens: Any
    batch: Any
    peak: Any
    warmup: Any = 0
    a: Any = 4.6
    b: Any = -0.51
    cooldown: Any = 0.1
    end: Any = 0.0

    def __call__(self, step):
        # At the warm-up the factor is that of its last step, and in the cooldown of its first: the pieces join.
        begin = (1 - self.cooldown) * self.steps
        seen = jnp.minimum(jnp.maximum(step + 1, self.warmup), begin + 1)
        seen = jnp.asarray(jnp.maximum(seen, 1), float) * self.tokens  # as integers they would overflow
        stable = jnp.minimum(1.0, self.batch * self.a / self.peak * seen**self.b)
        down = 1 - (1 - self.end) * _share(step, begin, self.steps)
        return _warm(step, self.warmup) * stable * down


@_record
class CosinePower(Schedule):
    """end + (1 - end) (p^(c+1) - p) / (p^2 - p), with c the half cosine and p the `power`; power 1 is plain cosine.

    source: sharpDARTS, Hundt et al. 2019, arXiv 1903.09900
    catalogue: cosine_power_annealing
    """

    steps: Any
    warmup: Any = 0
    power: Any = 10.0
    end: Any = 0.0

    def __call__(self, step):
        c, log = _half_cosine(_share(step, self.warmup, self.steps)), jnp.log(jnp.asarray(self.power, float))
        plain = jnp.abs(log) < 1e-4  # the quotient loses its digits there; its limit is c
        safe = jnp.where(plain, 1.0, log)
        q = jnp.where(plain, c, jnp.expm1(c * safe) / jnp.expm1(safe))
        return _warm(step, self.warmup) * (self.end + (1 - self.end) * q)


@_record
class RewarmCosine(Schedule):
    """For continued pre-training: on every data set a linear warm-up to 1, then half a cosine to `end`.

    lengths: steps on each data set, None for one of `steps`. rewarm: share of each that is warm-up; 0 jumps to 1.
    start: value before the first, 0 for a fresh model. One cycle is `optax.warmup_cosine_decay_schedule`.
    source: Gupta et al. 2023, arXiv 2308.04014
    catalogue: rewarm_cosine_schedule
    """

    steps: Any = 0
    lengths: Any = None
    rewarm: Any = 0.01
    start: Any = 0.0
    end: Any = 0.1

    def __call__(self, step):
        lengths = jnp.asarray((self.steps,) if self.lengths is None else self.lengths, float)
        ends = jnp.cumsum(lengths)
        i = jnp.minimum(jnp.sum(step >= ends), len(lengths) - 1)
        length, at = lengths[i], step - (ends - lengths)[i]
        warm = self.rewarm * length
        low = jnp.where(i == 0, self.start, self.end)
        rising = low + (1 - low) * at / jnp.maximum(warm, 1e-9)
        return jnp.where(at < warm, rising, self.end + (1 - self.end) * _half_cosine(_share(at, warm, length)))


@_record
class Infinite(Schedule):
    """Warm-up, cosine to `level`, constant for as long as one likes, then exponential to `end` over the last steps.

    cooldown, anneal: shares of `steps` spent in the cosine and in the exponential.
    source: Ibrahim et al. 2024, arXiv 2403.08763, section 7
    """

    steps: Any
    warmup: Any = 0
    cooldown: Any = 0.3
    anneal: Any = 0.1
    level: Any = 0.5
    end: Any = 0.1

    def __call__(self, step):
        x = _share(step, self.warmup, self.warmup + self.cooldown * self.steps)
        high = self.level + (1 - self.level) * _half_cosine(x)
        down = _share(step, (1 - self.anneal) * self.steps, self.steps)
        return _warm(step, self.warmup) * high * (jnp.maximum(self.end, 1e-9) / self.level) ** down


@_record
class JaggedCosine(Schedule):
    """A cosine to `end`; after every reset, a linear ramp from 0 to the cosine's value at the ramp's end.

    reset: steps between resets. ramp: steps of the ramp.
    source: ReLoRA, Lialin et al. 2023, arXiv 2307.05695
    """

    steps: Any
    warmup: Any = 0
    reset: Any = 1000
    ramp: Any = 100
    end: Any = 0.1

    def __call__(self, step):
        whole = Cosine(steps=self.steps, warmup=self.warmup, end=self.end)
        at = step % self.reset
        ramping = (step >= self.reset) & (at < self.ramp)
        top = whole(step - at + self.ramp)
        return jnp.where(ramping, top * at / jnp.maximum(self.ramp, 1), whole(step))


@_record
class Scaled(Schedule):
    """peak times a factor; what an optimizer is given as its learning rate."""

    peak: Any
    factor: Any

    def __call__(self, step):
        return self.peak * self.factor(step)


@_record
class InTokens(Schedule):
    """A schedule whose steps, warm-up and lengths are counted in tokens, `tokens` of them a step."""

    schedule: Any
    tokens: Any

    def __call__(self, step):
        return self.schedule(jnp.asarray(step, float) * self.tokens)


SCHEDULES = {
    "constant": Constant,
    "cosine": Cosine,
    "cosine_power": CosinePower,
    "infinite": Infinite,
    "jagged_cosine": JaggedCosine,
    "linear": Linear,
    "power": Power,
    "rewarm_cosine": RewarmCosine,
    "wsd": Wsd,
}


def make_schedule(spec: str, peak: float, steps: int, warmup: int, **more: Any) -> Scaled:
    """step -> learning rate: peak times the named schedule, `make_schedule("wsd(cooldown=0.1)", 1e-3, 1000, 50)`.

    more: further facts of the run that a schedule may take, batch and tokens (a step) for "power".

    >>> float(make_schedule("linear", 1.0, steps=10, warmup=0)(5))
    0.5
    """
    if not 0 <= warmup <= steps:
        raise ValueError(f"warmup={warmup} must be between 0 and steps={steps}")
    return Scaled(peak=peak, factor=make(spec, SCHEDULES, "schedule", peak=peak, steps=steps, warmup=warmup, **more))
