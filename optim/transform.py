"""From a rule to an `optax.GradientTransformationExtraArgs`, for any optax chain and any training loop.

    tx = optim.adamw(1e-3, b2=0.95, weight_decay=0.1)                   # an optax transformation
    tx = transform(AdamW(b2=0.95), schedule, decl=model.decl(), formats=dict(m="bf16", v="fp8:128"), clip_norm=1.0)

What `update` returns is float32 for bfloat16 parameters and, with stochastic rounding, exactly new minus old, so that
`optax.apply_updates` lands on the rounded value.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .core import Core, OptState
from .formats import Format
from .guard import Guard
from .rule import Rule, Traced, Tree


class Optimizer(optax.GradientTransformationExtraArgs):
    """An optax transformation that can also tell what it will hold (`specs`, `abstract`) and what to evaluate with."""

    core: Any  # a Core, or the Groups of several

    @classmethod
    def of(cls, core: Any) -> "Optimizer":
        """The transformation of a core."""
        tx = cls(core.init, core.update)
        tx.core = core
        return tx

    @property
    def needs(self) -> tuple[str, ...]:
        """Extra arguments that `update` must get by name."""
        return self.core.needs

    @property
    def two_points(self) -> bool:
        """Whether `eval_params` is another point than the trained one."""
        return self.core.two_points

    def abstract(self, params: Tree) -> OptState:
        """The state as `jax.ShapeDtypeStruct`s; params may be such too."""
        return jax.eval_shape(self.init, params)

    def specs(self, params: Tree, param_specs: Tree, mesh: Mapping[str, int], zero: tuple[str, ...] = ()) -> Any:
        """`PartitionSpec`s of the state from those of the parameters; see `placing.specs`."""
        return self.core.specs(params, param_specs, mesh, zero)

    def eval_params(self, state: OptState, params: Tree) -> Tree:
        """The parameters to evaluate with: others than params for methods that keep two points."""
        return self.core.eval_params(state, params)


def _check(name: str, value: Any) -> None:
    if callable(value):
        return
    try:
        bad = not math.isfinite(value) or value < 0
    except TypeError:
        if isinstance(value, jax.Array):
            return  # traced, as in a vmap over learning rates
        raise ValueError(f"{name} must be a number or a schedule, not {value!r}") from None
    if bad:
        raise ValueError(f"{name} must be finite and not negative, not {value!r}")


def transform(
    rule: Rule,
    learning_rate: Traced | None = None,
    *,
    weight_decay: Traced | None = None,
    decay_mask: Any = None,
    decl: Tree | None = None,
    copies: Mapping[str, int] | None = None,
    scales: Tree | None = None,
    formats: Mapping[str, str] | str | None = None,
    clip_norm: Traced | None = None,
    skip_spikes: Traced | None = None,
    stochastic_rounding: bool = True,
    metrics: bool = False,
    seed: int = 0,
) -> Optimizer:
    """The optimizer of one rule.

    learning_rate, weight_decay: numbers or schedules of the step; left out, the rule's defaults. The decay is
        -learning_rate * weight_decay * p (`independent` takes the peak rate out of it).
    decay_mask: tree of bools, or params -> such a tree. None: declared matrices, heads and convolutions, all without
        a declaration.
    decl: the declaration; it says which axes are copies (scanned layers) and which leaves decay.
    copies: without a declaration, {pattern of the path: number of leading independent axes}.
    scales: a parameterisation, such as `scaling.mup`: a tree of `param.Scale`, or of numbers, factors on the learning
        rate. Decay keeps the unscaled rate, times the scale's `decay`; eps is times its `eps`.
    formats: how slots are stored: one name for all, or {slot: "f32" | "bf16" | "fp8:N" | "int8:N" | "coat:N"}.
    clip_norm: largest norm of all gradients together. skip_spikes: an update whose gradient norm is more than this
        many standard deviations above its running mean, or not finite, is left out; without it nan goes through.
    stochastic_rounding: of bfloat16 parameters. metrics: keep "grad_norm" and "update_ratio/<kind>" in state.metrics.

    Raises ValueError with the parameter's path for what does not fit, at the first `init`.
    """
    named = {"all": formats} if isinstance(formats, str) else dict(formats or {})
    learning_rate = rule.default_rate if learning_rate is None else learning_rate
    weight_decay = rule.default_decay if weight_decay is None else weight_decay
    for name, value in dict(learning_rate=learning_rate, weight_decay=weight_decay).items():
        _check(name, value)
    core = Core(
        rule, learning_rate, weight_decay, decay_mask, decl, copies, scales,
        {k: Format.parse(v) for k, v in named.items()}, Guard(clip_norm, skip_spikes), stochastic_rounding,
        metrics, seed,
    )  # fmt: skip
    core.numbers  # noqa: B018  names that collide are named now
    return Optimizer.of(core)


def independent(weight_decay: float, peak: float) -> float:
    """The weight_decay that shrinks by s * weight_decay a step, s the schedule's share of its peak learning rate."""
    if not peak > 0:
        raise ValueError(f"peak must be positive, not {peak!r}")
    return weight_decay / peak


def set_hyper(state: OptState, **values: Any) -> OptState:
    """The state with other hyperparameters from the next step on; nothing recompiles.

    A number replaces a number. A scheduled one takes a schedule of the same form, whose numbers may differ.
    """
    hyper, schedules = dict(state.hyper), dict(state.schedules)
    for name, value in values.items():
        if name not in hyper:
            raise ValueError(f"no hyperparameter {name!r}; there are {', '.join(sorted(hyper))}")
        if name in schedules:
            old = schedules[name]
            if jax.tree.structure(value) != jax.tree.structure(old):
                raise ValueError(f"{name} is scheduled: give a schedule of the same form, not {value!r}")
            schedules[name] = jax.tree.map(lambda n, o: jnp.asarray(n, o.dtype), value, old)
        else:
            hyper[name] = jnp.asarray(value, hyper[name].dtype)
    return state._replace(hyper=hyper, schedules=schedules)


def as_function(rule: Callable[..., Rule]) -> Callable[..., Optimizer]:
    """The function `name(learning_rate, *, <fields of the rule>, weight_decay, decay_mask, ...)` of a rule class."""
    core = [p for p in inspect.signature(transform).parameters.values() if p.name not in ("rule",)]
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(rule).parameters.values()]
    core = [p.replace(default=rule.default_decay) if p.name == "weight_decay" else p for p in core]
    fields = {p.name for p in own}

    def make(learning_rate=None, **options):
        mine = {k: options.pop(k) for k in list(options) if k in fields}
        return transform(rule(**mine), learning_rate, **options)

    make.__name__ = make.__qualname__ = "".join(f"_{c.lower()}" if c.isupper() else c for c in rule.__name__).lstrip(
        "_"
    )
    make.__doc__ = f"{rule.__doc__}\n\nOther options: see `transform`."
    make.__signature__ = inspect.Signature([core[0], *own, *core[1:]])
    return make
