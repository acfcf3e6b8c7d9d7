"""A scaling law from a ladder of language models, and its prediction for a larger run that it did not use.

    python experiments/ladder.py                 # minutes on a laptop
    python experiments/ladder.py --mixer gla --out runs/gla
    python experiments/ladder.py --only 3/16     # the third of 16 jobs of an array; the last one to end fits

Trains every size at every token budget, fits L(N, D) = E + A N^-alpha + B D^-beta to all runs but those of the largest
compute, and holds its prediction against them. Leaves runs.csv, fit.json and ladder.png. Run again, it goes on where it
was interrupted. N counts the parameters that a token is multiplied with, C = 6 N D.

Exit status: 0 done, 1 a run failed or the fit is degenerate, 2 what was asked for cannot run here.
"""

import contextlib
import csv
import dataclasses
import io
import json
import logging
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
import tyro
from etils import epath

from jaxlib_ext import param, scaling
from jaxlib_ext.models.config import ModelConfig
from jaxlib_ext.optim import default_rate
from jaxlib_ext.training import config, distributed, hardware, job, loop
from jaxlib_ext.training.beside import beside, keep_to_core
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
    """One run."""

    width: int
    tokens: int
    seed: int

    @property
    def name(self) -> str:
        return f"w{self.width}-t{self.tokens}-s{self.seed}"


def parse_tokens(text: str) -> int:
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(text[-1:].lower(), 1)
    try:
        return round(float(text.rstrip("kmbKMB")) * scale)
    except ValueError:
        raise ValueError(f"design: {text!r} is not a number of tokens") from None


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
            out += [Rung(int(width), n, 1000 * ladder.seed + s) for s in range(int(seeds or 1))]
    if len(set(out)) != len(out):
        raise ValueError("design: a run is named twice; write tokens*seeds for repetitions")
    return sorted(out, key=lambda r: (r.width * r.width * r.tokens, r.width, r.seed))


def rate_of(ladder: Ladder, width: int) -> float:
    """The peak learning rate of a run."""
    if ladder.rate is None and ladder.optimizer != "adam":
        return default_rate(ladder.optimizer)
    return (ADAM_RATE if ladder.rate is None else ladder.rate) / width


