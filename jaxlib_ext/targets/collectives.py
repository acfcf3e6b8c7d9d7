"""What a compiled program sends between devices: every collective, once, with how often it runs.

Between TPU slices libtpu writes no collective but a transfer to the host, which names what it stands for; it joins the
devices that stand at the same place of each slice.
"""

import dataclasses
import re

import numpy as np

from .groups import axes, groups
from .hlo import Computation, Instruction, Module
from .loops import Runs
from .shapes import arrays

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
_CHAIN = re.compile(r'chain_id="?(\d+)')
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_MESH = re.compile(r"replica_groups=(mesh\[[^\]]*\](?:, ?device_ids=\(.*?\)(?= \{))?\s*\{[^}]*\})")


@dataclasses.dataclass(frozen=True)
class Collective:
    """kind: one of KINDS. axes: of the mesh, along which its groups lie. members: int [groups, members], numbers of
    devices in the mesh. times: in one step. nbytes: of the whole array on one device, gathered, or before it is
    scattered. dtype: of its largest array. source: where in the program it comes from.
    """

    kind: str
    axes: tuple[str, ...]
    members: np.ndarray
    times: float
    nbytes: int
    dtype: str
    source: str

    @property
    def group(self) -> int:
        return self.members.shape[1]

    @property
    def received(self) -> float:
        """Bytes that a device receives in a step, at least."""
        n = self.group
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(self.kind, (n - 1) / n)
        return self.times * self.nbytes * share


def collectives(module: Module, runs: Runs, coordinates: np.ndarray, names: tuple[str, ...],
                units: np.ndarray | None = None) -> tuple[Collective, ...]:  # fmt: skip
    """coordinates [devices, mesh axes] and names of the mesh that the program was compiled for. units [devices]: the
    slice or node of each device."""
    found: dict[tuple, tuple[Instruction, Computation, str, float]] = {}
    for name, times in runs.times.items():
        computation = module.computations[name]
        for instruction in computation:
            kind = _kind(name, instruction)
            if kind is None:
                continue
            found.setdefault(_identity(computation, instruction), (instruction, computation, kind, times))
    return tuple(_collective(*what, coordinates, names, units) for what in found.values())


def _kind(computation: str, instruction: Instruction) -> str | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind == "send" and (between := _BETWEEN_SLICES.search(instruction.rest)):
        said = between[1].lower().replace("_", "-")
        return {"one-to-one": "collective-permute"}.get(said, said)
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    return kind if kind in KINDS else None


def _identity(computation: Computation, instruction: Instruction) -> tuple:
    """An asynchronous collective that overlaps with kernels stands in each of them, in its start and in its end: these
    copies share a chain. A channel alone does not tell: collectives written by hand may share one."""
    chain = _CHAIN.search(instruction.rest)
    if chain:
        return "chain", instruction.attribute("channel_id"), chain[1]
    if any("AsyncCollective" in i.rest for i in computation if i.opcode == "custom-call"):
        return "channel", instruction.attribute("channel_id")
    return computation.name, instruction.name


def _collective(instruction: Instruction, computation: Computation, kind: str, times: float, at, names, units):
    if instruction.opcode == "send":
        members = np.stack([np.flatnonzero(units == unit) for unit in np.unique(units)], -1)
    else:
        members = _members(instruction, len(at))
    given = [a for name in instruction.operands for a in arrays(computation.instructions[name].shape)]
    held = sum(a.nbytes for a in given)
    whole = held * members.shape[1] if kind == "all-gather" else held
    largest = max(given, key=lambda a: a.nbytes)
    return Collective(kind, axes(members, at, names), members, times, whole, largest.dtype, instruction.op_name)


def _members(instruction: Instruction, devices: int) -> np.ndarray:
    pairs = instruction.attribute("source_target_pairs")
    text = pairs or instruction.attribute("replica_groups") or "{}"
    mesh = _MESH.search(instruction.rest)  # goes on behind a comma
    return groups(mesh[1] if mesh and text.startswith("mesh") else text, devices)
