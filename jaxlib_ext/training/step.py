"""One training step: gradient, clip, update, averages, buffers; jitted, donated, sharded.

    step = make_step(model, optax.adamw(1e-3), losses.next_token, mesh)
    state = step.init(jax.random.key(0))
    state, metrics = step(state, batch)

Works with any optax transformation, any loss of the signature (model, params, batch, key) -> Loss, and any model that
offers `decl()`. Nothing here knows about files, data or schedules.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from .. import param
from ..optim import Optimizer, OptState
from ..optim.guard import norm
from ..sharding import RULES, Rules, check, constrain, sizes
from ..sharding import shardings as param_shardings
from . import extras
from .losses import Loss
from .state import State, create, shardings

Array = jax.Array
Tree = Any


def global_norm(tree: Tree) -> Array:
    """Euclidean norm of all leaves together, in float32 whatever their dtype (optax's saturates for bfloat16)."""
    return norm([v.astype(jnp.float32) for v in jax.tree.leaves(tree)])


@dataclasses.dataclass(frozen=True)
class Step:
    """Made by `make_step`. Call it with (state, batch); the state given is donated and must not be used again."""

    model: Any
    tx: optax.GradientTransformation
    loss: Callable[..., Loss]
    mesh: jax.sharding.Mesh | None = None
    rules: Rules = RULES
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    zero: tuple[str, ...] = ()
    scales: Tree | None = None

    @functools.cached_property
    def decl(self) -> Tree:
        return self.model.decl()

    @property
    def needs(self) -> tuple[str, ...]:
        """Extra arguments that the optimizer's update needs."""
        return self.tx.needs if isinstance(self.tx, Optimizer) else ()

    def on_mesh(self):
        """The context that constraints inside the model see."""
        return jax.set_mesh(self.mesh) if self.mesh is not None else contextlib.nullcontext()

    @functools.cached_property
    def abstract(self) -> State:
        """Shapes, dtypes and, with a mesh, shardings of the state; nothing is allocated. Restores resharded."""
        make = lambda: create(self.decl, self.tx, jax.random.key(0), self.ema is not None, self.scales)
        state = jax.eval_shape(make)
        if self.mesh is None:
            return state
        check(self.decl, self.mesh, self.rules)
        lie = param_shardings(self.decl, self.mesh, self.rules)
        where = shardings(state, lie, self.mesh)
        if isinstance(self.tx, Optimizer):
            trained, _ = param.split(self.decl, state.params)
            specs = jax.tree.map(lambda s: s.spec, param.split(self.decl, lie)[0])
            opt = self.tx.specs(trained, specs, sizes(self.mesh), self.zero)
            where = dataclasses.replace(where, opt=jax.tree.map(lambda s: NamedSharding(self.mesh, s), opt))
        return jax.tree.map(lambda v, s: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=s), state, where)

    @property
    def shardings(self) -> State | None:
        return None if self.mesh is None else jax.tree.map(lambda v: v.sharding, self.abstract)

    def init(self, key: Array) -> State:
        """The state before the first step; every device makes its own shards."""
        make = lambda key: create(self.decl, self.tx, key, self.ema is not None, self.scales)
        with self.on_mesh():
            return jax.jit(make, out_shardings=self.shardings)(key)

    @functools.cached_property
    def jitted(self):
        """The jitted function itself, for compiling ahead of time; call it under `on_mesh()`."""
        where = self.shardings
        fixed = {} if where is None else dict(in_shardings=(where, None), out_shardings=(where, None))
        return jax.jit(self._update, donate_argnums=0, **fixed)

    def __call__(self, state: State, batch: dict[str, Array]) -> tuple[State, dict[str, Array]]:
        """One update. metrics: what the loss reports per unit of weight, "grad_norm" before clipping, "weight", and
        "finite", False where loss or gradient are not; the caller decides what to do then."""
        with self.on_mesh():
            return self.jitted(state, batch)

    def eval_params(self, state: State) -> Tree:
        """The parameters to evaluate with: the trained ones, but for optimizers that keep two points."""
        if not (isinstance(self.tx, Optimizer) and self.tx.two_points):
            return state.params
        trained, rest = param.split(self.decl, state.params)
        with self.on_mesh():  # jitted, for the arrays may be those of several processes
            return param.join(jax.jit(self.tx.eval_params)(state.opt, trained), rest)

    def gradient(self, state: State, batch: dict[str, Array], key: Array) -> tuple[Loss, Tree]:
        """The sums over one microbatch."""
        trained, rest = param.split(self.decl, state.params)

        def total(trained):
            loss = self.loss(self.model, param.join(trained, rest), batch, key)
            return loss.total, loss

        (_, loss), grads = jax.value_and_grad(total, has_aux=True)(trained)
        return loss, grads

    def _accumulated(self, state: State, batch: dict[str, Array], key: Array) -> tuple[Loss, Tree]:
        n = self.accumulate
        if n == 1:
            return self.gradient(state, batch, key)

        def cut(a):  # rows i, i + n, ... are microbatch i, so every device keeps a share of each
            if a.shape[0] % n:
                raise ValueError(f"a batch of {a.shape[0]} does not divide into {n} microbatches")
            return jnp.swapaxes(a.reshape(a.shape[0] // n, n, *a.shape[1:]), 0, 1)

        def add(total, part):
            i, rows = part
            rows = jax.tree.map(lambda a: constrain(a, "batch time", self.rules) if a.ndim == 2 else a, rows)
            loss, grads = self.gradient(state, rows, jax.random.fold_in(key, i))
            summed = jax.tree.map(jnp.add, total, (loss._replace(buffers={}), grads))
            return summed, loss.buffers

        shapes = jax.eval_shape(lambda: self.gradient(state, jax.tree.map(lambda a: cut(a)[0], batch), key))
        zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), (shapes[0]._replace(buffers={}), shapes[1]))
        (loss, grads), buffers = jax.lax.scan(add, zeros, (jnp.arange(n), jax.tree.map(cut, batch)))
        return loss._replace(buffers=jax.tree.map(lambda b: jnp.mean(b, 0), buffers)), grads

    def _update(self, state: State, batch: dict[str, Array]) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        more = extras.extras(self, state, batch, key) if self.needs else {}
        if "microbatch_grads" in self.needs:
            loss, grads, both = extras.halves(lambda rows: self.gradient(state, rows, key), batch)
            more["microbatch_grads"] = both
        else:
            loss, grads = self._accumulated(state, batch, key)
        grads = jax.tree.map(lambda g: g / loss.weight.astype(g.dtype), grads)
        size = global_norm(grads)
        if self.clip is not None:
            factor = jnp.minimum(1.0, self.clip / jnp.maximum(size, 1e-30))
            grads = jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)
        trained, rest = param.split(self.decl, state.params)
        updates, opt = self.tx.update(grads, state.opt, trained, **more)
        trained = optax.apply_updates(trained, updates)
        ema, decay = state.ema, self.ema
        if decay is not None:
            ema = jax.tree.map(lambda a, v: a + (1 - decay) * (v.astype(jnp.float32) - a), ema, trained)
        params = _write(param.join(trained, rest), loss.buffers)
        metrics = {name: value / loss.weight for name, value in loss.metrics.items()}
        finite = jnp.isfinite(loss.total) & jnp.isfinite(size)
        metrics |= dict(grad_norm=size, weight=loss.weight, finite=finite)
        if isinstance(opt, OptState):
            metrics |= {f"optimizer/{k}": v for k, v in (opt.shared | opt.metrics).items()}
        return State(state.step + 1, params, opt, ema, state.key), metrics


