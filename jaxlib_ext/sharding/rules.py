"""One table from axis names to mesh axes, for parameters, states and activations alike.

>>> RULES["batch"], RULES["ff"], RULES["head_dim"]
(('data', 'fsdp'), ('tensor',), None)
>>> own = RULES | {"kv_heads": None, ("matrix", "rank"): "tensor"}
>>> own["kv_heads"], own["matrix", "rank"], hash(own) == hash(RULES)
(None, ('tensor',), False)
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from jax.sharding import PartitionSpec

from .. import param
from .mesh import AnyMesh, known, sizes

Row = str | tuple[str, str]  # axis, or (kind, axis), which wins
Value = str | tuple[str, ...] | None


class Rules(Mapping[Row, Value]):
    """A frozen, hashable mapping: axis, or (kind, axis), -> mesh axes, or None for replicated.

    `rules | {...}` extends it. A mesh axis is spent once an array, leftmost name first; an axis that the mesh
    lacks is passed over. Raises ValueError for an unknown kind or mesh axis.
    """

    __slots__ = ("_hash", "_rows")

    def __init__(self, rows: Mapping[Row, Value]):
        table = {}
        for row, value in rows.items():
            if isinstance(row, tuple) and (len(row) != 2 or row[0] not in param.KINDS):
                raise ValueError(f"a row is an axis or (kind, axis), not {row!r}; kinds are {', '.join(param.KINDS)}")
            axes = (value,) if isinstance(value, str) else tuple(value or ())
            table[row] = tuple(known(axis) for axis in axes) or None
        self._rows, self._hash = table, hash(frozenset(table.items()))

    def __getitem__(self, row: Row) -> Value:
        return self._rows[row]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __hash__(self) -> int:
        return self._hash

    def __or__(self, more: Mapping[Any, Any]) -> "Rules":
        return Rules({**self, **more})

    def __repr__(self) -> str:
        return f"Rules({self._rows})"


RULES = Rules(
    {
        # Activations. batch stands first, so it takes fsdp and the stream's embed stays whole.
        "batch": ("data", "fsdp"),
        "time": "sequence",
        "context": None,  # every token reads all of the memory
        "slot": None,  # a step reads all of the cache
        # Matrices are stored in parts along the stream's width, and computed in parts along a block's own.
        "embed": "fsdp",
        "heads": "tensor",
        "kv_heads": "tensor",
        "group": "tensor",  # kv_heads takes tensor first; with kv_heads: None, query heads are still split
        "ff": "tensor",
        "inner": "tensor",
        "vocab": "tensor",
        "expert": "expert",
        # Whole: summed over within a device, or too small to be worth a collective.
        "head_dim": None,
        "key": None,
        "value": None,
        "gate": None,
        "state": None,
        "rank": None,
        "conv": None,
        "position": None,
        "layers": None,  # the scan walks over it
        # A vector along the stream is a few kilobytes and is needed whole wherever the stream is.
        ("gain", "embed"): None,
        ("bias", "embed"): None,
        ("decay", "embed"): None,
        ("buffer", "embed"): None,
        ("const", "embed"): None,
    }
)


def spec(names: str, shape: tuple[int, ...], mesh: Mapping[str, int], rules: Mapping) -> PartitionSpec:
    """The spec of an array of activations.

    names: one axis name a dimension, "batch time embed". mesh: mesh axis -> size. Raises ValueError, with the
    names, where they do not fit the shape, have no row, or a size does not divide over its mesh axes.

    >>> tuple(spec("batch time ff", (8, 16, 32), dict(fsdp=4, tensor=2), RULES))
    ('fsdp', None, 'tensor')
    """
    axes = tuple(names.split())
    if len(axes) != len(shape):
        raise ValueError(f"{names!r} names {len(axes)} axes, the array has shape {tuple(shape)}")
    # An array of activations is declared like a parameter, so that one function reads the table.
    array = param.Param("state", copies=tuple(zip(axes, shape, strict=True)), extra_axes=axes)
    return param.specs({f"{names!r} {tuple(shape)}": array}, _plain(rules), mesh).popitem()[1]


def _plain(rules: Mapping) -> dict[Any, Any]:
    """The rows for axes alone: a row for a kind says how parameters of that kind are stored."""
    return {row: value for row, value in rules.items() if isinstance(row, str)}


def ways(axis: str, mesh: Mapping[str, int] | AnyMesh, rules: Mapping = RULES) -> int:
    """Into how many parts the rules cut this axis on the mesh.

    >>> ways("batch", dict(data=2, fsdp=4, tensor=8))
    8
    """
    axes = rules.get(axis) or ()
    there = mesh if isinstance(mesh, Mapping) else sizes(mesh)
    return math.prod(there.get(name, 1) for name in ((axes,) if isinstance(axes, str) else axes))
