"""What the core knows of each leaf before the first step: one row a leaf, made once from the parameters' shapes.

Wrong masks, scales, formats and declarations are named here by the parameter's path, before anything is compiled.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from .. import param
from .formats import F32, Format
from .rule import Leaf, Rule, Slot, Tree


@dataclasses.dataclass(frozen=True)
class Row:
    """One leaf: what it is, whether it decays, its factors, and how each slot is stored."""

    leaf: Leaf
    decays: bool
    scale: param.Scale
    slots: dict[str, tuple[Slot, Format]]


def path_of(keys) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def leaves_of(params: Tree, decl: Tree | None, copies: Mapping[str, int] | None, part: bool = False) -> list[Leaf]:
    """The leaves of params as rules see them. copies: pattern of the path -> independent leading axes, without decl.
    part: they are some of the parameters, and patterns may be for others."""
    declared = {} if decl is None else {path_of(k): p for k, p in jax.tree.leaves_with_path(decl)}
    used, found = set(), []
    for keys, value in jax.tree.leaves_with_path(params):
        path, shape = path_of(keys), tuple(value.shape)
        if decl is not None:
            if path not in declared:
                raise ValueError(f"{path}: the parameters have this leaf, the declaration does not")
            p = declared[path]
            if p.shape != shape:
                raise ValueError(f"{path}: declared as {p.shape}, the parameter is {shape}")
            found.append(Leaf(path, shape, value.dtype, p.kind, len(p.copies), len(p.contracts)))
            continue
        patterns = [k for k in copies or {} if re.search(k, path)]
        used.update(patterns)
        n = max((copies[k] for k in patterns), default=0) if copies else 0
        if n > len(shape):
            raise ValueError(f"{path}: {n} copies axes asked for, its shape is {shape}")
        kind = "matrix" if len(shape) - n >= 2 else "vector"
        found.append(Leaf(path, shape, value.dtype, kind, n, max(len(shape) - n - 1, 0)))
    for pattern in copies or {}:
        if pattern not in used and decl is None and not part:
            raise ValueError(f"copies: the pattern {pattern!r} matches no parameter")
    return found


def _beside(tree: Any, params: Tree, what: str) -> list[Any]:
    """The leaves of a tree that must have the parameters' structure."""
    known = {path_of(k): v for k, v in jax.tree.leaves_with_path(tree)}
    paths = [path_of(k) for k, _ in jax.tree.leaves_with_path(params)]
    for path in paths:
        if path not in known:
            raise ValueError(f"{path}: {what} has no entry for this parameter")
    if extra := sorted(set(known) - set(paths)):
        raise ValueError(f"{extra[0]}: {what} has an entry for a parameter that is not there")
    return [known[path] for path in paths]


def decays_of(
    params: Tree, leaves: list[Leaf], mask: Tree | Callable | None, decl: Tree | None, part: bool = False
) -> list[bool]:
    """Which leaves decay: the mask's, else the declared matrices, heads and convolutions, else all."""
    if mask is None:
        return [leaf.kind in param.DECAYED for leaf in leaves] if decl is not None else [True] * len(leaves)
    mask = mask(params) if callable(mask) else mask
    found = [bool(v) for v in _beside(mask, params, "decay_mask")]
    if found and not any(found) and not part:
        raise ValueError(f"decay_mask: True for none of {len(found)} parameters; weight_decay=0 turns decay off")
    return found


def scales_of(params: Tree, scales: Tree | None) -> list[param.Scale]:
    """The factors of each leaf, all 1 without a tree of them."""
    if scales is None:
        return [param.Scale()] * len(jax.tree.leaves(params))
    paths = [path_of(k) for k, _ in jax.tree.leaves_with_path(params)]
    return [param.scale_of(path, v) for path, v in zip(paths, _beside(scales, params, "scales"), strict=True)]


def table(rule: Rule, params: Tree, *, decl: Tree | None, copies: Mapping[str, int] | None, decay_mask: Any,
          scales: Tree | None, formats: Mapping[str, Format], part: bool = False) -> list[Row]:  # fmt: skip
    """One row a leaf, in the order of `jax.tree.leaves(params)`. part: options may be for parameters elsewhere."""
    leaves = leaves_of(params, decl, copies, part)
    decays, factors = decays_of(params, leaves, decay_mask, decl, part), scales_of(params, scales)
    rows, names = [], set()
    for leaf, decay, factor in zip(leaves, decays, factors, strict=True):
        slots = rule.slots(leaf)
        names |= set(slots)
        stored = {k: (s, formats.get(k, formats.get("all", F32)).serves(leaf, s)) for k, s in slots.items()}
        rows.append(Row(leaf, decay, factor, stored))
    if not part and (unknown := sorted(set(formats) - names - {"all"})):
        have = f"its slots are {', '.join(sorted(names))}" if names else "it has no slots"
        raise ValueError(f"formats: {type(rule).__name__} has no slot {unknown[0]!r}; {have}")
    return rows
