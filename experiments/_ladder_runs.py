"""The runs of a ladder: what is trained, in which order, by how many processes."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
from etils import epath

from jaxlib_ext import param
from jaxlib_ext.models.config import ModelConfig
from jaxlib_ext.optim import default_rate
from jaxlib_ext.registry import split_specs
from jaxlib_ext.training import config, distributed, hardware, job, loop
from jaxlib_ext.training.beside import beside
from jaxlib_ext.training.progress import human_count, human_time
from jaxlib_ext.training.storage import is_local, replace_text

LAPTOP = "32:0.5m*2,1m*2,2m,4m; 64:0.5m*2,1m*2,2m; 96:0.5m,1m,2m; 128:2m"
COLUMNS = (
    "mixer", "width", "depth", "tokens", "seed", "parameters", "flops", "eval_loss", "train_loss", "steps", "batch",
    "time", "learning_rate", "data_sha256", "time_seconds",
)  # fmt: skip
ADAM_RATE = 0.256  # times 1 / width: measured for adam on the default ladder


@dataclasses.dataclass(frozen=True)
class Ladder:
    """What to train and where."""

    out: str = "runs/ladder"
    """Folder for the runs and the results; local or gs://."""
    design: str = LAPTOP
    """width:tokens*seeds, ...; width: ... with k, m, b for thousand, million, billion tokens."""
    mixer: str = "attention(heads=1)"
    """Token mixers of the pattern, comma-separated; package.module:Name is a mixer of your own. Give what must not
    jump between widths, such as the number of heads or their size."""
    mixers: str = ""
    """Several architectures instead, comma-separated: a ladder each and a comparison; a+b is a pattern of both."""
    channel: str = "glu"
    depth: int = 2
    position: str = "rope"
    dtype: str = "float32"
    data: str = "stdlib"
    batch: int = 4
    time: int = 128
    optimizer: str = "adam"
    rate: float | None = None
    """The learning rate of a run is rate / width. None: 0.256 / width for adam, others at their own default rate,
    whatever the width, as methods that find their step themselves want it."""
    rates: str = ""
    """One rate for each of the mixers, comma-separated, where they differ."""
    seed: int = 0
    """Shifts the seeds of all runs."""
    mesh: str = ""
    eval_windows: int = 256
    only: str = ""
    """"k/n": the k-th of every n runs, counted from 1."""
    jobs: int = 0
    """Runs at once on this machine, each in a process of its own; 0: one a core on CPU, one elsewhere."""
    run: str = ""
    """Trains the run of that name and stops there."""


