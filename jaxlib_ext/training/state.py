"""What a training step carries, and where each of its arrays lives on a mesh."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from .. import param

Array = jax.Array
Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A pytree. step counts finished updates; the data position is the step, for a batch is a lookup by it."""

    step: Array  # int32 scalar
    params: Tree  # everything declared, buffers included
    opt: Tree
    ema: Tree  # float32 running average of the trained parameters, {} if none is kept
    key: Array  # data of the run's key, uint32; a step's randomness is that key folded with the step


def create(decl: Tree, tx: optax.GradientTransformation, key: Array, ema: bool, scales: Tree | None = None) -> State:
    """The state before the first step."""
    params = param.init(decl, key, scales=scales)
    trained, _ = param.split(decl, params)
    return State(
        step=jnp.int32(0), params=params, opt=tx.init(trained),
        ema=jax.tree.map(lambda v: v.astype(jnp.float32), trained) if ema else {},
        key=jax.random.key_data(jax.random.fold_in(key, 1)),
    )  # fmt: skip


def shardings(abstract: State, params: Tree, mesh: jax.sharding.Mesh) -> State:
    """Shardings of a whole state from those of the parameters.

    Optimizer slots and averages lie as the parameter whose path ends theirs and whose shape they have; what fits no
    parameter (counts, factored slots) is on every device.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    known = {path: s for path, s in jax.tree.leaves_with_path(params)}
    shapes = {path: v.shape for path, v in jax.tree.leaves_with_path(abstract.params)}

    def place(path, leaf):
        for i in range(len(path)):
            if shapes.get(path[i:]) == leaf.shape:
                return known[path[i:]]
        return whole

    return jax.tree.map_with_path(place, abstract)
