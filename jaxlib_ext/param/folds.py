"""Folds over a declaration: initial values, shapes, sharding specs, masks, counts, bytes.

Every fold takes a tree of `Param` and returns a tree of the same structure, or a number.

>>> from jaxlib_ext import param
>>> layer = dict(up=param.matrix(dict(embed=4), dict(ff=8)), norm=param.gain(embed=4))
>>> deep = param.stack(layer, layers=3)
>>> deep["up"].axes, param.size(deep), param.size(deep, "matrix")
(('layers', 'embed', 'ff'), 108, 96)
>>> param.decayed(deep)
{'norm': False, 'up': True}
>>> tuple(param.specs(deep, {"layers": None, "embed": "fsdp", "ff": "tensor"}, {"fsdp": 2, "tensor": 4})["up"])
(None, 'fsdp', 'tensor')
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from .declare import COMPUTE, DECAYED, KINDS, Param, gain
from .scale import ONE, beside

Array = jax.Array
Tree = Any


def _path(keys) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def fold(f: Callable, decl: Tree, *rest: Tree) -> Tree:
    """Maps f(path, Param, *leaves of rest) over the declaration. A leaf that is no Param raises by its path."""

    def visit(keys, p, *more):
        if not isinstance(p, Param):
            raise TypeError(f"{_path(keys)}: a declaration holds Param leaves only, not {type(p).__name__}")
        return f(_path(keys), p, *more)

    return jax.tree.map_with_path(visit, decl, *rest)


def leaves(decl: Tree) -> list[Param]:
    """The declared parameters, in the order of `jax.tree.leaves`."""
    return jax.tree.leaves(fold(lambda _, p: p, decl))


def by_path(decl: Tree) -> dict[str, Param]:
    """The declared parameters by their paths."""
    return {_path(keys): p for keys, p in jax.tree.leaves_with_path(fold(lambda _, p: p, decl))}


def paths(decl: Tree) -> Tree:
    """The path of each leaf, "unit/0/token/q": its random-number identity and its checkpoint key."""
    return fold(lambda path, _: path, decl)


def _hash(path: str) -> int:
    return zlib.crc32(path.encode())


def check(decl: Tree) -> None:
    """Raises if two leaves would share a path, or the hash of one and so their random numbers."""
    seen: dict[int, str] = {}
    for path in jax.tree.leaves(paths(decl)):
        other = seen.setdefault(_hash(path), path)
        if other != path:
            raise ValueError(f"paths {other!r} and {path!r} have the same hash; rename one")
    names = jax.tree.leaves(paths(decl))
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise ValueError(f"two leaves have the path {twice[0]!r}: a key must not contain '/'")


def stack(decl: Tree, **axis: int) -> Tree:
    """Adds one leading copies axis, `stack(decl, layers=n)`: names, roles and optimizer blocks move together.

    Initial values are drawn copy by copy with a key folded by the index, so copy i does not depend on n, and an init
    callable sees the shape of one copy.
    """
    ((name, n),) = axis.items()

    def add(_, p):
        return dataclasses.replace(p, copies=((name, n), *p.copies), stacked=p.stacked + 1)

    return fold(add, decl)


def _draw(p: Param, key: Array) -> Array:
    if p.stacked:
        one = dataclasses.replace(p, copies=p.copies[1:], stacked=p.stacked - 1)
        n = p.shape[0]
        if n == 0:
            return jnp.zeros(p.shape, p.dtype)
        return jax.vmap(lambda i: _draw(one, jax.random.fold_in(key, i)))(jnp.arange(n))
    if callable(p.init):
        value: Any = p.init(key, p.shape, p.dtype)
        if value.shape != p.shape:
            raise ValueError(f"init returned shape {value.shape}, declared is {p.shape}")
        return value.astype(p.dtype)
    if p.init in ("zeros", "ones"):
        return getattr(jnp, p.init)(p.shape, p.dtype)
    std = p.fan_in**-0.5 if p.init == "fan_in" else p.init
    return (jax.random.normal(key, p.shape, jnp.float32) * std).astype(p.dtype)


def init(decl: Tree, key: Array, shardings: Tree | None = None, scales: Tree | None = None) -> Tree:
    """Initial values. Keys come from a hash of the path, so adding a leaf moves no other.

    shardings: a tree of `jax.sharding.Sharding`; each device then makes its own shard and no device ever holds a whole
    parameter that is declared as sharded. scales: a parameterisation; each value is the declared one times its `init`.
    """
    check(decl)
    known = {} if scales is None else beside(decl, scales)

    def make(path, p):
        try:
            value, factor = _draw(p, jax.random.fold_in(key, _hash(path))), known.get(path, ONE).init
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return value if factor == 1.0 else value * jnp.asarray(factor, value.dtype)

    draw = lambda: fold(make, decl)
    return draw() if shardings is None else jax.jit(draw, out_shardings=shardings)()


def zeros(decl: Tree) -> Tree:
    """All zeros: the empty state of anything declared with `state`, `cache` and `count`."""
    return fold(lambda _, p: jnp.zeros(p.shape, p.dtype), decl)


def abstract(decl: Tree, shardings: Tree | None = None) -> Tree:
    """`jax.ShapeDtypeStruct`s: nothing is allocated."""
    if shardings is None:
        return fold(lambda _, p: jax.ShapeDtypeStruct(p.shape, p.dtype), decl)
    return fold(lambda _, p, s: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=s), decl, shardings)


def _row(path: str, p: Param, name: str, rules: Mapping) -> tuple[str, ...]:
    """Mesh axes for one axis of one parameter; a row for (kind, axis) wins over the row for the axis."""
    for row in ((p.kind, name), name):
        if row in rules:
            mesh = rules[row]
            return () if mesh is None else (mesh,) if isinstance(mesh, str) else tuple(mesh)
    raise ValueError(f"{path}: the sharding rules have no row for axis {name!r}; use {name!r}: None to replicate")


def specs(decl: Tree, rules: Mapping, mesh: Mapping[str, int]) -> Tree:
    """A `PartitionSpec` for each leaf.

    rules: axis name, or (kind, axis name), -> mesh axis, tuple of mesh axes, or None for replicated. Every axis that
    is present needs a row. Mesh axes that `mesh` does not have are passed over, so one table serves every mesh; a mesh
    axis is spent once per array, leftmost name first.
    mesh: mesh axis -> size. A size that does not divide raises with parameter, axis and both sizes.
    """

    def spec(path, p):
        used, out = set(), []
        for name, size in p.dims:
            axes = tuple(m for m in _row(path, p, name, rules) if m in mesh and m not in used)
            ways = math.prod(mesh[m] for m in axes)
            if size % ways:
                raise ValueError(f"{path}: axis {name}={size} does not divide over {'*'.join(axes)}={ways}")
            used.update(axes)
            out.append(axes if len(axes) > 1 else axes[0] if axes else None)
        while out and out[-1] is None:
            out.pop()
        return PartitionSpec(*out)

    return fold(spec, decl)


def _of(decl: Tree, kinds: tuple[str, ...]) -> list[Param]:
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"unknown kind {unknown[0]!r}; kinds are {', '.join(KINDS)}")
    return [p for p in leaves(decl) if not kinds or p.kind in kinds]


def size(decl: Tree, *kinds: str) -> int:
    """Number of scalars, of the given kinds or all."""
    return sum(p.size for p in _of(decl, kinds))


def nbytes(decl: Tree, *kinds: str) -> int:
    """Bytes of the arrays as declared, of the given kinds or all."""
    return sum(p.size * jnp.dtype(p.dtype).itemsize for p in _of(decl, kinds))


def matmul_size(decl: Tree) -> float:
    """Parameters that one token is multiplied with: a forward pass does 2 FLOPs for each. Shared leaves count `uses`
    times, gathered ones 0 times, and the copies of one leaf (layers) all."""
    return sum(p.size * p.uses for p in _of(decl, ("matrix", "head", "embed")))


def decayed(decl: Tree) -> Tree:
    """Weight-decay mask: True for matrices, heads and convolution taps, None for what no optimizer sees, so that its
    structure is that of the trained half of `split`."""
    return fold(lambda _, p: p.kind in DECAYED if p.trained else None, decl)


def blocks(decl: Tree, by: str = "neuron") -> Tree:
    """For each leaf the axis numbers inside one optimizer block; a statistic of the block is a mean over them.

    by="neuron": one block per copy and produced unit. by="head": one block per copy and head where an axis named heads
    or kv_heads exists, per neuron elsewhere. Gathered tables: one block per row. Vectors: one block per copy.
    """
    if by not in ("neuron", "head"):
        raise ValueError(f'blocks are by "neuron" or by "head", not {by!r}')

    def inside(_, p):
        start, ins = len(p.copies), len(p.contracts)
        if p.kind in ("embed", "table"):
            return tuple(range(start + ins, len(p.dims)))
        if not ins:
            return tuple(range(start, len(p.dims)))
        if by == "head" and {"heads", "kv_heads"} & set(p.axes[start:]):
            return tuple(i for i in range(start, len(p.dims)) if p.axes[i] not in ("heads", "kv_heads"))
        return tuple(range(start, start + ins))

    return fold(inside, decl)


def quantised(decl: Tree, dtype: Any = jnp.int8, kinds: tuple[str, ...] = ("matrix", "head")) -> Tree:
    """Each leaf of the given kinds becomes {"q": codes, "scale": one float32 factor per copy and produced unit}.

    A declaration, so shapes, specs and bytes of the quantised tree follow. Codes are drawn as zeros.
    """

    def quantise(_, p):
        if p.kind not in kinds:
            return p
        scale = gain(**dict(p.produces), copies=dict(p.copies), extra_axes=p.extra_axes)
        return dict(q=dataclasses.replace(p, dtype=dtype, init="zeros", train=False), scale=scale)

    return fold(quantise, decl)


def dequantise(decl: Tree, stored: Tree) -> Tree:
    """The dense values of a tree declared by `quantised(decl)`."""

    def dense(_, p, leaf):
        if not isinstance(leaf, dict):
            return leaf
        scale = leaf["scale"].reshape(*(n for _, n in p.copies), *(1 for _ in p.contracts), *(n for _, n in p.produces))
        return (leaf["q"].astype(scale.dtype) * scale).astype(p.dtype)

    return fold(dense, decl, stored)


def split(decl: Tree, params: Tree) -> tuple[Tree, Tree]:
    """(trained, rest): two trees of the full structure with None where a leaf is in the other one.

    A training step differentiates and optimizes `trained` only; `join` puts them together again.
    """
    trained = fold(lambda _, p, v: v if p.trained else None, decl, params)
    rest = fold(lambda _, p, v: None if p.trained else v, decl, params)
    return trained, rest


def join(trained: Tree, rest: Tree) -> Tree:
    """The inverse of `split`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, rest, is_leaf=lambda x: x is None)


def cast(decl: Tree, params: Tree, dtype: Any) -> Tree:
    """The one cast to the compute dtype: by kind, so that gains, decays, states and buffers stay float32."""

    def to(_, p, value):
        return value.astype(dtype) if p.kind in COMPUTE and jnp.issubdtype(p.dtype, jnp.floating) else value

    return fold(to, decl, params)
