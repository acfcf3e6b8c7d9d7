"""Compiles a function for a target and reads the report from the compiled program. Nothing is allocated or run."""

import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .collectives import collectives
from .errors import MissingPackage, OutOfMemory
from .flops import matmul_flops
from .hlo import Module, parse
from .loops import Runs, runs
from .report import Leaf, Memory, Report, Traffic, leaf
from .roofline import Roofline, collective_seconds
from .topology import INSTALL, Target, coordinates, target
from .traffic import memory_bytes

# Matrix products that overlap with their own gathers are loops of permutes in the program; with this option they stay
# gathers and scatters, which can be counted.
COUNTABLE = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
SMALL = 4096  # bytes of a collective that is latency and no traffic: scalars, norm gains
_USED = (  # how libtpu says it: for the whole program, or for its temporaries alone
    re.compile(r"Used ([\d.]+[KMGT]?)i?B? of ([\d.]+[KMGT]?)i?B? hbm", re.IGNORECASE),
    re.compile(r"required for [^(]*\(([\d.]+[KMGT]?)i?B?\) exceeds available HBM \(([\d.]+[KMGT]?)i?B?\)"),
)
_NO_TOOLKIT = ("libdevice", "ptxas", "nvlink", "cudart", "nvvm")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ALIAS = re.compile(r"\((\d+), \{[\d, ]*\}, (?:may|must)-alias\)")


def compile(fn: Any, *args: Any, target: Target | str, mesh: jax.sharding.Mesh | None = None,
            model_flops: float | None = None, options: Mapping[str, Any] | None = None) -> Report:  # fmt: skip
    """Compiles fn(*args) for devices that are not here, and says what it costs.

    fn: a jitted function, or one that can be. args: trees of `jax.ShapeDtypeStruct` with shardings on a mesh of the
    target (`Target.mesh`), such as `param.abstract(decl, shardings)` or a training step's `abstract`. mesh: theirs
    unless given; constraints inside fn see it. model_flops: of the whole call on all devices, for the MFU. options:
    the compiler's, each a flag without its dashes; `COUNTABLE` is for laws of collective counts on a TPU.

    Raises OutOfMemory with both figures where it does not fit, MissingPackage, and ValueError for arguments that lie
    on other devices and for options that the compiler does not know.
    """
    t = _target(target)
    mesh = mesh or _mesh(args)
    if mesh is None or mesh.size != t.size or mesh.devices.flat[0].platform != t.devices[0].platform:
        raise ValueError(f"the arguments need shardings on a mesh of {t.name}, made by target({t.name!r}).mesh(...)")
    jitted = fn if hasattr(fn, "lower") else jax.jit(fn)
    begin = time.perf_counter()
    try:
        with jax.set_mesh(mesh):
            compiled = jitted.lower(*args).compile(compiler_options=dict(options or {}))
    except jax.errors.JaxRuntimeError as error:
        raise _explained(t, error) from None
    seconds = time.perf_counter() - begin
    return read(t, mesh, compiled, args, seconds=seconds, model_flops=model_flops, options=dict(options or {}))


def read(t: Target, mesh: jax.sharding.Mesh, compiled: Any, args: tuple, *, seconds: float = 0.0,
         model_flops: float | None = None, options: dict[str, Any] | None = None) -> Report:  # fmt: skip
    """The report of a program that is compiled already. Raises OutOfMemory as `compile` does."""
    text = compiled.as_text()
    module = parse(text)
    times = runs(module)
    memory = _memory(t, compiled)
    if memory.needed > memory.capacity:
        raise OutOfMemory(t.name, memory.needed, memory.capacity)
    units = np.array([t.place(d).unit for d in mesh.devices.flat])
    sent = collectives(module, times, coordinates(mesh), tuple(map(str, mesh.axis_names)), units)
    traffic = _traffic(t, mesh, sent)
    flops, hidden = matmul_flops(module, times)
    moved = memory_bytes(module, times)
    roofline = Roofline(
        sum(flops.values()) / t.chip.peak, moved / t.chip.bandwidth, sum(c.seconds for c in traffic)
    )  # fmt: skip
    mfu = None if model_flops is None else model_flops / (t.size * t.chip.peak * max(roofline.floor, 1e-30))
    return Report(
        target=t.name, compiler=t.compiler, devices=t.size, mesh={str(k): int(v) for k, v in mesh.shape.items()},
        options=options or {}, memory=memory, arguments=_leaves(compiled, args, module), collectives=traffic,
        model_flops=model_flops, hardware_flops=flops, memory_bytes=moved, roofline=roofline, mfu=mfu,
        compiler_seconds=_estimate(compiled, times), compiler_cycles=_cycles(module, times), compile_seconds=seconds,
        notes=(*_notes(times, hidden, flops), *_whole_gradients(t, traffic)),
        text=text,
    )  # fmt: skip


def _target(t: Target | str) -> Target:
    return target(t) if isinstance(t, str) else t


def _mesh(args: Any) -> jax.sharding.Mesh | None:
    for value in jax.tree.leaves(args):
        mesh = getattr(getattr(value, "sharding", None), "mesh", None)
        if isinstance(mesh, jax.sharding.Mesh):
            return mesh
    return None


def _explained(t: Target, error: Exception) -> Exception:
    """What the compiler says, as one of this package's errors."""
    said = str(error)
    if "RESOURCE_EXHAUSTED" in said or "Ran out of memory" in said:
        used = next(filter(None, (form.search(said) for form in _USED)), None)
        needed, available = (_bytes(used[1]), _bytes(used[2])) if used else (0, t.chip.memory)
        return OutOfMemory(t.name, needed, available, said)
    line = next((line.strip() for line in said.splitlines() if line.strip()), "")
    if t.chip.platform == "cuda" and any(part in said for part in _NO_TOOLKIT):
        return MissingPackage(f"target {t.name!r}: the CUDA compiler lacks a part ({line[:160]}): {INSTALL}")
    if "No such compile option" in said:
        return ValueError(f"target {t.name!r}: {line[:300]}")
    return error


