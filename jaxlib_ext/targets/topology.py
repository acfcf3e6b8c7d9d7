"""Targets by name: devices that are not here, and what they can do.

target("v5e:16x16")      a TPU slice by its topology; "v5p:8x8x8*4" is four slices over the data-centre network
target("h100x8")         a node of 8 GPUs; "h100x8*32" is 32 of them
"""

import dataclasses
import difflib
import functools
import importlib.metadata
import math
import os
import re
from typing import Any

import jax
import numpy as np

from ..sharding import make_mesh
from .chips import CHIPS, Chip
from .cuda import spec
from .errors import MissingPackage

# libtpu asks the cloud's metadata server who it is, takes a lock file, and warns that it does not know on which machine
# it is, unless told otherwise. The topology that is asked for does not depend on the machine.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
_CUDA_ENVIRONMENT = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
_TPU = re.compile(r"(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?")
_GPU = re.compile(r"([a-z]+\d+)x(\d+)(?:\*(\d+))?")
EXAMPLES = ("v5e:16x16", "v5p:16x16x16", "v6e:16x16", "tpu7x:4x4x4", "h100x8", "h200x8", "h100x8*32")
INSTALL = 'pip install "jaxlib-ext[targets]"'


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a device is. unit: slice or node. chip: coordinates in its torus, or its number in the node."""

    unit: int
    chip: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Target:
    """shape: chips along each axis of one slice's torus, or (GPUs,) of one node. units: slices or nodes."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    units: int = 1

    @property
    def size(self) -> int:
        """Devices, all slices or nodes together."""
        return math.prod(self.shape) * self.chip.cores * self.units

    @functools.cached_property
    def devices(self) -> list[Any]:
        """jax devices that can be compiled for and not run on. Raises ValueError and MissingPackage."""
        devices = _tpu_devices(self) if self.chip.platform == "tpu" else _gpu_devices(self)
        if len(devices) != self.size:
            raise ValueError(f"target {self.name!r}: {self.size} devices expected, the compiler has {len(devices)}")
        return devices

    def mesh(self, axes: str = "") -> jax.sharding.Mesh:
        """The mesh of this name over all devices, as `sharding.make_mesh`; several slices need a dcn. axis."""
        return make_mesh(axes, self.devices)

    def place(self, device: Any) -> Place:
        if self.chip.platform == "tpu":
            return Place(getattr(device, "slice_index", None) or 0, tuple(device.coords))
        return Place(device.id // self.shape[0], (device.id % self.shape[0],))

    @property
    def compiler(self) -> str:
        """Name and version of what compiles for it, "libtpu 0.0.42.1"."""
        package = "libtpu" if self.chip.platform == "tpu" else _cuda_plugin()
        return f"{package} {importlib.metadata.version(package)}"


def target(name: str) -> Target:
    """The target of this name. Nothing is loaded before its devices are asked for.

    >>> t = target("h100x8*32")
    >>> t.size, t.chip.memory, t.units
    (256, 84942979072, 32)
    >>> target("v5e:4x4x4")
    Traceback (most recent call last):
    ValueError: target 'v5e:4x4x4': the torus of v5e has 2 dimensions, as in v5e:16x16

    Raises ValueError, one line, for a name that is not known or has no such form.
    """
    text = name.strip().lower()
    tpu, gpu = _TPU.fullmatch(text), _GPU.fullmatch(text)
    found = tpu or gpu
    kind = found[1] if found else text
    chip = CHIPS.get(kind)
    if found is None or chip is None or chip.platform != ("tpu" if tpu else "cuda"):
        near = difflib.get_close_matches(text, EXAMPLES, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"examples are {', '.join(EXAMPLES)}"
        raise ValueError(f"unknown target {name!r}; {hint}")
    shape = tuple(int(n) for n in found[2].split("x"))
    units = int(found[3] or 1)
    if min(*shape, units, 1) < 1:
        raise ValueError(f"target {name!r}: sizes are at least 1")
    if tpu and len(shape) != chip.dims:
        like = next(e for e in EXAMPLES if e.startswith(kind))
        raise ValueError(f"target {name!r}: the torus of {kind} has {chip.dims} dimensions, as in {like}")
    if gpu and shape[0] > 8:
        raise ValueError(f"target {name!r}: a node has at most 8 GPUs; nodes are written {kind}x8*{shape[0] // 8}")
    return Target(text, chip, shape, units)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tpu_devices(t: Target) -> list[Any]:
    if _version("libtpu") is None:
        raise MissingPackage(f"target {t.name!r} needs libtpu: {INSTALL}, or jax[tpu]; no TPU is needed")
    for key, value in _TPU_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    kind, _, axes = t.name.partition("*")[0].partition(":")
    several = dict(num_slices=t.units) if t.units > 1 else {}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{axes}", **several).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"target {t.name!r}: libtpu has no such topology ({_line(error)})") from None


def _cuda_plugin() -> str:
    return next((p for p in ("jax-cuda13-plugin", "jax-cuda12-plugin") if _version(p)), "")


def _gpu_devices(t: Target) -> list[Any]:
    if not _cuda_plugin():
        raise MissingPackage(f"target {t.name!r} needs the CUDA compiler: {INSTALL}, or jax[cuda13]; no GPU is needed")
    for key, value in _CUDA_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(
            t.chip.name, platform="cuda", target_config=spec(t.chip), topology=f"1x{t.units}x{t.shape[0]}"
        ).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"target {t.name!r}: the CUDA compiler refuses it ({_line(error)})") from None


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def coordinates(mesh: jax.sharding.Mesh) -> np.ndarray:
    """int [devices, mesh axes]: where each device of a compiled program, by its number, stands in the mesh."""
    return np.stack(np.unravel_index(np.arange(mesh.size), mesh.devices.shape), -1)
