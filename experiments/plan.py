"""What a training step would need, send and take on a TPU pod or GPU nodes, found on a machine that has none.

    python experiments/plan.py --model 7b --target v5e:16x16 --mesh fsdp=32,tensor=8 --batch 256 --seq 2048
    python experiments/plan.py --model 7b --target h100x8 --mesh fsdp=8 --batch 16
    python experiments/plan.py --model 7b --target v5e:16x16 --batch 256 --search

Compiles the very step that train.py runs, with the maker's own compiler, and prints memory per device, every collective
by mesh axis, and the least time by compute, memory and interconnect. The same as JSON goes to --out. --search tries
meshes, rematerialisation policies and microbatches, and ranks those that fit. Needs the extras experiments and targets.

Exit status: 0 it fits, 1 out of memory or nothing fits, 2 what was asked for cannot be compiled.
"""

import contextlib
import dataclasses
import difflib
import json
import logging
import math
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing runs here: do not look for accelerators

import jax
import jax.numpy as jnp
import tyro

from jaxlib_ext import param, sharding, targets
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.lm import LM
from jaxlib_ext.models.presets import PRESETS
from jaxlib_ext.training import job
from jaxlib_ext.training.config import RunConfig
from jaxlib_ext.training.progress import human_count, human_time

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Plan:
    """A model by the name of a preset, with any of its fields replaced, on a target by name."""

    model: str = "125m"
    """125m, 350m, 1b, 7b, 70b, 7b-hybrid."""
    target: str = "v5e:4x4"
    """v5e:16x16, v5p:16x16x16, v6e:16x16, tpu7x:4x4x4, h100x8, h200x8; several slices or nodes: v5e:16x16*2,
    h100x8*32."""
    mesh: str = ""
    """As for train.py: fsdp=32,tensor=8. Empty: all devices on fsdp, slices and nodes on dcn.data."""
    batch: int = 256
    """Sequences a step, on all devices together."""
    seq: int = 2048
    """Tokens a sequence."""
    width: int | None = None
    depth: int | None = None
    mixer: str | None = None
    channel: str | None = None
    norm: str | None = None
    residual: str | None = None
    position: str | None = None
    dtype: str | None = None
    remat: str | None = None
    """none, full, dots, names, offload; the presets have full."""
    vocab: int | None = None
    optimizer: str = "adamw"
    accumulate: int = 1
    """Microbatches a step."""
    loss_chunk: int | None = None
    """Logits are made for that many tokens at a time."""
    clip: float | None = 1.0
    ema: float | None = None
    option: tuple[str, ...] = ()
    """Compiler options, flag=value each."""
    out: str = "plan.json"
    """JSON file; empty for none."""
    program: str = ""
    """File for the compiled program as text."""
    search: bool = False
    """Tries meshes, rematerialisation policies and microbatches; --mesh, --remat and --accumulate fix theirs."""
    limit: int = 24
    """Compilations of a search."""


