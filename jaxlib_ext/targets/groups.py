"""Which devices a collective joins: the three ways in which compiled programs print replica groups.

{{0,1},{2,3}}                          lists
[2,4]<=[4,2]T(1,0)                     the numbers 0.. in shape [4,2], transposed, cut into 2 groups of 4
mesh['a'=4,'b'=2] {'b'}                along axes of a mesh; 'a':(2)2 is the part of 'a' after its first factor 2
"""

import re

import numpy as np

_LISTS = re.compile(r"\{([\d,\s]*)\}")
_IOTA = re.compile(r"\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[([^\]]*)\](?:, ?device_ids=\((.*)\))?\s*\{([^}]*)\}")
_AXIS = re.compile(r"'?([\w.\-]+)'?=(\d+)")
_PART = re.compile(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?")


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n.strip()]


def groups(text: str, devices: int) -> np.ndarray:
    """int [groups, members] of an attribute replica_groups; an empty list is one group of all devices.

    >>> groups("{{0,1},{2,3}}", 4).tolist(), groups("{}", 2).tolist()
    ([[0, 1], [2, 3]], [[0, 1]])
    >>> groups("[2,4]<=[4,2]T(1,0)", 8).tolist()
    [[0, 2, 4, 6], [1, 3, 5, 7]]
    >>> groups("mesh['a'=4,'b'=2] {'b'}", 8).tolist()
    [[0, 1], [2, 3], [4, 5], [6, 7]]
    >>> groups("mesh['a'=4,'b'=2] {'a':(2)2}", 8).tolist()
    [[0, 2], [1, 3], [4, 6], [5, 7]]

    Raises ValueError for anything else, and for groups of different sizes.
    """
    text = text.strip()
    iota, mesh = _IOTA.fullmatch(text), _MESH.fullmatch(text)
    if iota:
        n, size = int(iota[1]), int(iota[2])
        return _iota(iota[3], iota[4]).reshape(n, size)
    if mesh:
        return _along(mesh[1], mesh[2], mesh[3])
    if text == "{}":
        return np.arange(devices)[None]
    lists = [_numbers(part) for part in _LISTS.findall(text)]
    if not text.startswith("{") or not lists or len({len(part) for part in lists}) != 1:
        raise ValueError(f"cannot read the replica groups {text[:120]!r}")
    return np.array(lists)


def _iota(dims: str, order: str | None) -> np.ndarray:
    shape = _numbers(dims)
    ids = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    return ids.transpose(_numbers(order)) if order else ids


def _along(axes: str, ids: str | None, chosen: str) -> np.ndarray:
    sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
    devices = _assignment(ids, sizes)
    dims, picked, names = [], [], list(sizes)
    parts: dict[str, list[tuple[int, int]]] = {}
    for name, before, size in _PART.findall(chosen):
        parts.setdefault(name, []).append((int(before or 1), int(size or sizes[name])))
    for name in names:  # every axis is cut at the borders of the parts that are chosen
        cuts = sorted({1, sizes[name], *(c for b, s in parts.get(name, ()) for c in (b, b * s))})
        for low, high in zip(cuts, cuts[1:], strict=False) if len(cuts) > 1 else [(1, 1)]:
            dims.append(high // low)
            if any(b <= low and high <= b * s for b, s in parts.get(name, ())):
                picked.append(len(dims) - 1)
    rest = [i for i in range(len(dims)) if i not in picked]
    members = int(np.prod([dims[i] for i in picked], dtype=int))
    return devices.reshape(dims).transpose(*rest, *picked).reshape(-1, members)


def _assignment(ids: str | None, sizes: dict[str, int]) -> np.ndarray:
    shape = list(sizes.values())
    if not ids:
        return np.arange(np.prod(shape, dtype=int)).reshape(shape)
    found = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", ids.strip())
    return (_iota(found[1], found[2]) if found else np.array(_numbers(ids))).reshape(shape)


def axes(members: np.ndarray, coordinates: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
    """Mesh axes along which the members of groups differ. members [groups, members], coordinates [devices, axes]."""
    at = coordinates[members]  # [groups, members, axes]
    moves = (at != at[:, :1]).any((0, 1))
    return tuple(name for name, moved in zip(names, moves, strict=True) if moved)
