"""Every optimizer with its documented defaults for 300 steps of a small language model: does the loss go down?

    python experiments/try_optimizers.py                       # all, two seeds; resumes where it was interrupted
    python experiments/try_optimizers.py --only lion,prodigy --steps 1000

Nothing is tuned: learning rates are the rules' own defaults (1 for methods that find it themselves), under one cosine
schedule with 5% warm-up. It shows that each works here, not which is better. Leaves `optimizers.csv`.
"""

import csv
import dataclasses
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tyro

from jaxlib_ext import optim
from jaxlib_ext.training.config import RunConfig
from jaxlib_ext.training.job import prepare


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is run."""

    out: str = "runs/optimizers"
    only: str = ""
    """Comma-separated names; all by default."""
    steps: int = 300
    seeds: int = 2
    width: int = 64
    batch: int = 8
    time: int = 128


FIELDS = ("optimizer", "seed", "steps", "learning_rate", "first", "last", "seconds")


def run(c: Trial, name: str, seed: int) -> dict:
    """Mean losses of the first and the last tenth of the steps."""
    config = RunConfig(out=f"{c.out}/none", batch=c.batch, time=c.time, steps=c.steps, seed=seed, optimizer=name)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, width=c.width, depth=2))
    job = prepare(config)
    begin, state, losses = time.perf_counter(), job.step.init(jax.random.key(seed)), []
    for i in range(c.steps):
        state, metrics = job.step(state, job.train.rows(i, 0, c.batch))
        losses.append(metrics["loss"])
    losses, tenth = np.asarray(jax.device_get(losses)), max(c.steps // 10, 1)
    return dict(
        optimizer=name, seed=seed, steps=c.steps, learning_rate=optim.default_rate(name),
        first=float(losses[0]), last=float(losses[-tenth:].mean()), seconds=time.perf_counter() - begin,
    )  # fmt: skip


def main(c: Trial) -> int:
    names = [n.strip() for n in c.only.split(",") if n.strip()] or list(optim.RULES)
    file = Path(c.out) / "optimizers.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader(file.open())) if file.exists() else []
    done = {(r["optimizer"], int(r["seed"]), int(r["steps"])) for r in rows}
    todo = [(n, s) for n in names for s in range(c.seeds) if (n, s, c.steps) not in done]
    begin, bad = time.perf_counter(), 0
    print(f"{len(todo)} of {len(names) * c.seeds} runs to do")
    for i, (name, seed) in enumerate(todo):
        row = run(c, name, seed)
        new = not file.exists()
        with file.open("a", newline="") as out:
            writer = csv.DictWriter(out, FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(row)
        fell = row["last"] < 0.95 * row["first"]
        bad += not fell
        left = (time.perf_counter() - begin) / (i + 1) * (len(todo) - i - 1)
        print(f"{i + 1:3d}/{len(todo)}  {name:22s} seed {seed}  rate {row['learning_rate']:<8g} loss "
              f"{row['first']:.3f} -> {row['last']:.3f}{'' if fell else '  NOT LOWERED'}   {left:4.0f} s left",
              flush=True)  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Trial, description=__doc__)))
