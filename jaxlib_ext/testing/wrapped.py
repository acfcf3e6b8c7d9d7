"""Operators and slices that stand where arrays stood, to see that a method lets them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from .. import param
from ..kernels import linear as door
from .verdict import apart

Tree = Any
OPERATORS = "matrices may be operators"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Wrapped:
    """An operator with nothing of an array but what kernels.linear asks of it."""

    value: jax.Array

    def linear(self, x, c=1):
        return door.linear(x, self.value, c)

    def take_rows(self, ids):
        return door.take(self.value, ids)

    def unembed(self, x):
        return door.unembed(x, self.value)


def wrap(decl: Tree, params: Tree) -> Tree:
    """Every matrix, embedding and head as an operator: a method that reaches around kernels.linear fails on them."""
    return param.fold(lambda _, p, v: Wrapped(v) if p.kind in ("matrix", "embed", "head") else v, decl, params)


def with_operators(run: Callable, decl: Tree, params: Tree, y: jax.Array, notes: dict[str, str]) -> Any:
    """How far run(params) with operators for its matrices is from y, its result with arrays.

    Infinite where run cannot be traced with them, and then notes says why.
    """
    try:
        return apart(run(wrap(decl, params)), y)
    except (TypeError, ValueError, AttributeError) as error:
        notes[OPERATORS] = str(error).partition("\n")[0]
        return jax.numpy.inf


def cut(decl: Tree, values: Tree, axis: str, keep: int, masked: bool) -> Tree:
    """Values with `axis` cut to its first `keep`, or with the rest set to zero."""

    def one(_, p, v):
        if axis not in p.axes:
            return v
        i = p.axes.index(axis)
        kept = jax.lax.slice_in_dim(v, 0, keep, axis=i)
        if not masked:
            return kept
        rest = [(0, 0)] * v.ndim
        rest[i] = (0, v.shape[i] - keep)
        return jax.numpy.pad(kept, rest)

    return param.fold(one, decl, values)
