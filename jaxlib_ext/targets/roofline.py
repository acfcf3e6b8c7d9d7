"""The least time that a step can take: by its arithmetic, by its memory traffic, by its collectives.

Interconnect: every collective runs at the full speed of the links between its own members, with an algorithm that moves
the fewest bytes; latency, contention between collectives and failed overlap are left out. So each time is a floor, and
what a step takes is at least the largest of the three.

    into a chip     links that lead to it from members of its group: 2 along a torus axis that the group fills and that
                    is closed to a ring, else 1 (the end of a line), halved where two groups interleave
    into a slice    what its members bring over the data-centre network, likewise into a node
    bytes           all-gather and reduce-scatter (n-m)/n of the whole array into a unit with m of the n members;
                    all-reduce twice that; all-to-all m (n-m)/n, and half of all bytes through the middle of a torus;
                    a permute its array over one link
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from .chips import Chip
from .collectives import Collective
from .topology import Place, Target

_SAMPLE = 64  # groups of one collective that are looked at: they are translates of each other


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step on one device, at least. floor is the largest, bound names it."""

    compute: float
    memory: float | None
    interconnect: float

    @property
    def floor(self) -> float:
        return max(self.compute, self.memory or 0.0, self.interconnect)

    @property
    def bound(self) -> str:
        times = dict(compute=self.compute, memory=self.memory or 0.0, interconnect=self.interconnect)
        return max(times, key=times.__getitem__)


def collective_seconds(target: Target, mesh: jax.sharding.Mesh, one: Collective) -> float:
    """Of one collective, once, in the slowest of its groups."""
    places = [target.place(d) for d in mesh.devices.flat]
    rows = one.members[np.linspace(0, len(one.members) - 1, min(_SAMPLE, len(one.members))).astype(int)]
    return max(group_seconds(target, one.kind, one.nbytes, [places[i] for i in row]) for row in rows)


def group_seconds(target: Target, kind: str, nbytes: float, group: Sequence[Place]) -> float:
    """nbytes: of the whole array, as in `Collective`."""
    chip = target.chip
    if kind == "collective-permute":
        across = len({p.unit for p in group}) > 1
        return nbytes / (chip.network if across else chip.link)
    units, chips = _shares(p.unit for p in group), _shares((p.unit, p.chip) for p in group)
    seconds = 0.0
    if len(units) > 1:
        smallest = min(units.values())
        seconds = _into(kind, nbytes, len(group), smallest) / (chip.network * smallest / chip.cores)
    inside = [p for p in group if p.unit == group[0].unit]
    if len({p.chip for p in inside}) > 1:
        held = min(chips.values())
        speed = _ingress(target, [p.chip for p in inside]) * held / chip.cores
        seconds = max(seconds, _into(kind, nbytes, len(group), held) / speed)
        if kind in ("all-to-all", "ragged-all-to-all") and chip.dims:
            seconds = max(seconds, _through_the_middle(target, nbytes, inside))
    return seconds


def _shares(keys) -> dict:
    found: dict = {}
    for key in keys:
        found[key] = found.get(key, 0) + 1
    return found


def _into(kind: str, nbytes: float, n: int, m: int) -> float:
    """Bytes that enter a unit with m of the n members."""
    share = nbytes * (n - m) / n
    return {"all-reduce": 2 * share, "all-to-all": m * share, "ragged-all-to-all": m * share}.get(kind, share)


def _ingress(target: Target, chips: list[tuple[int, ...]]) -> float:
    """Bytes/s into the worst placed chip of a group from its neighbours in the group."""
    chip = target.chip
    if not chip.dims:
        return chip.link
    return sum(_links(chip, target.shape[d], {c[d] for c in chips}) for d in range(chip.dims)) * chip.link


def _links(chip: Chip, length: int, values: set[int]) -> float:
    """Links along one torus axis that a group with these coordinates has to itself."""
    if len(values) < 2:
        return 0.0
    at = sorted(values)
    stride = min(b - a for a, b in zip(at, at[1:], strict=False))
    closed = length % chip.ring == 0 and len(at) * stride == length
    return (2 if closed and length > 2 else 1) / stride


def _through_the_middle(target: Target, nbytes: float, inside: list[Place]) -> float:
    """All-to-all: half of what half of the members hold crosses the cut through the longest axis of their box."""
    chips = sorted({p.chip for p in inside})
    sides = [len({c[d] for c in chips}) for d in range(target.chip.dims)]
    longest = int(np.argmax(sides))
    ring = _links(target.chip, target.shape[longest], {c[longest] for c in chips})
    cut = math.prod(sides) / sides[longest] * ring * target.chip.link / target.chip.cores
    return len(inside) / 2 * nbytes / 2 / cut
