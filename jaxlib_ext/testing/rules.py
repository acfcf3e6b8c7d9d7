"""The contract of an optimizer's rule: what must hold of every method, whatever it computes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import optim
from .verdict import TOLERANCE, Result, apart, same_structure

Array = jax.Array
Tree = Any
STEPS = 4
SHAPES = dict(w=(8, 16), v=(16,))
LAYERS = 3


def _start(dtype: Any = jnp.float32) -> Tree:
    rng = np.random.default_rng(0)
    layers = {k: jnp.asarray(rng.normal(size=(LAYERS, *s)) * 0.5, dtype) for k, s in SHAPES.items()}
    return dict(layers=layers, head=jnp.asarray(rng.normal(size=(8, 6)) * 0.5, dtype))


def _gradient(params: Tree, t: Any) -> Tree:
    """A bowl and a wobble; a function of the place in the leaf, so that a stacked leaf and its parts see the same."""

    def one(p):
        i = jnp.arange(p.size, dtype=jnp.float32).reshape(p.shape)
        # Layers follow each other in memory: part k of a stack sees the same i shifted, so i is of one copy only.
        i = i % 128
        return (0.3 + jnp.sin(1.7 * i) ** 2) * (p - jnp.cos(0.9 * i)) + 0.3 * jnp.sin(1.3 * t + 0.7 * i)

    return jax.tree.map(lambda p: one(p.astype(jnp.float32)), params)


def _stacked_gradient(params: Tree, t: Any) -> Tree:
    own = lambda p: jax.vmap(lambda q: _gradient(q, t))(p)
    return dict(layers=jax.tree.map(own, params["layers"]), head=_gradient(params["head"], t))


def _apart(params: Tree) -> Tree:
    """The stacked layers as separate leaves."""
    return dict(head=params["head"]) | {
        f"layer{i}": jax.tree.map(lambda p, i=i: p[i], params["layers"]) for i in range(LAYERS)
    }


class _Runner:
    """One optimizer on one gradient, as a jitted step; another rate, start or step number compiles nothing."""

    def __init__(self, tx: Any, gradient: Callable, extras: Callable):
        def step(params, state, t):
            grads = gradient(params, t)
            delta, state = tx.update(grads, state, params, **extras(params, grads, gradient, t))
            return optax.apply_updates(params, delta), state

        self.tx, self.plain = tx, step
        self.step: Any = jax.jit(step)

    def __call__(self, params: Tree, steps: int = STEPS, state: Any = None, first: float = 0) -> tuple[Tree, Any]:
        state = self.tx.init(params) if state is None else state
        for t in range(steps):
            params, state = self.step(params, state, jnp.float32(first + t))
        return params, state


def _no_extras(params: Tree, grads: Tree, gradient: Callable, t: int) -> dict:
    return {}


def _yes(name: str, ok: Any, detail: str = "") -> Result:
    return Result(name, 0.0 if ok else np.inf, 0.0, detail)


def _moves(run: _Runner, make: Callable, extras: Callable) -> list[Result]:
    """What must not change the trajectory."""
    params = _start()
    end, state = run(params)
    difference = same_structure(state, run.tx.abstract(params))
    found = [
        _yes("the parameters move", any(map(_differ, *map(jax.tree.leaves, (end, params))))),
        _yes("the state keeps structure, shape and dtype", not difference, difference),
        _yes("the parameters stay finite", _finite(end)),
    ]

    def body(carry, t):
        params, state = carry
        return run.plain(params, state, t), None

    scan = jax.jit(lambda c: jax.lax.scan(body, c, jnp.arange(STEPS, dtype=jnp.float32)))
    (scanned, _), _ = scan((params, run.tx.init(params)))
    found.append(Result("inside lax.scan as one by one", float(apart(scanned, end)), TOLERANCE["float32"]))
    if getattr(run.tx.core.rule, "draws", False):  # other leaves, other noise
        return found
    separate, _ = _Runner(make(copies=None), _gradient, extras)(_apart(params))
    error = float(apart(separate, _apart(end)))
    found.append(Result("stacked layers equal separate ones", error, TOLERANCE["float32"]))
    mixed = lambda tree: dict(tree, layers=jax.tree.map(lambda p: p[jnp.array([2, 0, 1])], tree["layers"]))
    error = float(apart(run(mixed(params))[0], mixed(end)))
    return [*found, Result("permuting layers commutes with the update", error, TOLERANCE["float32"])]


def _compiled(run: _Runner) -> list[Result]:
    """Another learning rate compiles nothing; donation; a state read back from plain arrays goes on the same."""
    params = _start()
    step = jax.jit(run.plain, donate_argnums=(0, 1))
    copy = lambda tree: jax.tree.map(jnp.array, tree)
    one = step(copy(params), copy(run.tx.init(params)), jnp.float32(0))
    saved = jax.tree.map(np.asarray, one)
    two, _ = step(*copy(one), jnp.float32(1))
    again, _ = step(*jax.tree.map(jnp.asarray, saved), jnp.float32(1))
    before, (end, _) = run.step._cache_size(), run(params)
    other, _ = run(params, state=optim.set_hyper(run.tx.init(params), learning_rate=1e-4))
    more = run.step._cache_size() - before
    return [
        Result("a state saved and read goes on bit for bit", float(apart(again, two)), 0.0),
        _yes("another learning rate compiles nothing", more == 0, f"{more} more programs"),
        _yes("another learning rate changes the update", any(map(_differ, *map(jax.tree.leaves, (end, other))))),
    ]


def _differ(a: Any, b: Any) -> bool:
    return bool(np.any(np.asarray(a) != np.asarray(b)))


def _bfloat16(make: Callable, extras: Callable) -> list[Result]:
    """bfloat16 parameters move as float32 ones do, on average over many entries."""
    steps, n = 8, 4096
    start = jnp.asarray(np.random.default_rng(1).normal(size=(64, n // 64)), jnp.bfloat16)
    grad = lambda p, t: jax.tree.map(lambda v: jnp.full(v.shape, 1.0 + 0.1 * t, jnp.float32), p)
    tx = make(copies=None)
    run = _Runner(tx, grad, extras)
    end32, end16 = (run(dict(w=start.astype(dtype)), steps)[0] for dtype in (jnp.float32, jnp.bfloat16))
    move = lambda p: np.asarray(p["w"], np.float64) - np.asarray(start, np.float64)
    ulp = np.abs(np.asarray(start, np.float64)) * 2.0**-7 + 1e-3
    # A step's rounding error has at most the spread of one ulp; their mean over n entries must vanish as 1/sqrt(n).
    bound = 5 * np.sqrt(steps * np.mean(ulp**2) / n)
    error = abs(np.mean(move(end16)) - np.mean(move(end32)))
    return [
        _yes("the update is float32 for bfloat16 parameters", _delta_dtype(tx, start, grad, extras) == jnp.float32),
        Result("bfloat16 parameters move as float32 ones on average", float(error), float(bound)),
    ]


def _delta_dtype(tx: Any, start: Array, grad: Callable, extras: Callable) -> Any:
    params = dict(w=start)
    grads = grad(params, 0)
    out = jax.eval_shape(
        lambda g, s, p: tx.update(g, s, p, **extras(params, grads, grad, 0))[0], grads, tx.abstract(params), params
    )
    return out["w"].dtype


def _odd_gradients(make: Callable, extras: Callable) -> list[Result]:
    """Zero and huge gradients leave finite numbers; a nan with skip_spikes changes neither parameters nor slots."""
    params = _start()
    constant = lambda params, t: jax.tree.map(lambda q: jnp.full(q.shape, t), params)
    run = _Runner(make(skip_spikes=6.0), constant, extras)
    bad, after = run(params, 1, first=jnp.nan)
    kept = apart((bad, after.slots), (params, run.tx.init(params).slots))
    found = [Result("a nan gradient is left out by skip_spikes", float(kept), 0.0)]
    for name, value in (("zero", 0.0), ("huge", 1e12)):
        end, state = run(params, 1, first=value)
        end, _ = run(end, 1, state, first=value)
        found.append(_yes(f"{name} gradients leave finite parameters", _finite(end)))
    return found


def _finite(tree: Tree) -> bool:
    return all(bool(jnp.all(jnp.isfinite(v))) for v in jax.tree.leaves(tree))


def _scaled(run: _Runner, make: Callable, extras: Callable) -> Result:
    """scales=0.5 on all leaves is the learning rate halved, but for decay, which keeps the unscaled rate."""
    params = _start()
    by_scale, _ = _Runner(make(scales=jax.tree.map(lambda _: 0.5, params)), _stacked_gradient, extras)(params)
    state = run.tx.init(params)
    changed = dict(learning_rate=0.5 * state.hyper["learning_rate"])
    if "weight_decay" in state.hyper:
        changed["weight_decay"] = 2 * state.hyper["weight_decay"]
    by_rate, _ = run(params, state=optim.set_hyper(state, **changed))
    return Result("scales multiply the learning rate", float(apart(by_scale, by_rate)), TOLERANCE["float32"])


def rule(method: optim.Rule, *, learning_rate: float = 0.01, extras: Callable = _no_extras) -> list[Result]:
    """Runs every promise of `optim.Rule` and returns the results.

    extras(params, grads, gradient, t) -> the extra arguments of `update` that the method needs.
    """

    def make(rate: float = 1.0, **core):
        return optim.transform(method, learning_rate * rate, **dict(copies=dict(layers=1)) | core)

    run = _Runner(make(), _stacked_gradient, extras)
    results = [*_moves(run, make, extras), *_compiled(run), *_bfloat16(make, extras)]
    results += _odd_gradients(make, extras)
    if not method.shared() and not method.own_decay:  # those see the rate itself
        results.append(_scaled(run, make, extras))
    return results + _errors(run.tx, method)


def _errors(tx: Any, method: optim.Rule) -> list[Result]:
    params, found = _start(), []
    grads = jax.tree.map(jnp.zeros_like, params)
    for needed in method.needs:
        try:
            tx.update(grads, tx.init(params), params)
            said = "nothing raised"
        except ValueError as error:
            said = str(error)
        found.append(_yes(f"a missing {needed} is named", needed in said, said))
    return found
