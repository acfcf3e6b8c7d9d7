"""The work behind one rule: hyperparameters from the state, guard, rule, decay, rounding, storage, metrics."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import guard
from .formats import Format, hashed, salt, to_bf16
from .placing import specs
from .rule import Array, Now, Rule, Slot, Traced, Tree, decayed, hypers
from .schedules import Schedule
from .table import Row, path_of, table


class OptState(NamedTuple):
    """A plain pytree. hyper may be changed between steps (`set_hyper`), also under jit: nothing recompiles.

    step: calls; schedules follow it. taken: updates that were not skipped; bias corrections follow it.
    hyper: the numbers of the last update. schedules: the numbers that scheduled ones are made of.
    shared: numbers all leaves share. slots: name -> tree of the parameters' structure. metrics: see `transform`.
    """

    step: Array
    taken: Array
    hyper: dict[str, Array]
    schedules: dict[str, Any]
    shared: dict[str, Array]
    slots: dict[str, Tree]
    metrics: dict[str, Array]


def _scalar(value: Any, dtype: Any) -> Array:
    return jnp.asarray(value, dtype)


@dataclasses.dataclass(frozen=True)
class Core:
    """The work behind one rule; `transform` makes it."""

    rule: Rule
    learning_rate: Traced
    weight_decay: Traced
    decay_mask: Any
    decl: Tree | None
    copies: Mapping[str, int] | None
    scales: Tree | None
    formats: Mapping[str, Format]
    guard: guard.Guard
    stochastic_rounding: bool
    metrics: bool
    seed: int
    part: bool = False  # one of several groups: masks, patterns and formats may be for the others

    @functools.cached_property
    def numbers(self) -> dict[str, Traced]:
        """Every hyperparameter by name, the learning rate among them."""
        mine = dict(learning_rate=self.learning_rate)
        if callable(self.weight_decay) or not isinstance(self.weight_decay, (int, float)) or self.weight_decay:
            mine["weight_decay"] = self.weight_decay
        mine |= self.guard.numbers()
        inner = hypers(self.rule)
        if twice := sorted(set(mine) & set(inner)):
            raise ValueError(f"{type(self.rule).__name__}: {twice[0]!r} is the core's name; call the field otherwise")
        return mine | inner

    @property
    def needs(self) -> tuple[str, ...]:
        return self.rule.needs

    @property
    def two_points(self) -> bool:
        return self.rule.two_points

    def specs(self, params: Tree, param_specs: Tree, mesh: Mapping[str, int], zero: tuple[str, ...]) -> OptState:
        """See `placing.specs`."""
        return specs(jax.eval_shape(self.init, params), params, param_specs, mesh, zero)

    def rows(self, params: Tree) -> list[Row]:
        return table(
            self.rule, params, decl=self.decl, copies=self.copies, decay_mask=self.decay_mask, scales=self.scales,
            formats=self.formats, part=self.part,
        )  # fmt: skip

    def init(self, params: Tree) -> OptState:
        rows, (leaves, tree) = self.rows(params), jax.tree.flatten(params)
        dtype = _dtype(leaves)
        slots: dict[str, list] = {name: [None] * len(rows) for row in rows for name in row.slots}
        for i, (row, p) in enumerate(zip(rows, leaves, strict=True)):
            for name, (slot, fmt) in row.slots.items():
                shape = row.leaf.shape if slot.shape is None else slot.shape
                if slot.start == "params" or callable(slot.start):  # a copy: the parameter itself may be donated
                    x = slot.start(p) if callable(slot.start) else p
                    slots[name][i] = jnp.array(x, p.dtype if slot.constant else dtype, copy=True)
                else:
                    x = getattr(jnp, slot.start)(shape, dtype)
                    slots[name][i] = x if fmt.name == "f32" else _encode(fmt, slot, x, jnp.zeros(shape, jnp.uint32))
        at = lambda v: v(jnp.zeros((), jnp.int32)) if callable(v) else v
        return OptState(
            step=jnp.zeros((), jnp.int32), taken=jnp.zeros((), jnp.int32),
            hyper={k: _scalar(at(v), dtype) for k, v in self.numbers.items()},
            schedules={k: jax.tree.map(lambda n: _scalar(n, dtype), v)
                       for k, v in self.numbers.items() if isinstance(v, Schedule)},
            shared={k: _scalar(v, dtype) for k, v in (self.rule.shared() | self.guard.shared()).items()},
            slots={k: jax.tree.unflatten(tree, v) for k, v in slots.items()},
            metrics={k: jnp.zeros((), dtype) for k in self._names(rows)},
        )  # fmt: skip

    def _names(self, rows: list[Row]) -> list[str]:
        if not self.metrics:
            return []
        return ["grad_norm", *(f"update_ratio/{kind}" for kind in sorted({row.leaf.kind for row in rows}))]

    def _now(self, state: OptState, dtype: Any, extra: dict[str, Any]) -> Now:
        """Hyperparameters at this step: schedules evaluated, the others as the state has them."""
        hyper = dict(state.hyper)
        for name, value in self.numbers.items():
            if callable(value):
                hyper[name] = _scalar(state.schedules.get(name, value)(state.step), dtype)
        t = (state.taken + 1).astype(dtype)
        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        more = dict(unscaled=hyper["learning_rate"], scale=1.0, extra=extra, cache={}, key=key, hyper=hyper)
        return Now(**hyper, **state.shared, **more, t=t, step=state.step)

    def update(self, grads: Tree, state: OptState, params: Tree | None = None, **extra: Any) -> tuple[Tree, OptState]:
        """(what to add to params, new state); for `optax.apply_updates`."""
        name = type(self.rule).__name__
        if params is None:
            raise ValueError(f"{name}: update needs the parameters: update(grads, state, params)")
        for needed in self.rule.needs:
            if needed not in extra:
                raise ValueError(f"{name}: update needs the extra argument {needed}=...")
        ps, tree = jax.tree.flatten(params)
        rows, dtype = self.rows(params), _dtype(ps)
        trees = {k: _same(v, params, tree, f"{k}: ") for k, v in extra.items() if k in PER_LEAF and v is not None}
        h = self._now(state, dtype, extra | trees)
        gs = [_scalar(g, dtype) for g in _same(grads, params, tree)]
        norm = guard.norm(gs) if self.guard.active or self.metrics else None
        gs, taken, kept = self.guard.apply(gs, norm, h)
        held = {k: tree.flatten_up_to(v) for k, v in state.slots.items()}
        h = h.but(kept=lambda name: jax.tree.unflatten(tree, _kept(rows, held, name, dtype)))
        grads = jax.tree.unflatten(tree, gs)
        gs = jax.tree.leaves(self.rule.prepare(grads, jax.tree.unflatten(tree, [_scalar(p, dtype) for p in ps]), h))
        work = [self._leaf(i, row, g, held, p, h) for i, (row, g, p) in enumerate(zip(rows, gs, ps, strict=True))]
        h, shared = self._decide(work, h, state)
        done = [self._step(row, state, taken, w, h) for row, w in zip(rows, work, strict=True)]
        deltas, slots = [delta for delta, _ in done], [slot for _, slot in done]
        new = {k: [s.get(k) for s in slots] for k in state.slots}
        if taken is not None:
            keep = lambda a, b: None if a is None else jax.tree.map(lambda x, y: jnp.where(taken, x, y), a, b)
            new = {k: [keep(a, b) for a, b in zip(v, held[k], strict=True)] for k, v in new.items()}
            shared = {k: jnp.where(taken, v, state.shared[k]) for k, v in shared.items()}
        return jax.tree.unflatten(tree, deltas), OptState(
            step=state.step + 1, taken=state.taken + (1 if taken is None else taken.astype(jnp.int32)),
            hyper=h.hyper, schedules=state.schedules, shared=shared | kept,
            slots={k: jax.tree.unflatten(tree, v) for k, v in new.items()},
            metrics=self._measured(rows, norm, deltas, ps, dtype),
        )  # fmt: skip

    def _leaf(self, i: int, row: Row, g: Array, held: dict[str, list], p: Array, h: Now) -> tuple:
        """(g, slots, p, h) of one leaf as its rule sees them."""
        slots = {k: _kept([row], {k: [held[k][i]]}, k, g.dtype)[0] for k in row.slots}
        mine = dict(leaf=row.leaf, keys=lambda salt=0: jax.random.fold_in(jax.random.fold_in(h.key, i), salt))
        if row.scale.lr != 1.0:
            mine |= dict(learning_rate=h.learning_rate * row.scale.lr, scale=row.scale.lr)
        if not (row.decays and "weight_decay" in h.hyper):
            mine["weight_decay"] = 0.0
        elif row.scale.decay != 1.0:
            mine["weight_decay"] = h.weight_decay * row.scale.decay
        if row.scale.eps != 1.0 and "eps" in h.hyper:
            mine["eps"] = h.eps * row.scale.eps
        mine["extra"] = {k: v[i] if k in PER_LEAF and v is not None else v for k, v in h.extra.items()}
        return g, slots, p.astype(g.dtype), h.but(**mine)

    def _decide(self, work: list[tuple], h: Now, state: OptState) -> tuple[Now, dict[str, Array]]:
        """The shared numbers of this update, from sums over all leaves."""
        parts = [self.rule.measure(*w) for w in work]
        sums = {k: sum(part[k] for part in parts) for k in (parts[0] if parts else {})}
        shared = {k: state.shared[k] for k in self.rule.shared()} | self.rule.decide(sums, h)
        return h.but(**shared, **{f"old_{k}": state.shared[k] for k in shared}), shared

    def _step(
        self, row: Row, state: OptState, taken: Array | None, work: tuple, h: Now
    ) -> tuple[Array, dict[str, Any]]:
        """(delta, slots as stored) of one leaf."""
        g, slots, p, mine = work
        fresh = {k: v for k, v in vars(h).items() if k not in PRIVATE}
        delta, new = decayed(self.rule, g, slots, p, mine.but(**fresh))
        if set(new) != set(row.slots):
            name = type(self.rule).__name__
            raise ValueError(f"{row.leaf.path}: {name} declares the slots {set(row.slots)} and returns {set(new)}")
        # copy: which of several the caller updates alone, so that their roundings differ
        count = state.step + h.extra.get("copy", 0) * 0x10001
        noise = lambda shape, name="": hashed(shape, salt(self.seed, count, row.leaf.path, name))
        stored = {}
        for k, (slot, fmt) in row.slots.items():
            x = new[k].astype(row.leaf.dtype) if slot.constant else new[k]
            stored[k] = x if fmt.name == "f32" else fmt.encode(x, slot, noise(x.shape, k))
        if taken is not None:
            delta = jnp.where(taken, delta, 0)
        if self.stochastic_rounding and row.leaf.dtype == jnp.bfloat16:
            delta = to_bf16(p + delta, noise(p.shape)).astype(p.dtype) - p
        return delta, stored

    def _measured(self, rows: list[Row], norm: Array | None, deltas: list, ps: list, dtype: Any) -> dict[str, Array]:
        if not self.metrics:
            return {}
        found: dict[str, Any] = dict(grad_norm=norm)
        for kind in sorted({row.leaf.kind for row in rows}):
            of = [i for i, row in enumerate(rows) if row.leaf.kind == kind]
            size = guard.norm([ps[i].astype(dtype) for i in of])
            found[f"update_ratio/{kind}"] = guard.norm([deltas[i] for i in of]) / jnp.maximum(size, 1e-30)
        return found

    def eval_params(self, state: OptState, params: Tree) -> Tree:
        """See `Optimizer.eval_params`."""
        ps, tree = jax.tree.flatten(params)
        rows, dtype = self.rows(params), _dtype(ps)
        h = self._now(state, dtype, {})
        held = {k: tree.flatten_up_to(v) for k, v in state.slots.items()}
        new = []
        for i, (row, p) in enumerate(zip(rows, ps, strict=True)):
            _, slots, wide, mine = self._leaf(i, row, p.astype(dtype), held, p, h)
            new.append(self.rule.evaluated(slots, wide, mine).astype(p.dtype))
        return jax.tree.unflatten(tree, new)


PRIVATE = ("learning_rate", "weight_decay", "eps", "leaf", "keys", "extra", "scale")  # of one leaf
# extra arguments that are trees like the parameters, or None; microbatch_grads has an axis of microbatches in front
PER_LEAF = ("sampled_grads", "microbatch_grads")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(fmt: Format, slot: Slot, x: Array, noise: Array) -> Any:
    """In one pass where `init` is called outside jit."""
    return fmt.encode(x, slot, noise)


def _kept(rows: list[Row], held: dict[str, list], name: str, dtype: Any) -> list:
    """A slot of these leaves as rules see it; None where a leaf has none of that name."""
    found = [(row.slots.get(name), stored) for row, stored in zip(rows, held[name], strict=True)]
    return [None if own is None else own[1].decode(stored, own[0], dtype) for own, stored in found]


def _dtype(leaves: list) -> Any:
    """What rules compute in: float64 where a parameter is, else float32."""
    return jnp.float64 if any(v.dtype == jnp.float64 for v in leaves) else jnp.float32


def _same(grads: Tree, params: Tree, tree: Any, name: str = "") -> list:
    have, want = ({path_of(k) for k, _ in jax.tree.leaves_with_path(t)} for t in (grads, params))
    if have != want:
        odd = sorted(have ^ want)[0]
        said = "no gradient for this parameter" if odd in want else "a gradient without a parameter"
        raise ValueError(f"{name}{odd}: {said}")
    return tree.flatten_up_to(grads)
