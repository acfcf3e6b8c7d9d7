"""What lies where: the sharding of every declared parameter, as `NamedSharding`s, a check and a table."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from .. import param
from .mesh import AnyMesh, sizes, write_mesh
from .rules import RULES, spec

Tree = Any


def shardings(decl: Tree, mesh: jax.sharding.Mesh, rules: Mapping = RULES) -> Tree:
    """A `NamedSharding` for each leaf of the declaration."""
    return jax.tree.map(lambda p: NamedSharding(mesh, p), param.specs(decl, rules, sizes(mesh)), is_leaf=_is_spec)


def batch_sharding(mesh: jax.sharding.Mesh, rules: Mapping = RULES, batch: int = 0, time: int = 0) -> NamedSharding:
    """The `NamedSharding` of tokens [batch, time]; with the sizes, also checks that they divide."""
    return NamedSharding(mesh, spec("batch time", (batch, time), sizes(mesh), rules))


def check(decl: Tree, mesh: AnyMesh, rules: Mapping = RULES) -> None:
    """Raises ValueError, naming it, for a mesh axis of size > 1 that shards nothing.

    So does an axis without a row, and a size that does not divide.
    """
    specs = jax.tree.leaves(param.specs(decl, rules, sizes(mesh)), is_leaf=_is_spec)
    used = {axis for p in (*specs, spec("batch time", (0, 0), sizes(mesh), rules)) for axis in _axes(p)}
    for name, size in sizes(mesh).items():
        if size > 1 and name not in used:
            raise ValueError(f"mesh axis {name}={size} shards nothing: no parameter and not the batch")


def report(decl: Tree, mesh: AnyMesh, rules: Mapping = RULES) -> str:
    """A table: parameter, shape, spec, bytes per device; then the totals and the share that is replicated.

    >>> mesh = jax.sharding.AbstractMesh((4, 2), ("fsdp", "tensor"))
    >>> print(report(dict(up=param.matrix(dict(embed=8), dict(ff=16)), norm=param.gain(embed=8)), mesh))
    parameter shape         spec         bytes per device
    norm      embed=8       replicated                 32
    up        embed=8 ff=16 fsdp, tensor               64
    total     544 bytes, 96 per device on fsdp=4,tensor=2; 5.9% replicated
    """
    mesh_sizes = sizes(mesh)
    rows = [("parameter", "shape", "spec", "bytes per device")]
    total = here = replicated = 0
    paths = jax.tree.leaves(param.paths(decl))
    specs = jax.tree.leaves(param.specs(decl, rules, mesh_sizes), is_leaf=_is_spec)
    for path, p, p_spec in zip(paths, param.leaves(decl), specs, strict=True):
        whole = p.size * jnp.dtype(p.dtype).itemsize
        part = whole // math.prod(mesh_sizes[axis] for axis in _axes(p_spec))
        shape = " ".join(f"{name}={size}" for name, size in p.dims) or "scalar"
        total, here, replicated = total + whole, here + part, replicated + (whole if part == whole else 0)
        rows.append((path, shape, _text(p_spec), f"{part:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{a:<{widths[0]}} {b:<{widths[1]}} {c:<{widths[2]}} {d:>{widths[3]}}" for a, b, c, d in rows]
    share = f"{100 * replicated / max(total, 1):.1f}% replicated"
    lines.append(f"{'total':<{widths[0]}} {total:,} bytes, {here:,} per device on {write_mesh(mesh_sizes)}; {share}")
    return "\n".join(lines)


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def _axes(p: PartitionSpec) -> list[str]:
    """All mesh axes of a spec."""
    return [axis for entry in p for axis in ((entry,) if isinstance(entry, str) else entry or ())]


def _text(p: PartitionSpec) -> str:
    entries = ["-" if e is None else e if isinstance(e, str) else "*".join(e) for e in p]
    return ", ".join(entries) or "replicated"
