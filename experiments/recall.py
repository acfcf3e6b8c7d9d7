"""What architectures can recall, against the bytes that they keep: small models on made-up tasks.

    python experiments/recall.py                                       # MQAR, 7 mixers: 2 to 3 hours on two cores
    python experiments/recall.py --mixers attention,gla,my_file:Mixer --tasks "induction,word(group='a5')"
    python experiments/recall.py --mixers "attention(window=?),gla(key=?)" --widths 32 --state-bytes 4096,16384
    python experiments/recall.py --preset accelerator

All models of a width have the same number of parameters: the channel mixer is sized for it. An option given as ? is
solved for the bytes of decode state. Every model trains at every rate, then with more seeds at the best; a run ends
when the held-out rows are solved. Leaves recall.csv (a row a run) and recall.png; run again, it goes on where it was.

Exit status: 0 done, 1 a run failed, 2 what was asked for cannot run here.
"""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator

import _recall_report as report
import jax
import tyro
from _recall_models import Sized, sized
from _recall_train import Recipe, Run, train
from etils import epath

from jaxlib_ext.models.config import ModelConfig
from jaxlib_ext.registry import split_specs
from jaxlib_ext.training.beside import beside, keep_to_core
from jaxlib_ext.training.data.tasks import make_task
from jaxlib_ext.training.progress import human_time
from jaxlib_ext.training.storage import check_writable, is_local


@dataclasses.dataclass(frozen=True)
class Recall:
    """What to compare and where."""

    preset: str = "laptop"
    """laptop or accelerator: the defaults of everything else."""
    out: str = "runs/recall"
    """Folder for the runs and the results; local or gs://."""
    tasks: str = "mqar(pairs=4),mqar(pairs=8)"
    """mqar, induction, selective_copying, word with their options; package.module:Name is a task of your own."""
    mixers: str = "attention,gated_deltanet,mamba2(n=32),gla,retention,based_attention,mamba"
    """Token mixers with options; a+b is a pattern of both; package.module:Name is a mixer of your own."""
    widths: str = "16,32,64"
    state_bytes: str = ""
    """What an option given as ? is solved for: bytes of decode state of the whole model, comma-separated."""
    parameters: float = 16.0
    """Parameters a layer, times width^2, that the ? of the channel mixer is solved for."""
    channel: str = "glu(ff=?)"
    depth: int = 2
    position: str = "rope"
    dtype: str = "float32"
    rates: str = "0.003,0.01,0.03"
    seeds: int = 3
    """Of the best rate; the other rates are run with the first."""
    steps: int = 1000
    batch: int = 64
    every: int = 50
    """Steps in one program, between two looks at the held-out rows."""
    eval_rows: int = 512
    solved: float = 0.99
    """Held-out accuracy at which a run ends."""
    optimizer: str = "adamw"
    warmup: float = 0.05
    minutes: float = 0.0
    """No run begins later than that; the next call goes on. 0: no limit."""
    until: float = math.inf
    """The same as a time in seconds since 1970."""
    jobs: int = 0
    """Models at once on this machine, each in a process of its own; 0: one a core on CPU, one elsewhere."""
    model: str = ""
    """Trains the model of that name and stops there."""