def _write(params: Tree, new: Tree) -> Tree:
    """params with the leaves of a subtree replaced."""
    if not isinstance(new, dict):
        return new.astype(params.dtype)
    return {k: _write(v, new[k]) if k in new else v for k, v in params.items()}


def make_step(model: Any, tx: optax.GradientTransformation, loss: Callable[..., Loss],
              mesh: jax.sharding.Mesh | None = None, *, rules: Rules = RULES, accumulate: int = 1,
              clip: float | None = None, ema: float | None = None, zero: tuple[str, ...] = (),
              scales: Tree | None = None) -> Step:  # fmt: skip
    """A training step for a model, an optax transformation and a loss.

    model: offers decl(). loss(model, params, batch, key) -> Loss. mesh: None leaves placement to jax. accumulate:
    microbatches a step, summed by a scan, exactly the whole batch's gradient. clip: largest global gradient norm.
    ema: decay of the parameter average, say 0.999. zero: mesh axes that an optimizer of `optim` splits its state over
    beyond its parameters, say ("data",). scales: a parameterisation for the initial values; the optimizer takes it by
    itself. Raises before anything is compiled if the mesh does not fit.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, not {accumulate}")
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"ema must be in [0, 1), not {ema}")
    if clip is not None and clip <= 0:
        raise ValueError(f"clip must be positive, not {clip}")
    if zero and not isinstance(tx, Optimizer):
        raise ValueError("zero needs an optimizer of jaxlib_ext.optim, which can say where its state lies")
    if scales is not None:
        for path, scale in param.beside(model.decl(), scales).items():
            if scale.forward != 1:
                raise ValueError(f"{path}: the step multiplies no parameter by {scale.forward}; use scaling.absorbed")
    step = Step(model, tx, loss, mesh, rules, accumulate, clip, ema, tuple(zero), scales)
    extras.check(step.needs, accumulate)
    step.abstract  # noqa: B018  names the parameter that does not divide, now and not at the first batch
    return step