def _bytes(text: str) -> int:
    unit = text[-1] if text[-1] in "KMGT" else " "
    return round(float(text.rstrip("KMGT")) * 1024 ** " KMGT".index(unit))


def _memory(t: Target, compiled: Any) -> Memory:
    m = compiled.memory_analysis()
    host = m.host_argument_size_in_bytes + m.host_temp_size_in_bytes + m.host_output_size_in_bytes
    return Memory(
        m.argument_size_in_bytes, m.output_size_in_bytes, m.alias_size_in_bytes, m.temp_size_in_bytes,
        m.generated_code_size_in_bytes, getattr(m, "peak_memory_in_bytes", 0) or None, t.chip.memory,
        host - m.host_alias_size_in_bytes,
    )  # fmt: skip


def _traffic(t: Target, mesh: jax.sharding.Mesh, found: Any) -> tuple[Traffic, ...]:
    rows: dict[tuple, list] = {}
    for one in found:
        if one.group > 1:
            rows.setdefault((one.kind, one.axes, one.group, one.nbytes < SMALL), []).append(one)
    return tuple(
        Traffic(
            kind, axes, group, small, sum(c.times for c in these), sum(c.times * c.nbytes for c in these),
            sum(c.received for c in these), sum(c.times * collective_seconds(t, mesh, c) for c in these),
        )
        for (kind, axes, group, small), these in sorted(rows.items(), key=lambda row: row[0])
    )  # fmt: skip


def _leaves(compiled: Any, args: tuple, module: Module) -> tuple[Leaf, ...]:
    paths = jax.tree.leaves_with_path(args)
    where = jax.tree.structure(args).flatten_up_to(compiled.input_shardings[0])  # None for what is no parameter
    name = lambda keys: jax.tree_util.keystr(keys, simple=True, separator="/")
    aliased = _aliased(module, [jax.tree_util.keystr(path[1:]) for path, _ in paths])
    return tuple(
        leaf(name(path), value, sharding or value.sharding, i in aliased)
        for i, ((path, value), sharding) in enumerate(zip(paths, where, strict=True))
    )


def _aliased(module: Module, names: list[str]) -> set[int]:
    """Numbers of the arguments whose memory becomes a result's.

    names: of the arguments as jax writes them, without that of the function's parameter. What is not used, or comes out
    as it went in, is no parameter of the program; the others stand in their order and have their names.
    """
    numbers = {int(n) for n in _ALIAS.findall(module.header.partition("entry_computation_layout")[0])}
    entry = module.computations[module.entry]
    if len(entry.parameters) == len(names):
        return numbers
    found, at = set(), 0
    for number, parameter in sorted(entry.parameters.items()):
        while at < len(names) and not entry.instructions[parameter].op_name.replace("\\'", "'").endswith(names[at]):
            at += 1
        if at == len(names):
            raise ValueError("the arguments of the program cannot be told apart; jit with keep_unused=True")
        found |= {at} if number in numbers else set()
        at += 1
    return found


def _estimate(compiled: Any, times: Runs) -> float | None:
    """The compiler's own seconds, where it has them for everything: it adds -1 for what it cannot estimate, and counts
    the body of a loop once."""
    cost = compiled.cost_analysis() or {}
    seconds = cost.get("optimal_seconds", 0.0)
    looped = any(n > 1 for n in times.times.values())
    return seconds if seconds > 0 and not looped else None


def _cycles(module: Module, times: Runs) -> float | None:
    """What libtpu writes at its kernels, loops counted as often as they run; None where it writes nothing."""
    found = [
        times.times[name] * int(said[1])
        for name in times.own
        for instruction in module.computations[name]
        if (said := _CYCLES.search(instruction.rest))
    ]
    return sum(found) if found else None


def _whole_gradients(t: Target, traffic: tuple[Traffic, ...]) -> tuple[str, ...]:
    """Parameters are gathered twice and their gradients should be scattered; where they are all-reduced instead, the
    bytes are about half of the gathered ones."""
    notes = []
    gathered = {c.axes: c.nbytes for c in traffic if c.kind == "all-gather"}
    for c in traffic:
        like_gradients = 0.2 < c.nbytes / gathered.get(c.axes, float("inf")) < 1.0 and c.nbytes > 2**20
        if c.kind == "all-reduce" and like_gradients and t.chip.dims:
            notes.append(
                f"{c.nbytes / 2**30:.2f} GiB are all-reduced over {','.join(c.axes)} where a reduce-scatter would move "
                "half: libtpu scatters along one side of a slice, or over slices with unequal sides; try copies on "
                f"another axis, data={t.shape[0]},fsdp={t.size // t.units // t.shape[0]}"
            )
    return tuple(notes)


def _notes(times: Runs, hidden: tuple[str, ...], flops: dict[str, float]) -> tuple[str, ...]:
    notes = []
    if times.unknown:
        notes.append(f"{len(times.unknown)} loops have no trip count that can be read; their bodies are counted once")
    if hidden:
        notes.append(f"the operations of these kernels are not counted: {', '.join(hidden)}")
    wide = flops.get("f32", 0.0) / max(sum(flops.values()), 1.0)
    if wide > 0.01:
        notes.append(f"{100 * wide:.0f}% of the FLOPs take float32 operands; the compute time is that of bfloat16")
    return tuple(notes)
