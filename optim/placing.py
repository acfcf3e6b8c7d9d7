"""Where the optimizer's state lives on a mesh: slots lie as their parameters; ZeRO adds mesh axes to them.

>>> from jax.sharding import PartitionSpec as P
>>> tuple(add_axes(P(None, "tensor"), (64, 32), dict(data=4, tensor=2), ("data",)))
('data', 'tensor')

source: ZeRO stage 1, Rajbhandari et al. 2019, arXiv 1910.02054; under jit it is only a sharding of the state
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import PartitionSpec

Tree = Any


def _axes(entry: Any) -> tuple[str, ...]:
    """The mesh axes of one dimension."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def add_axes(
    spec: PartitionSpec, shape: tuple[int, ...], mesh: Mapping[str, int], zero: tuple[str, ...]
) -> PartitionSpec:
    """spec with each mesh axis of zero on the largest dimension that it divides, where it is not used already."""
    entries: list[Any] = [*spec, *[None] * (len(shape) - len(spec))]
    for axis in zero:
        if axis not in mesh:
            raise ValueError(f"zero: the mesh has no axis {axis!r}; it has {', '.join(mesh)}")
        names = [_axes(entry) for entry in entries]
        if any(axis in own for own in names):
            continue
        held = [n // math.prod(mesh[a] for a in own) for n, own in zip(shape, names, strict=True)]
        fits = [i for i, n in enumerate(held) if n % mesh[axis] == 0 and n >= mesh[axis]]
        if fits:
            best = max(fits, key=lambda i: held[i])
            entries[best] = (*names[best], axis) if names[best] else axis
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def slot_spec(
    shape: tuple[int, ...], leaf: tuple[int, ...], spec: PartitionSpec, mesh: Mapping[str, int]
) -> PartitionSpec:
    """The spec of a slot: dimensions counted from the right that equal the parameter's, or divide as it does (the
    blocks of a quantised slot), lie as the parameter's; others, and those in front, are whole."""
    entries: list[Any] = [*spec, *[None] * (len(leaf) - len(spec))]
    out: list[Any] = [None] * len(shape)
    for i in range(1, min(len(shape), len(leaf)) + 1):
        entry = entries[-i]
        ways = math.prod(mesh[a] for a in _axes(entry))
        if (
            entry is not None
            and (shape[-i] == leaf[-i] or (i == 1 and leaf[-i] % shape[-i] == 0))
            and shape[-i] % ways == 0
        ):
            out[-i] = entry
    while out and out[-1] is None:
        out.pop()
    return PartitionSpec(*out)


def specs(state: Any, params: Tree, param_specs: Tree, mesh: Mapping[str, int], zero: tuple[str, ...] = ()) -> Any:
    """`PartitionSpec`s for an optimizer's state.

    state: its abstract form. params, param_specs: shapes and specs of the parameters. mesh: mesh axis -> size.
    zero: mesh axes, say ("data",), that slots are split over beyond their parameters.
    """
    is_spec = lambda v: isinstance(v, PartitionSpec)
    tree = jax.tree.structure(params)
    shapes = [tuple(p.shape) for p in jax.tree.leaves(params)]
    where = jax.tree.leaves(param_specs, is_leaf=is_spec)

    def place(slot: Tree) -> Tree:
        one = lambda held, shape, spec: jax.tree.map(
            lambda v: add_axes(slot_spec(v.shape, shape, spec, mesh), v.shape, mesh, zero), held
        )
        return jax.tree.unflatten(
            tree, [one(*row) for row in zip(tree.flatten_up_to(slot), shapes, where, strict=True)]
        )

    whole = jax.tree.map(lambda _: PartitionSpec(), state)
    return whole._replace(slots={name: place(slot) for name, slot in state.slots.items()})
