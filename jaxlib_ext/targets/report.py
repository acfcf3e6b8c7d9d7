"""What a compiled step needs, sends and takes: plain data, a table, JSON."""

import dataclasses
import json
import math
from typing import Any

import numpy as np

from .roofline import Roofline

GIB, MS = 2**30, 1e-3


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per device, as the compiler states them. temporaries: what it sets aside. peak: of what is alive at once,
    arguments included; None where it states none. capacity: the maker's figure. host: bytes in the host's memory."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    peak: int | None
    capacity: int
    host: int = 0

    @property
    def needed(self) -> int:
        """All that is set aside; at least the peak."""
        return max(self.arguments + self.outputs - self.aliased + self.temporaries, self.peak or 0)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An argument. path: "0/params/unit/..." with the argument's number first. spec: mesh axes of each dimension, ""
    where replicated. nbytes: per device, from the compiled program's own sharding. donated: its memory is given to a
    result, by the compiled program."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: str
    nbytes: int
    donated: bool


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind along the same mesh axes, in a step. small: those of less than 4 KiB, which the compiler
    leaves in a loop or takes out of it as it likes. nbytes: of whole arrays, on a device. received: by a device, at
    least. seconds: at least."""

    kind: str
    axes: tuple[str, ...]
    group: int
    small: bool
    times: float
    nbytes: float
    received: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Made by `compile`. model_flops: of the whole step, as the caller counts them. hardware_flops: of one device, by
    operand type, recomputation included. memory_bytes: to and from a device's memory. compiler_seconds and
    compiler_cycles: the compiler's own estimate of the step, and of its kernels without collectives, None where it has
    none. notes: what the figures leave out."""

    target: str
    compiler: str
    devices: int
    mesh: dict[str, int]
    options: dict[str, Any]
    memory: Memory
    arguments: tuple[Leaf, ...]
    collectives: tuple[Traffic, ...]
    model_flops: float | None
    hardware_flops: dict[str, float]
    memory_bytes: float
    roofline: Roofline
    mfu: float | None
    compiler_seconds: float | None
    compiler_cycles: float | None
    compile_seconds: float
    notes: tuple[str, ...] = ()
    text: str = dataclasses.field(default="", repr=False)

    def count(self, kind: str, *axes: str) -> float:
        """How often collectives of this kind run in a step; with axes, only those along exactly these. Small ones are
        counted too."""
        return sum(c.times for c in self._of(kind, axes))

    def nbytes(self, kind: str, *axes: str) -> float:
        """Bytes of the whole arrays of these collectives on one device in a step."""
        return sum(c.nbytes for c in self._of(kind, axes))

    def _of(self, kind: str, axes: tuple[str, ...]) -> list[Traffic]:
        return [c for c in self.collectives if c.kind == kind and axes in ((), c.axes)]

    @property
    def counts(self) -> dict[str, float]:
        """Kind -> how often in a step, small ones left out, for these follow no law."""
        found: dict[str, float] = {}
        for c in self.collectives:
            if c.small:
                continue
            found[c.kind] = found.get(c.kind, 0) + c.times
        return found

    def argument_bytes(self, prefix: str = "") -> int:
        """Bytes per device of the arguments whose path begins so, "0/" for all of the first."""
        return sum(a.nbytes for a in self.arguments if a.path.startswith(prefix))

    def to_json(self) -> str:
        """Everything but the program's text."""
        data = dataclasses.asdict(self)
        del data["text"]
        data["roofline"] |= dict(floor=self.roofline.floor, bound=self.roofline.bound)
        data["memory"] |= dict(needed=self.memory.needed)
        return json.dumps(data, indent=1) + "\n"

    def __str__(self) -> str:
        return table(self)


def table(r: Report) -> str:
    """The report for people."""
    mesh = ",".join(f"{k}={v}" for k, v in r.mesh.items())
    lines = [f"{r.target}: {r.devices} devices, mesh {mesh}, {r.compiler}, compiled in {r.compile_seconds:.1f} s"]
    return "\n".join([*lines, *_memory(r), *_collectives(r), *_times(r), *(f"note: {n}" for n in r.notes)])


def _memory(r: Report) -> list[str]:
    m, gib = r.memory, lambda n: f"{n / GIB:8.3f}"
    rows = [("arguments", m.arguments), ("results beside donated", m.outputs - m.aliased)]
    rows += [("temporaries", m.temporaries), *([("host memory", m.host)] if m.host else [])]
    rows += [("peak of what is alive", m.peak)] if m.peak is not None else []
    last = f"  {'needed':<24}{gib(m.needed)} of {m.capacity / GIB:.2f} ({100 * m.needed / m.capacity:.0f}%)"
    return ["memory per device, GiB", *(f"  {name:<24}{gib(n)}" for name, n in rows), last]


def _collectives(r: Report) -> list[str]:
    if not r.collectives:
        return ["collectives: none"]
    head = f"{'collectives per step':<29}{'axes':<16}{'group':>6}{'times':>8}{'GiB received':>14}{'ms at least':>13}"
    row = lambda c: (
        f"  {c.kind + (' < 4 KiB' if c.small else ''):<27}{','.join(c.axes) or '-':<16}{c.group:>6}{c.times:>8g}"
        f"{c.received / GIB:>14.3f}{c.seconds / MS:>13.2f}"
    )
    rows = [row(c) for c in r.collectives]
    return [head, *rows]


def _times(r: Report) -> list[str]:
    t, hardware = r.roofline, sum(r.hardware_flops.values())
    kinds = ", ".join(f"{100 * f / hardware:.0f}% {d}" for d, f in sorted(r.hardware_flops.items())) if hardware else ""
    lines = ["time per step, ms at least (caches left out)"]
    lines.append(f"  {'compute':<14}{t.compute / MS:>10.2f}   {hardware:.3g} FLOPs a device ({kinds})")
    if t.memory is not None:
        lines.append(f"  {'memory':<14}{t.memory / MS:>10.2f}   {r.memory_bytes / GIB:.2f} GiB a device")
    received = sum(c.received for c in r.collectives)
    lines.append(f"  {'interconnect':<14}{t.interconnect / MS:>10.2f}   {received / GIB:.2f} GiB received by a device")
    said = [f"{r.compiler_seconds / MS:.2f} ms"] if r.compiler_seconds is not None else []
    said += [f"{r.compiler_cycles:.3g} cycles in kernels"] if r.compiler_cycles is not None else []
    lines.append(f"  bound by {t.bound}; the compiler's own estimate: {', '.join(said) or 'none'}")
    if r.mfu is not None and r.model_flops:
        again = hardware * r.devices / r.model_flops
        lines.append(f"  MFU at most {100 * r.mfu:.1f}%; {again:.2f} x the model's {r.model_flops:.3g} FLOPs are done")
    return lines


def leaf(path: str, value: Any, sharding: Any, donated: bool) -> Leaf:
    """An argument as the compiled program takes it."""
    nbytes = math.prod(sharding.shard_shape(value.shape)) * np.dtype(value.dtype).itemsize
    return Leaf(path, tuple(value.shape), str(value.dtype), spec_text(getattr(sharding, "spec", ())), nbytes, donated)


def spec_text(spec: Any) -> str:
    """A PartitionSpec as text, one word a dimension up to the last that is split.

    >>> spec_text((None, ("data", "fsdp"), "tensor")), spec_text(("fsdp", None)), spec_text((None,))
    ('- data*fsdp tensor', 'fsdp', '')
    """
    return " ".join("*".join(e if isinstance(e, tuple) else (e,)) if e else "-" for e in spec).rstrip("- ")