def model_of(p: Plan) -> tuple[ModelConfig, int]:
    """The preset with what was replaced. Raises ValueError."""
    if p.model not in PRESETS:
        near = difflib.get_close_matches(p.model, PRESETS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(PRESETS)}"
        raise ValueError(f"unknown model {p.model!r}; {hint}")
    preset = PRESETS[p.model]
    fields = ("width", "depth", "mixer", "channel", "norm", "residual", "position", "dtype", "remat")
    given = {name: getattr(p, name) for name in fields if getattr(p, name) is not None}
    return dataclasses.replace(preset.config, **given), p.vocab or preset.vocab


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a search varies."""

    mesh: str
    remat: str
    accumulate: int

    def __str__(self) -> str:
        return f"{self.mesh} remat={self.remat} accumulate={self.accumulate}"


@dataclasses.dataclass(frozen=True)
class Program:
    """Everything that can be wrong is found when it is made, before anything is compiled."""

    name: str
    target: targets.Target
    mesh: jax.sharding.Mesh
    step: Any
    batch: dict
    flops: float
    state: int  # bytes per device, by the declaration and the optimizer's slots


def prepare(p: Plan, t: targets.Target, choice: Choice) -> Program:
    """Raises ValueError, one line."""
    config, vocab = model_of(p)
    config = dataclasses.replace(config, remat=choice.remat)
    run = RunConfig(
        model=config, batch=p.batch, time=p.seq, optimizer=p.optimizer, accumulate=choice.accumulate,
        loss_chunk=p.loss_chunk, clip=p.clip, ema=p.ema,
    )  # fmt: skip
    run.check()
    model: LM = dataclasses.replace(build(config, vocab), unroll=1)
    mesh = t.mesh(choice.mesh)
    step, _ = job.step_of(run, model, mesh)
    ways = sharding.ways("batch", mesh)
    if (p.batch // choice.accumulate) % ways:
        raise ValueError(f"a microbatch of {p.batch // choice.accumulate} sequences does not divide over {ways} shards")
    tokens = jax.ShapeDtypeStruct((p.batch, p.seq), jnp.int32, sharding=sharding.batch_sharding(mesh))
    flops = 3 * model.cost(p.batch * p.seq, (p.seq + 1) / 2 if model.causal else p.seq).flops
    held = jax.tree.leaves(step.abstract)
    state = sum(v.dtype.itemsize * math.prod(v.sharding.shard_shape(v.shape)) for v in held)
    name = f"{p.model} ({human_count(param.size(step.decl))} parameters)"
    return Program(name, t, mesh, step, dict(tokens=tokens, targets=tokens), flops, state)


def compiled(program: Program, options: dict[str, str]) -> targets.Report:
    return targets.compile(
        program.step.jitted, program.step.abstract, program.batch, target=program.target, mesh=program.mesh,
        model_flops=program.flops, options=options,
    )  # fmt: skip


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says on standard error what is being waited for, and for how long already."""
    begin, ended, terminal = time.monotonic(), threading.Event(), sys.stderr.isatty()

    def tell() -> None:
        while not ended.wait(1 if terminal else 15):
            line = f"{what}: {human_time(time.monotonic() - begin)}"
            print(f"\r{line}\x1b[K" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    print(f"{what} ...", end="" if terminal else "\n", file=sys.stderr, flush=True)
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def default_mesh(t: targets.Target) -> str:
    return f"dcn.data={t.units},fsdp=-1" if t.units > 1 else "fsdp=-1"


def advice(p: Plan, choice: Choice, program: Program) -> str:
    """What would help a step that does not fit."""
    capacity = program.target.chip.memory
    said = [f"parameters and optimizer alone are {program.state / GIB:.2f} GiB per device"]
    if program.state > 0.8 * capacity:
        said.append("more devices, more of them on fsdp or tensor, or an optimizer with fewer slots")
        return "; ".join(said)
    if choice.remat != "full":
        said.append("--remat full")
    ways = sharding.ways("batch", program.mesh)
    if p.batch // (2 * choice.accumulate) >= ways:
        said.append(f"--accumulate {2 * choice.accumulate}")
    if p.loss_chunk is None:
        said.append("--loss-chunk 512")
    said.append("a smaller --batch, more devices, or --search")
    return "; ".join(said)


def single(p: Plan, t: targets.Target, options: dict[str, str]) -> int:
    config, _ = model_of(p)
    choice = Choice(p.mesh or default_mesh(t), config.remat, p.accumulate)
    program = prepare(p, t, choice)
    try:
        with waiting(f"compiling {program.name} for {t.name}, {t.size} devices"):
            report = compiled(program, options)
    except targets.OutOfMemory as error:
        print(f"error: {error}", file=sys.stderr)
        print(f"what would help: {advice(p, choice, program)}", file=sys.stderr)
        return 1
    print(f"{program.name}, {choice}, {p.optimizer}, batch {p.batch} x {p.seq}")
    print(report)
    if p.program:
        pathlib.Path(p.program).write_text(report.text)
    about = dict(plan=dataclasses.asdict(p), parameters=param.size(program.step.decl))
    write(p, about | dict(report=json.loads(report.to_json())))
    return 0


def write(p: Plan, data: dict) -> None:
    if p.out:
        pathlib.Path(p.out).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(p.out).write_text(json.dumps(data, indent=1) + "\n")
        print(f"wrote {p.out}")


def meshes(t: targets.Target) -> list[str]:
    """Sensible ones: tensor parallelism of 1 to 8 where links are fastest, fsdp over the rest or over a part of it (one
    side of a torus too, along which libtpu scatters gradients) with copies on data. Slices and nodes hold copies."""
    inside = t.size // t.units
    outer = f"dcn.data={t.units}," if t.units > 1 else ""
    found = []
    for tensor in (1, 2, 4, 8):
        if inside % tensor or (t.chip.platform == "cuda" and tensor > t.shape[0]):
            continue
        rest = inside // tensor
        part = {f for f in (t.shape[0], 16, 64) if f < rest and rest % f == 0}
        for fsdp in sorted({rest, *part}, reverse=True):
            axes = dict(data=rest // fsdp, fsdp=fsdp, tensor=tensor)
            found.append(outer + ",".join(f"{k}={v}" for k, v in axes.items() if v > 1) or "fsdp=1")
    return found


@dataclasses.dataclass
class Search:
    """Every choice that was tried, and what came of it: a report, or the reason why not."""

    plan: Plan
    target: targets.Target
    options: dict[str, str]
    found: dict[Choice, targets.Report | str] = dataclasses.field(default_factory=dict)
    compiles: int = 0
    seconds: float = 0.0

    def tried(self, choice: Choice) -> targets.Report | str:
        if choice not in self.found:
            self.found[choice] = self._try(choice)
        return self.found[choice]

    def _try(self, choice: Choice) -> targets.Report | str:
        try:
            program = prepare(self.plan, self.target, choice)
        except ValueError as error:
            return str(error)
        if program.state > self.target.chip.memory:
            return f"parameters and optimizer alone are {program.state / GIB:.1f} GiB per device"
        if self.compiles >= self.plan.limit:
            return "not tried: --limit is reached"
        self.compiles += 1
        begin = time.monotonic()
        spent = f", {human_time(self.seconds / (self.compiles - 1))} each so far" if self.compiles > 1 else ""
        try:
            with waiting(f"{self.compiles} of at most {self.plan.limit}{spent}: {choice}"):
                return dataclasses.replace(compiled(program, self.options), text="")
        except targets.OutOfMemory as error:
            return f"out of memory: {error.needed / GIB:.1f} of {error.available / GIB:.1f} GiB"
        finally:
            self.seconds += time.monotonic() - begin

    def fitting(self, mesh: str, remat: str) -> None:
        """The fewest microbatches with which a mesh and a policy fit."""
        accumulate = self.plan.accumulate
        while isinstance(said := self.tried(Choice(mesh, remat, accumulate)), str) and "out of memory" in said:
            accumulate *= 2
            if self.plan.batch % accumulate:
                return

    def ranked(self) -> list[tuple[Choice, targets.Report]]:
        fit = [(c, r) for c, r in self.found.items() if isinstance(r, targets.Report)]
        return sorted(fit, key=lambda row: (row[1].roofline.floor, row[1].memory.needed))


def search(p: Plan, t: targets.Target, options: dict[str, str]) -> int:
    """First every mesh with the model's policy, then lighter policies on the three best meshes."""
    config, _ = model_of(p)
    s = Search(p, t, options)
    for mesh in [p.mesh] if p.mesh else meshes(t):
        s.fitting(mesh, config.remat)
    if p.remat is None:
        for mesh in list(dict.fromkeys(c.mesh for c, _ in s.ranked()))[:3]:
            for remat in ("names", "dots", "none"):
                s.fitting(mesh, remat)
    rows = s.ranked()
    print(f"{p.model}, {p.optimizer}, batch {p.batch} x {p.seq} on {t.name}: {len(rows)} fit, {s.compiles} compiled "
          f"in {human_time(s.seconds)}")  # fmt: skip
    print(f"{'ms at least':>11}  {'MFU':>6}  {'bound by':<12}  {'GiB':>7}  choice")
    for choice, r in rows:
        gib, mfu = r.memory.needed / GIB, 100 * (r.mfu or 0)
        print(f"{1e3 * r.roofline.floor:>11.1f}  {mfu:>5.1f}%  {r.roofline.bound:<12}  {gib:>7.2f}  {choice}")
    for choice, reason in s.found.items():
        if isinstance(reason, str):
            print(f"{'-':>11}  {'':>6}  {'':<12}  {'':>7}  {choice}: {reason}")
    write(p, dict(plan=dataclasses.asdict(p), ranked=[
        dict(choice=dataclasses.asdict(c), report=json.loads(r.to_json())) for c, r in rows
    ], refused={str(c): r for c, r in s.found.items() if isinstance(r, str)}))  # fmt: skip
    if not rows:
        print(f"error: nothing that was tried fits on {t.name}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    try:
        p = tyro.cli(Plan, description=__doc__)
        t = targets.target(p.target)
        unread = [o for o in p.option if "=" not in o]
        if unread:
            raise ValueError(f"option {unread[0]!r} is not flag=value")
        options = dict(o.split("=", 1) for o in p.option)
        return (search if p.search else single)(p, t, options)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
