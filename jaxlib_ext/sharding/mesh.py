"""Device meshes by name: `fsdp=4,tensor=2`, and over a slow network `dcn.data=2,fsdp=16,tensor=8`.

Axes are written outermost first; the axis that communicates most stands last, where its neighbours are
closest. Every axis is Auto (the compiler places the collectives), whereas `jax.make_mesh` makes Explicit ones
by default.

>>> parse_mesh("fsdp=4,tensor=2")
{'fsdp': 4, 'tensor': 2}
>>> layout("dcn.data=2,data=4,tensor=-1", 16)
({'data': 2}, {'data': 4, 'tensor': 2})
"""

import collections
import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

log = logging.getLogger(__name__)

MESH_AXES = {
    "data": "copies of the parameters, each with its part of the batch",
    "fsdp": "parts of the parameters, gathered when used; also parts of the batch",
    "tensor": "parts of heads, hidden widths and the vocabulary",
    "expert": "parts of the experts",
    "sequence": "parts of the time axis",
    "stage": "parts of the depth",
}
AnyMesh = Mesh | AbstractMesh
SLOW = "dcn."  # data-centre network: between slices of a pod or nodes of a cluster


def known(name: str) -> str:
    """The name, if it is a mesh axis; raises with near matches if not."""
    if name in MESH_AXES:
        return name
    near = difflib.get_close_matches(name, MESH_AXES, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(MESH_AXES)}"
    raise ValueError(f"unknown mesh axis {name!r}; {hint}")


def parse_mesh(text: str) -> dict[str, int]:
    """{"dcn.data": 2, "fsdp": 16} from "dcn.data=2,fsdp=16", in the order written.

    An empty text is data=-1: all devices hold copies. One size may be -1, whatever is left. Raises ValueError
    for bad syntax, an unknown axis, a size below 1 and an axis named twice.
    """
    axes = {}
    for part in (text.strip() or "data=-1").split(","):
        name, equals, number = (s.strip() for s in part.partition("="))
        if not equals or not number.removeprefix("-").isdigit():
            raise ValueError(f"cannot read {part.strip()!r} in mesh {text!r}: write axis=size, for instance fsdp=4")
        known(name.removeprefix(SLOW))
        if name in axes:
            raise ValueError(f"mesh {text!r} names the axis {name!r} twice")
        axes[name] = int(number)
    return _checked(axes)


def _checked(axes: Mapping[str, int]) -> dict[str, int]:
    for name, size in axes.items():
        known(name.removeprefix(SLOW))
        if size != -1 and size < 1:
            raise ValueError(f"mesh axis {name}={size} needs a size of at least 1, or -1 for whatever is left")
    free = [name for name, size in axes.items() if size == -1]
    if len(free) > 1:
        raise ValueError(f"only one mesh axis can be -1, not {' and '.join(free)}")
    return dict(axes)


def write_mesh(axes: Mapping[str, int]) -> str:
    """The inverse of `parse_mesh`."""
    return ",".join(f"{name}={size}" for name, size in axes.items())


def sizes(mesh: AnyMesh) -> dict[str, int]:
    """Mesh axis -> size."""
    return {str(name): int(size) for name, size in mesh.shape.items()}


def layout(spec: str | Mapping[str, int], devices: int) -> tuple[dict[str, int], dict[str, int]]:
    """(axes over the slow network, axes within a slice) for so many devices, -1 filled in.

    Raises ValueError with both numbers where the mesh does not fit.
    """
    axes = parse_mesh(spec) if isinstance(spec, str) else _checked(spec)
    fixed = math.prod(size for size in axes.values() if size != -1)
    free = [name for name, size in axes.items() if size == -1]
    if free and devices % fixed:
        raise ValueError(f"mesh {write_mesh(axes)} needs a multiple of {fixed} devices, {devices} are here")
    if not free and devices != fixed:
        raise ValueError(f"mesh {write_mesh(axes)} needs {fixed} devices, {devices} are here")
    axes.update({name: devices // fixed for name in free})
    slow = {name.removeprefix(SLOW): size for name, size in axes.items() if name.startswith(SLOW)}
    return slow, {name: size for name, size in axes.items() if not name.startswith(SLOW)}


def make_mesh(spec: str | Mapping[str, int] = "", devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of this name over `devices` (default: all of the run).

    An axis named with and without `dcn.` is one axis whose outer part crosses the slow network. Raises
    ValueError, one line, for what `parse_mesh` and `layout` refuse and where the slices do not match.

    >>> make_mesh("fsdp=1,tensor=1", jax.devices()[:1]).axis_names
    ('fsdp', 'tensor')
    """
    devices = jax.devices() if devices is None else list(devices)
    slow, fast = layout(spec, len(devices))
    names = tuple(dict.fromkeys((*slow, *fast)))
    shape, outer = (tuple(axes.get(name, 1) for name in names) for axes in (fast, slow))
    return Mesh(arrange(shape, outer, devices), names, axis_types=(AxisType.Auto,) * len(names))


def arrange(shape: Sequence[int], outer: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """Devices in an array of shape `outer * shape`, outermost over slices, neighbours close.

    A slice is what shares a `slice_index` (TPU slices, GPU nodes), else a process.
    """
    from jax.experimental import mesh_utils

    slices = collections.Counter(getattr(d, "slice_index", None) for d in devices)
    if math.prod(outer) == 1:
        if len(slices) > 1 and devices[0].platform == "tpu":
            raise ValueError(f"{len(slices)} slices are here; name the axis between them, as in dcn.data={len(slices)}")
        return _split_if_needed(mesh_utils.create_device_mesh, shape, devices=devices)
    by_process = len(slices) == 1
    granules = collections.Counter(d.process_index for d in devices) if by_process else slices
    what = "processes" if by_process else "slices"
    if len(granules) != math.prod(outer):
        raise ValueError(f"the dcn axes ask for {math.prod(outer)} slices, {len(granules)} {what} are here")
    if len(set(granules.values())) > 1:
        raise ValueError(f"the dcn axes need {what} of one size, not {sorted(granules.values())} devices")
    return _split_if_needed(
        mesh_utils.create_hybrid_device_mesh, shape, outer, devices=devices, process_is_granule=by_process
    )


def _split_if_needed(make, *shapes, **fields) -> np.ndarray:
    try:
        return make(*shapes, **fields)
    except NotImplementedError as error:  # no assignment of whole torus axes to mesh axes
        log.warning("the mesh splits an axis of the TPU torus, neighbours may be two hops apart (%s)", error)
        return make(*shapes, **fields, allow_split_physical_axes=True)