def run_config(ladder: Ladder, rung: Rung) -> config.RunConfig:
    steps = max(1, round(rung.tokens / (ladder.batch * ladder.time)))
    model = ModelConfig(
        width=rung.width, depth=ladder.depth, mixer=ladder.mixer, channel=ladder.channel, position=ladder.position,
        dtype=ladder.dtype,
    )  # fmt: skip
    return config.RunConfig(
        out=str(epath.Path(ladder.out) / "runs" / rung.name), model=model, data=ladder.data, batch=ladder.batch,
        time=ladder.time, steps=steps, seed=rung.seed, optimizer=ladder.optimizer,
        learning_rate=rate_of(ladder, rung.width), mesh=ladder.mesh, eval_every=steps, eval_windows=ladder.eval_windows,
        log_every=max(1, steps // 100), save_every=max(2000, steps // 10), keep=1,
    )  # fmt: skip


def result_file(ladder: Ladder, rung: Rung) -> epath.Path:
    return epath.Path(ladder.out) / "runs" / rung.name / "result.json"


def train(ladder: Ladder, rung: Rung) -> dict | None:
    """One run, or the rest of it; None if it was told to stop before its end."""
    ready = job.prepare(run_config(ladder, rung))
    result = loop.run(ready)
    if result.preempted and result.step < ready.config.steps:
        return None
    n = param.matmul_size(ready.step.decl)
    tokens = ready.config.steps * ladder.batch * ladder.time
    row = dict(
        mixer=ladder.mixer, width=rung.width, depth=ladder.depth, tokens=tokens, seed=rung.seed, parameters=round(n),
        flops=6 * n * tokens, eval_loss=result.eval_loss, train_loss=result.train_loss, steps=ready.config.steps,
        batch=ladder.batch, time=ladder.time, learning_rate=ready.config.learning_rate,
        data_sha256=ready.saved.data.get("sha256", ""), time_seconds=round(result.seconds, 2),
    )  # fmt: skip
    if distributed.is_lead():
        replace_text(result_file(ladder, rung), json.dumps(row) + "\n")
    return row


def collect(ladder: Ladder, design: list[Rung]) -> list[dict]:
    """The rows of all runs that have ended, in the order of the design; also written to runs.csv."""
    files = [result_file(ladder, r) for r in design]
    rows = [json.loads(f.read_text()) for f in files if f.exists()]
    if distributed.is_lead():
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace_text(epath.Path(ladder.out) / "runs.csv", text.getvalue())
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
    mine = [r for r in design if ladder.run in ("", r.name)]
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
            print(
                f"{i + 1:3d}/{len(todo)}  width {rung.width:4d}  {human_count(row['tokens']):>5} tokens  "
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
    named = {r.name: r for r in sorted(todo, key=effort, reverse=True)}
    here = [sys.executable, __file__, *sys.argv[1:], "--jobs", "1", "--run"]
    with contextlib.closing(beside({n: [*here, n] for n in named}, jobs, lambda n: log_file(ladder, n))) as names:
        for name in names:
            yield named[name] if result_file(ladder, named[name]).exists() else None


def log_file(ladder: Ladder, name: str) -> pathlib.Path:
    folder = pathlib.Path(ladder.out) if is_local(ladder.out) else pathlib.Path(tempfile.gettempdir())
    return folder / "runs" / f"{name}.log"


def fitted(rows: list[dict]) -> tuple[scaling.Fit, scaling.Draws, list[dict]]:
    """The law on all runs but the largest, its bootstrap, and the runs held out."""
    top = max(r["flops"] for r in rows)
    held = [r for r in rows if r["flops"] > 0.99 * top]
    rest = [r for r in rows if r["flops"] <= 0.99 * top]
    column = lambda name: np.array([r[name] for r in rest], np.float64)
    note = "N: parameters that a token is multiplied with, head included, embedding left out; C = 6 N D"
    data = scaling.Data(x=dict(N=column("parameters"), D=column("tokens")), y=column("eval_loss"), note=note)
    fit = scaling.fit("chinchilla", data, scaling.lsq())
    return fit, scaling.bootstrap(fit, 1000, kind="parametric"), held


def conclude(ladder: Ladder, rows: list[dict]) -> int:
    """Fit, prediction against what was measured, table, files. The exit status."""
    fit, draws, held = fitted(rows)
    print("\n" + fit.report())
    at = dict(N=np.array([r["parameters"] for r in held], float), D=np.array([r["tokens"] for r in held], float))
    prediction = scaling.predict(fit, at, draws)
    rms = float(np.sqrt(np.mean(fit.residuals() ** 2)))
    print(f"\nrms log residual {rms:.4f} over {fit.n} runs")
    tests = []
    for i, row in enumerate(held):
        low, value, high = (float(getattr(prediction, k)[i]) for k in ("low", "value", "high"))
        inside = low <= row["eval_loss"] <= high
        tests.append(dict(width=row["width"], tokens=row["tokens"], measured=row["eval_loss"], predicted=value,
                          low=low, high=high, inside=inside))  # fmt: skip
        verdict = "inside" if inside else "OUTSIDE"
        print(f"held out: width {row['width']}, {human_count(row['tokens'])} tokens: predicted {value:.3f} "
              f"[{low:.3f}, {high:.3f}] for a new run, measured {row['eval_loss']:.3f}: {verdict}")  # fmt: skip
    top = max(r["flops"] for r in rows)
    plan = scaling.optimal(fit, top * np.array([1.0, 10.0, 100.0]), draws=draws)
    print("\ncompute-optimal sizes\n" + str(plan))
    folder = epath.Path(ladder.out)
    degenerate = "" if fit.status == scaling.Status.CONVERGED else fit.reason
    found = dict(fit=json.loads(fit.to_json()), rms_log_residual=rms, held_out=tests, status=fit.status.value,
                 reason=fit.reason, design=ladder.design, seed=ladder.seed, mixer=ladder.mixer)  # fmt: skip
    replace_text(folder / "fit.json", json.dumps(found, indent=1) + "\n")
    plot(folder / "ladder.png", ladder, fit, draws, rows, tests)
    print(f"\nwrote {folder / 'runs.csv'}, fit.json, ladder.png")
    if degenerate:
        print(f"error: the fit is degenerate: {degenerate}", file=sys.stderr)
        return 1
    return 0


def plot(path: epath.Path, ladder: Ladder, fit, draws, rows: list[dict], tests: list[dict]) -> None:
    """Loss against tokens for every width with the law, and predicted against measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    widths = sorted({r["width"] for r in rows})
    tokens = np.geomspace(min(r["tokens"] for r in rows) / 1.5, max(r["tokens"] for r in rows) * 2, 60)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(widths)))
    for width, colour in zip(widths, colours, strict=True):
        mine = [r for r in rows if r["width"] == width]
        n = mine[0]["parameters"]
        band = scaling.predict(fit, dict(N=np.full(60, float(n)), D=tokens), draws, kind="mean")
        left.plot(tokens, band.value, color=colour, lw=1.2)
        left.fill_between(tokens, band.low, band.high, color=colour, alpha=0.15, lw=0)
        used = [r for r in mine if not any(t["width"] == width and t["tokens"] == r["tokens"] for t in tests)]
        label = f"width {width} ({human_count(n)})"
        if used:
            left.plot([r["tokens"] for r in used], [r["eval_loss"] for r in used], "o", color=colour, ms=5, label=label)
        fresh = [t for t in tests if t["width"] == width]
        left.plot([t["tokens"] for t in fresh], [t["measured"] for t in fresh], "*", color=colour, ms=14, mec="black",
                  label=f"{label}, held out" if fresh else None)  # fmt: skip
    left.set(xscale="log", xlabel="training tokens", ylabel="held-out loss, nats a token", title=ladder.mixer)
    budgets = sorted({r["tokens"] for r in rows})
    left.set_xticks(budgets, [human_count(t) for t in budgets])
    left.minorticks_off()
    left.legend(fontsize=8)
    right.plot(fit.predict(), fit.data.y, "o", ms=5, label="fitted runs")
    for t in tests:
        error = [[t["predicted"] - t["low"]], [t["high"] - t["predicted"]]]
        right.errorbar(t["predicted"], t["measured"], xerr=error, fmt="*", ms=13, capsize=4, color="tab:red",
                       label="held out, 95% interval for a new run")  # fmt: skip
    ends = [min(fit.data.y.min(), *(t["low"] for t in tests)), fit.data.y.max()]
    right.plot(ends, ends, color="grey", lw=0.8)
    right.set(xlabel="predicted loss", ylabel="measured loss", title="the law against the runs")
    right.legend(fontsize=8)
    with path.open("wb") as f:
        figure.savefig(f, format="png", dpi=130)
    plt.close(figure)


def main() -> int:
    keep_to_core()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        ladder = tyro.cli(Ladder, description=__doc__)
        design = rungs(ladder)
        distributed.start()
    except (ValueError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with distributed.guard():
        status = whole(ladder, design)
        if status:
            raise SystemExit(status)
    return 0


def whole(ladder: Ladder, design: list[Rung]) -> int:
    """From the checks to the conclusion; the exit status."""
    try:
        if ladder.run and ladder.run not in {r.name for r in design}:
            raise ValueError(f"the design has no run {ladder.run!r}")
        job.prepare(run_config(ladder, design[0]))  # what is wrong for all is said before the first run
        if len({(r.width, r.tokens) for r in design}) < 7:
            raise ValueError(f"design: {len(design)} runs are too few for a law of 5 parameters and a held-out run")
        jax.config.update("jax_compilation_cache_dir", str(epath.Path(ladder.out) / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        complete = climb(ladder, design)
        if ladder.run:
            return 0
        rows = collect(ladder, design)
        if not complete or len(rows) < len(design):
            if distributed.is_lead():
                print(f"{len(rows)} of {len(design)} runs have ended; the law is fitted when all have")
            return 0
        return conclude(ladder, rows) if distributed.is_lead() else 0
    except (FloatingPointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