@dataclasses.dataclass(frozen=True)
class Rung:
    """One run. mixer and rate: of its architecture; folder: where that has its runs."""

    mixer: str
    rate: float | None
    folder: str
    width: int
    tokens: int
    seed: int

    @property
    def name(self) -> str:
        return f"w{self.width}-t{self.tokens}-s{self.seed}"

    @property
    def path(self) -> str:
        """Names the run among those of all architectures."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


def parse_tokens(text: str) -> int:
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(text[-1:].lower(), 1)
    try:
        return round(float(text.rstrip("kmbKMB")) * scale)
    except ValueError:
        raise ValueError(f"design: {text!r} is not a number of tokens") from None


def architectures(ladder: Ladder) -> list[tuple[str, float | None, str]]:
    """(mixer, rate, folder under out) of each; with one there is no folder of its own. Raises ValueError."""
    if not ladder.mixers:
        if ladder.rates:
            raise ValueError("rates are those of --mixers; one mixer has --rate")
        return [(ladder.mixer, ladder.rate, "")]
    mixers = split_specs(ladder.mixers)
    try:
        rates = [float(s) for s in split_specs(ladder.rates)] or [ladder.rate] * len(mixers)
    except ValueError:
        raise ValueError(f"rates: {ladder.rates!r} is not a list of numbers") from None
    if len(mixers) < 2 or len(mixers) != len(rates):
        raise ValueError(f"{len(mixers)} mixers and {len(rates)} rates: give two mixers or more, and a rate for each")
    folders = ["".join(c if c.isalnum() or c in "._=" else "-" for c in m).strip("-") for m in mixers]
    if len(set(folders)) != len(folders):
        raise ValueError("mixers: one is given twice")
    return list(zip(mixers, rates, folders, strict=True))


def rungs(ladder: Ladder) -> list[Rung]:
    """All runs of the design, cheapest first, so that much is known early. Raises ValueError."""
    if ladder.only:
        k, slash, n = ladder.only.partition("/")
        if not (slash and k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
            raise ValueError(f'only is "k/n" with 1 <= k <= n, not {ladder.only!r}')
    out = []
    for part in filter(str.strip, ladder.design.split(";")):
        width, colon, budgets = (s.strip() for s in part.partition(":"))
        if not (colon and width.isdigit()):
            raise ValueError(f"design: {part.strip()!r} is not width:tokens,tokens")
        for budget in budgets.split(","):
            tokens, star, seeds = (s.strip() for s in budget.partition("*"))
            if star and not (seeds.isdigit() and int(seeds)):
                raise ValueError(f"design: {budget.strip()!r} is not tokens*seeds")
            n = parse_tokens(tokens)
            out += [(int(width), n, 1000 * ladder.seed + s) for s in range(int(seeds or 1))]
    if len(set(out)) != len(out):
        raise ValueError("design: a run is named twice; write tokens*seeds for repetitions")
    every = [Rung(*which, *run) for run in out for which in architectures(ladder)]
    return sorted(every, key=lambda r: (r.width * r.width * r.tokens, r.width, r.seed))


def rate_of(ladder: Ladder, rung: Rung) -> float:
    """The peak learning rate of a run."""
    if rung.rate is None and ladder.optimizer != "adam":
        return default_rate(ladder.optimizer)
    return (ADAM_RATE if rung.rate is None else rung.rate) / rung.width


def run_config(ladder: Ladder, rung: Rung) -> config.RunConfig:
    steps = max(1, round(rung.tokens / (ladder.batch * ladder.time)))
    pattern = rung.mixer.replace("+", ",") if rung.folder else rung.mixer
    model = ModelConfig(
        width=rung.width, depth=ladder.depth, mixer=pattern, channel=ladder.channel, position=ladder.position,
        dtype=ladder.dtype,
    )  # fmt: skip
    return config.RunConfig(
        out=str(result_file(ladder, rung).parent), model=model, data=ladder.data, batch=ladder.batch,
        time=ladder.time, steps=steps, seed=rung.seed, optimizer=ladder.optimizer,
        learning_rate=rate_of(ladder, rung), mesh=ladder.mesh, eval_every=steps, eval_windows=ladder.eval_windows,
        log_every=max(1, steps // 100), save_every=max(2000, steps // 10), keep=1,
    )  # fmt: skip


def result_file(ladder: Ladder, rung: Rung) -> epath.Path:
    return epath.Path(ladder.out) / rung.folder / "runs" / rung.name / "result.json"


def train(ladder: Ladder, rung: Rung) -> dict | None:
    """One run, or the rest of it; None if it was told to stop before its end."""
    ready = job.prepare(run_config(ladder, rung))
    result = loop.run(ready)
    if result.preempted and result.step < ready.config.steps:
        return None
    n = param.matmul_size(ready.step.decl)
    tokens = ready.config.steps * ladder.batch * ladder.time
    row = dict(
        mixer=rung.mixer, width=rung.width, depth=ladder.depth, tokens=tokens, seed=rung.seed, parameters=round(n),
        flops=6 * n * tokens, eval_loss=result.eval_loss, train_loss=result.train_loss, steps=ready.config.steps,
        batch=ladder.batch, time=ladder.time, learning_rate=ready.config.learning_rate,
        data_sha256=ready.saved.data.get("sha256", ""), time_seconds=round(result.seconds, 2),
    )  # fmt: skip
    if distributed.is_lead():
        replace_text(result_file(ladder, rung), json.dumps(row) + "\n")
    return row


def collect(ladder: Ladder, design: list[Rung], folder: str = "") -> list[dict]:
    """The rows of all runs that have ended, in the order of the design; also written to runs.csv in the folder."""
    files = [result_file(ladder, r) for r in design]
    rows = [json.loads(f.read_text()) for f in files if f.exists()]
    if distributed.is_lead():
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace_text(epath.Path(ladder.out) / folder / "runs.csv", text.getvalue())
    return rows


def expected(ladder: Ladder, todo: list[Rung]) -> float:
    """A guess in seconds before anything ran: three tenths of the peak, a millisecond a step, compilation."""
    peak = hardware.peak_flops()[0] * jax.device_count()
    seconds = 0.0
    for rung in todo:
        c = run_config(ladder, rung)
        n = 12 * ladder.depth * rung.width * (rung.width + 64)
        seconds += 5 + c.steps * (1e-3 + 6 * n * c.batch * c.time / max(0.3 * peak, 1.0))
    return seconds


def jobs_of(ladder: Ladder) -> int:
    alone = jax.process_count() == 1 and jax.default_backend() == "cpu" and not ladder.mesh
    return ladder.jobs or (os.cpu_count() or 1 if alone else 1)


def climb(ladder: Ladder, design: list[Rung]) -> bool:
    """Trains what is missing; True if everything that was asked for has ended."""
    mine = [r for r in design if ladder.run in ("", r.path)]
    if ladder.only and not ladder.run:
        k, n = map(int, ladder.only.split("/"))
        mine = mine[k - 1 :: n]
    todo = [r for r in mine if not result_file(ladder, r).exists()]
    jobs = min(jobs_of(ladder), max(len(todo), 1))
    if distributed.is_lead():
        seconds = human_time(expected(ladder, todo) / jobs)
        print(f"{len(design)} runs, {len(todo)} to do here, {jobs} at a time, about {seconds}", flush=True)
    begin, total, done = time.perf_counter(), sum(map(effort, todo)), 0.0
    for i, rung in enumerate(ended(ladder, todo, jobs)):
        if rung is None:
            return False
        done += effort(rung)
        left = (time.perf_counter() - begin) / done * (total - done)
        row = json.loads(result_file(ladder, rung).read_text())
        if distributed.is_lead():
            name = f"{rung.mixer}  " if rung.folder else ""
            print(
                f"{i + 1:3d}/{len(todo)}  {name}width {rung.width:4d}  {human_count(row['tokens']):>5} tokens  "
                f"loss {row['eval_loss']:.4f}  {row['time_seconds']:6.1f} s  about {human_time(left)} left", flush=True,
            )  # fmt: skip
    return True


def effort(rung: Rung) -> float:
    """Time of a run against another's: at small widths a step's time grows with the width, not with its square."""
    return rung.tokens * rung.width * (rung.width + 128)


def ended(ladder: Ladder, todo: list[Rung], jobs: int) -> Iterator[Rung | None]:
    """Trains the runs and yields each as it ends; None and no more when one was told to stop before its end."""
    if jobs == 1:
        for rung in todo:
            yield rung if train(ladder, rung) else None
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes below are told to save and stop
    named = {r.path: r for r in sorted(todo, key=effort, reverse=True)}
    script = str(pathlib.Path(__file__).with_name("ladder.py"))
    here = [sys.executable, script, *sys.argv[1:], "--jobs", "1", "--run"]
    with contextlib.closing(beside({n: [*here, n] for n in named}, jobs, lambda n: log_file(ladder, n))) as names:
        for name in names:
            yield named[name] if result_file(ladder, named[name]).exists() else None


def log_file(ladder: Ladder, name: str) -> pathlib.Path:
    folder = pathlib.Path(ladder.out) if is_local(ladder.out) else pathlib.Path(tempfile.gettempdir())
    where, _, run = name.rpartition("/")
    return folder / where / "runs" / f"{run}.log"
