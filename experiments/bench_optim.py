"""Speed of optimizers on this machine: updates of 20M parameters in 100 leaves, against optax and torch in turns.

    python experiments/bench_optim.py                       # adamw and lion; ratios of times, ours over theirs
    python experiments/bench_optim.py --target v5e:2x2      # also bytes accessed, compiled for a TPU that is not here

All forms run in one process in turns, in an order that changes every round, so a drift of the machine hits all alike.
Ratios are medians over rounds with 95% bootstrap intervals. Parameters and state are donated unless the row says so;
torch, where it is installed, changes them in place, with nothing compiled.
"""

import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from _turns import in_turns, ratio

from jaxlib_ext import optim


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured."""

    leaves: int = 100
    rows: int = 400
    columns: int = 500
    rounds: int = 30
    updates: int = 5
    """Updates a round and form."""
    target: str = ""
    """A TPU to compile for, "v5e:2x2"."""


PAIRS = {
    "adamw": [partial(lib.adamw, 1e-3, b2=0.95, weight_decay=0.1) for lib in (optim, optax)],
    "lion": [partial(lib.lion, 1e-3, weight_decay=0.1) for lib in (optim, optax)],
}


def tree(c: Bench, seed: int = 0) -> dict[str, jax.Array]:
    """Parameters or gradients."""
    rng = np.random.default_rng(seed)
    return {f"w{i}": jnp.asarray(rng.normal(size=(c.rows, c.columns)), jnp.float32) for i in range(c.leaves)}


def updater(tx: Any, donate: bool = True) -> Callable:
    """One update and its application, in one program."""

    def step(grads, state, params):
        delta, state = tx.update(grads, state, params)
        return state, optax.apply_updates(params, delta)

    return jax.jit(step, donate_argnums=(1, 2) if donate else ())


class Compiled:
    """An optax transformation as a thing to be timed."""

    def __init__(self, c: Bench, tx: Any, donate: bool = True):
        self.step, self.grads, params = updater(tx, donate), tree(c, 1), tree(c)
        self.held = (jax.tree.map(jnp.array, tx.init(params)), params)
        self.n = c.updates

    def __call__(self) -> Any:
        for _ in range(self.n):
            self.held = self.step(self.grads, *self.held)
        return self.held


class Torch:
    """torch.optim.AdamW on the same numbers. Unlike the others it runs as it is called, with nothing compiled, and its
    learning rate and step are Python numbers."""

    def __init__(self, c: Bench, **form: bool):
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(os.cpu_count() or 1)
        self.params = [torch.nn.Parameter(torch.tensor(np.asarray(v))) for v in tree(c).values()]
        for p, g in zip(self.params, tree(c, 1).values(), strict=True):
            p.grad = torch.tensor(np.asarray(g))
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, **form)
        self.n = c.updates

    def __call__(self) -> None:
        for _ in range(self.n):
            self.optimizer.step()


def forms(c: Bench, name: str) -> dict[str, Callable]:
    """What takes turns for one method."""
    ours, theirs = PAIRS[name]
    found: dict[str, Callable] = {
        "ours": Compiled(c, ours()),
        "optax": Compiled(c, theirs()),
        "ours, not donated": Compiled(c, ours(), donate=False),
    }
    if name != "adamw":
        print("  torch: left out, it has no such optimizer")
    elif importlib.util.find_spec("torch") is None:
        print("  torch: left out, it is not installed")
    else:
        found["torch, fused"], found["torch, foreach"] = Torch(c, fused=True), Torch(c, foreach=True)
    return found


def race(c: Bench, name: str) -> None:
    """Times of one method's forms in turns, and the ratios to ours."""
    times = {k: np.array(row) / c.updates for k, row in in_turns(forms(c, name), c.rounds).items()}
    words = 7 if name == "adamw" else 5
    least = words * 4 * c.leaves * c.rows * c.columns
    for k, row in times.items():
        best, over = min(row), ratio(times["ours"], row)
        print(f"  {k:18s} best {1e3 * best:7.2f} ms, median {1e3 * np.median(row):7.2f} ms, "
              f"{least / best / 2**30:5.1f} GiB/s of what must move; ours/this {over:.3f}")  # fmt: skip


def compile_times() -> None:
    """Tracing and compiling adamw on 1000 stacked layers, and on 1000 leaves."""
    for what, params in {
        "one leaf of 1000 layers": dict(w=jax.ShapeDtypeStruct((1000, 256, 256), jnp.float32)),
        "1000 leaves": {f"w{i}": jax.ShapeDtypeStruct((256, 256), jnp.float32) for i in range(1000)},
    }.items():
        row = []
        for tx in (optim.adamw(1e-3, copies={"": 1}) if len(params) == 1 else optim.adamw(1e-3), optax.adamw(1e-3)):
            state = jax.eval_shape(tx.init, params)
            begin = time.perf_counter()
            updater(tx).lower(params, state, params).compile()
            row.append(time.perf_counter() - begin)
        print(f"  {what:24s} ours {row[0]:6.2f} s, optax {row[1]:6.2f} s")


def accessed(c: Bench) -> None:
    """Bytes that one update of a 4096 x 4096 leaf accesses on a TPU, compiled without it."""
    from jax.sharding import SingleDeviceSharding

    from jaxlib_ext import targets

    one = SingleDeviceSharding(targets.target(c.target).devices[0])
    on = lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=one)
    params = dict(w=jax.ShapeDtypeStruct((4096, 4096), jnp.float32))
    for name, (ours, _) in PAIRS.items():
        tx = ours()
        args = jax.tree.map(on, (params, jax.eval_shape(tx.init, params), params))
        cost = updater(tx).lower(*args).compile().cost_analysis()
        least = (7 if name == "adamw" else 5) * 4 * 4096**2
        print(f"  {name:6s} {cost['bytes accessed'] / 2**20:7.1f} MiB accessed, least {least / 2**20:7.1f} MiB, "
              f"ratio {cost['bytes accessed'] / least:.3f}  (compiled statically for {c.target})")  # fmt: skip


def main(c: Bench) -> None:
    size = c.leaves * c.rows * c.columns
    device = jax.devices()[0].device_kind
    print(f"{size / 1e6:.0f}M float32 parameters in {c.leaves} leaves, {device}, {c.rounds} rounds")
    for name in PAIRS:
        print(name)
        race(c, name)
    print("compile time of adamw on this machine")
    compile_times()
    if c.target:
        accessed(c)


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))