PRESETS = {
    "laptop": Recall(),
    "accelerator": Recall(
        preset="accelerator", out="runs/recall-accelerator", tasks="mqar(time=256,vocab=8192,pairs=32)",
        widths="64,128,256", rates="0.001,0.003,0.01", batch=256, steps=20_000, every=500, eval_rows=2048,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to train: as asked for, and solved for each vocabulary and length of the tasks."""

    asked: str
    width: int
    held: int  # bytes of state asked for, 0 if none were

    @property
    def name(self) -> str:
        plain = "".join(c if c.isalnum() or c in "._=" else "-" for c in self.asked).strip("-")
        return f"{plain}-w{self.width}" + (f"-b{self.held}" if self.held else "")


def numbers(name: str, text: str, kind: type) -> list:
    try:
        return [kind(s) for s in split_specs(text)]
    except ValueError:
        raise ValueError(f"{name}: {text!r} is not a list of numbers") from None


def models(c: Recall) -> list[Model]:
    """All models, narrow ones first."""
    widths, held = numbers("widths", c.widths, int), numbers("state_bytes", c.state_bytes, int)
    if min((*widths, *held, c.steps, c.batch, c.every, c.seeds), default=0) < 1 or not widths:
        raise ValueError("widths, state_bytes, steps, batch, every and seeds must be at least 1")
    each = lambda mixer: held or [0] if "?" in mixer else [0]
    out = [Model(m, w, b) for w in sorted(widths) for m in split_specs(c.mixers) for b in each(m)]
    if len({m.name for m in out}) != len(out) or not out:
        raise ValueError("mixers: none given, or one given twice")
    return out


@functools.cache
def solved_for(c: Recall, model: Model, task: str) -> Sized:
    made = make_task(task)
    config = ModelConfig(
        width=model.width, depth=c.depth, mixer=model.asked.replace("+", ","), channel=c.channel, position=c.position,
        dtype=c.dtype,
    )  # fmt: skip
    return sized(config, made.vocab, made.time, c.parameters, model.held)


def planned(c: Recall, model: Model, results: report.Results) -> Iterator[Run]:
    """The runs of a model in their order. Which rate has more seeds is known when all rates have been run: until then
    they are left out."""
    rates = numbers("rates", c.rates, float)
    recipe = Recipe(c.steps, c.batch, c.every, c.eval_rows, c.solved, c.optimizer, c.warmup)
    for task in split_specs(c.tasks):
        run = Run(task, model.asked, solved_for(c, model, task).config, recipe, rates[0], 0)
        first = [dataclasses.replace(run, rate=rate) for rate in rates]
        yield from first
        rows = [results.get(run) for run in first]
        if None not in rows:
            best = dataclasses.replace(run, rate=report.best_rate(rows))
            yield from (dataclasses.replace(best, seed=seed) for seed in range(1, c.seeds))


def missing(c: Recall, model: Model, results: report.Results) -> Run | None:
    """The next run of a model that has no result."""
    return next((run for run in planned(c, model, results) if results.get(run) is None), None)


def one_run(c: Recall, model: Model, run: Run) -> dict:
    """Trains; a row of recall.csv."""
    weighed = solved_for(c, model, run.task)
    return dict(
        task=run.task, asked=model.asked, mixer=run.model.mixer, width=model.width, channel=run.model.channel,
        depth=c.depth, state_bytes=weighed.state_bytes, parameters=weighed.parameters, rate=run.rate, seed=run.seed,
        budget=c.steps, device=jax.devices()[0].device_kind, **train(run),
    )  # fmt: skip


class Progress:
    """Prints every run as it ends, with the time left. A run weighs as its model's width."""

    def __init__(self, c: Recall, todo: list[Model], results: report.Results):
        self.each = len(split_specs(c.tasks)) * (len(numbers("rates", c.rates, float)) + c.seeds - 1)
        self.results, self.begin, self.looked, self.spent, self.n = results, time.perf_counter(), 0.0, 0.0, 0
        done = [(m.width, run) for m in todo for run in planned(c, m, results) if results.get(run)]
        self.total = self.each * len(todo) - len(done)
        self.effort = sum(self.each * self.weight(m.width) for m in todo) - sum(self.weight(w) for w, _ in done)
        print(f"{len(todo)} models, {self.total} runs to do, {len(done)} of theirs are there", flush=True)

    @staticmethod
    def weight(width: int) -> float:
        return width + 32

    def look(self) -> None:
        """Reports results that are new, at most once in two seconds."""
        if time.perf_counter() - self.looked > 2:
            self.looked = time.perf_counter()
            for name in self.results.refresh():
                self.say(self.results.rows[name])

    def say(self, row: dict) -> None:
        self.n += 1
        self.spent += self.weight(row["width"])
        left = (time.perf_counter() - self.begin) / self.spent * max(self.effort - self.spent, 0)
        print(
            f"{self.n:3d}/{self.total}  {row['task']}  {row['mixer']}  width {row['width']}  rate {row['rate']:g}  "
            f"seed {row['seed']}  accuracy {row['accuracy']:.3f}, {row['status']} in {row['steps']} steps, "
            f"{row['seconds']:.0f} s  about {human_time(left)} left", flush=True,
        )  # fmt: skip


def train_all(c: Recall, todo: list[Model], results: report.Results, until: float) -> None:
    """Trains what is missing, in this process or in several."""
    jobs = min(c.jobs or (os.cpu_count() or 1 if jax.default_backend() == "cpu" else 1), max(len(todo), 1))
    progress = Progress(c, todo, results)
    if jobs == 1:
        for model in todo:
            while time.time() < until and (run := missing(c, model, results)):
                row = one_run(c, model, run)
                results.put(run, row)
                progress.say(row)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes below are ended with this one
    here = [sys.executable, __file__, *sys.argv[1:], "--jobs", "1", "--until", str(until), "--model"]
    folder = pathlib.Path(c.out) if is_local(c.out) else pathlib.Path(tempfile.gettempdir())
    log = lambda name: folder / "runs" / f"{name}.log"
    with contextlib.closing(beside({m.name: [*here, m.name] for m in todo}, jobs, log, progress.look)) as names:
        for _ in names:
            pass
    progress.looked = 0.0
    progress.look()


def conclude(c: Recall, every: list[Model], results: report.Results) -> None:
    """recall.csv, table and recall.png of all results there are."""
    found = [row for m in every for run in planned(c, m, results) if (row := results.get(run))]
    folder = epath.Path(c.out)
    report.write_csv(folder / "recall.csv", found)
    if not found:
        print("no run has ended")
        return
    points = report.points(found, list(range(c.seeds)))
    print("\n" + report.table(points))
    report.plot(folder / "recall.png", points, c.solved)
    short = sum(missing(c, m, results) is not None for m in every)
    print(f"\nwrote {folder / 'recall.csv'}, recall.png" + (f"; {short} models have runs to do" if short else ""))


def parse() -> Recall:
    """Options, over the defaults of the preset."""
    words = [w for word in sys.argv[1:] for w in word.split("=", 1)]
    name = words[words.index("--preset") + 1] if "--preset" in words[:-1] else "laptop"
    if name not in PRESETS:
        raise ValueError(f"presets are {', '.join(PRESETS)}, not {name!r}")
    return tyro.cli(Recall, default=PRESETS[name], description=__doc__)


def check(c: Recall, every: list[Model]) -> None:
    """Raises ValueError or OSError for what cannot run, before the first run."""
    if c.model and c.model not in {m.name for m in every}:
        raise ValueError(f"there is no model {c.model!r}")
    if not numbers("rates", c.rates, float) or min(numbers("rates", c.rates, float)) <= 0:
        raise ValueError(f"rates must be positive, not {c.rates!r}")
    for model in every:
        if c.model in ("", model.name):  # a process of one model leaves the others to theirs
            for task in split_specs(c.tasks):
                solved_for(c, model, task)
    check_writable(epath.Path(c.out) / "runs")


def main() -> int:
    keep_to_core()
    begin = time.time()
    try:
        c = parse()
        every = models(c)
        check(c, every)
        jax.config.update("jax_compilation_cache_dir", str(epath.Path(c.out) / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        results = report.Results(c.out)
        results.refresh()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    todo = [m for m in every if c.model in ("", m.name) and missing(c, m, results)]
    until = min(c.until, begin + 60 * c.minutes if c.minutes else math.inf)
    try:
        train_all(c, todo, results, until)
        if not c.model:
            conclude(c, every, results)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
