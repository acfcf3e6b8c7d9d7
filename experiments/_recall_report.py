"""What came of the runs of a comparison: the table's lines, recall.csv and recall.png."""

import csv
import io
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from etils import epath

from jaxlib_ext.training.data.tasks import make_task
from jaxlib_ext.training.storage import replace_text

if TYPE_CHECKING:
    from _recall_train import Run

COLUMNS = (
    "task", "mixer", "width", "state_bytes", "parameters", "rate", "seed", "accuracy", "status", "steps", "budget",
    "loss", "ms_a_step", "seconds", "channel", "depth", "device", "asked",
)  # fmt: skip
Row = dict[str, Any]


class Results:
    """Results of runs in a folder, one file each, read once; several processes may write there."""

    def __init__(self, folder: str):
        self.folder, self.rows = epath.Path(folder) / "runs", dict[str, Row]()

    def refresh(self) -> list[str]:
        """Reads what is new; its names."""
        names = {f.name.removesuffix(".json") for f in self.folder.iterdir() if f.name.endswith(".json")}
        new = sorted(names - self.rows.keys())
        self.rows |= {name: json.loads((self.folder / f"{name}.json").read_text()) for name in new}
        return new

    def get(self, run: "Run") -> Row | None:
        return self.rows.get(run.key)

    def put(self, run: "Run", row: Row) -> None:
        replace_text(self.folder / f"{run.key}.json", json.dumps(row) + "\n")
        self.rows[run.key] = row


class Point(NamedTuple):
    """One model on one task: its runs at the best rate, one a seed."""

    task: str
    asked: str  # the mixer as it was asked for
    width: int
    runs: list[Row]
    missing: int  # seeds that have not been run

    @property
    def mean(self) -> float:
        return sum(r["accuracy"] for r in self.runs) / len(self.runs)

    @property
    def ends(self) -> tuple[float, float]:
        values = [r["accuracy"] for r in self.runs]
        return min(values), max(values)

    @property
    def solved(self) -> int:
        return sum(r["status"] == "solved" for r in self.runs)

    @property
    def says(self) -> str:
        """What the accuracy stands for."""
        first, n = self.runs[0], len(self.runs)
        diverged = sum(r["status"] == "diverged" for r in self.runs)
        if self.solved == n:
            text = f"solved after {sum(r['steps'] for r in self.runs) / n:.0f} steps"
        else:
            text = f"not converged in the budget of {first['budget']} steps"
            text += f", {self.solved} of {n} seeds solved" if self.solved else ""
        text += f", {diverged} of {n} diverged" if diverged else ""
        return text + (f"; {self.missing} seeds missing" if self.missing else "")


def best_rate(rows: Iterable[Row]) -> float:
    """Of runs of one model and task that differ in rate: the highest accuracy, and of equals the fewest steps."""
    rank = lambda r: (r["status"] == "solved", 0 if r["status"] == "solved" else r["accuracy"], -r["steps"])
    return max(rows, key=rank)["rate"]


def points(rows: list[Row], seeds: list[int]) -> list[Point]:
    """Groups rows by task, mixer and model, in their order."""
    groups: dict[tuple, list[Row]] = {}
    for r in rows:
        groups.setdefault((r["task"], r["asked"], r["mixer"], r["width"]), []).append(r)
    out = []
    for (task, asked, _, width), runs in groups.items():
        rate = best_rate([r for r in runs if r["seed"] == seeds[0]] or runs)
        best = [r for r in runs if r["rate"] == rate]
        out.append(Point(task, asked, width, best, len(seeds) - len(best)))
    return out


def table(found: list[Point]) -> str:
    head = f"{'task':<22}{'mixer':<30}{'width':>6}{'state bytes':>12}{'parameters':>11}{'rate':>8}  {'accuracy':<22}"
    lines = [head]
    for p in sorted(found, key=lambda p: (p.task, p.runs[0]["state_bytes"], p.asked)):
        r, (low, high) = p.runs[0], p.ends
        spread = f" [{low:.3f}, {high:.3f}]" if len(p.runs) > 1 else ""
        lines.append(
            f"{p.task:<22}{r['mixer']:<30}{p.width:>6}{r['state_bytes']:>12,}{r['parameters']:>11,}{r['rate']:>8g}"
            f"  {f'{p.mean:.3f}{spread}':<22} {p.says}"
        )
    return "\n".join(lines)


def write_csv(path: epath.Path, rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    replace_text(path, text.getvalue())


def chance(task: str) -> float:
    """Accuracy of guessing blindly among the symbols that occur as targets."""
    import jax
    import numpy as np

    batch = jax.jit(lambda key: make_task(task).sample(key, 256))(jax.random.key(0))
    return 1 / len(np.unique(np.asarray(batch["targets"])[np.asarray(batch["mask"])]))


def plot(path: epath.Path, found: list[Point], solved: float) -> None:
    """Accuracy against bytes of decode state, one panel a task, one line a mixer, widths beside the marks; hollow marks
    are not converged."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    tasks, mixers = ([*dict.fromkeys(values)] for values in ([p.task for p in found], [p.asked for p in found]))
    columns = min(len(tasks), 2)
    lines = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(5.2 * columns + 2.6, 4.0 * lines), layout="constrained", squeeze=False, sharey=True
    )
    colours, marks = plt.get_cmap("tab10"), "osD^vPX*<>"
    for axis in axes.ravel()[len(tasks) :]:
        axis.axis("off")
    for task, axis in zip(tasks, axes.ravel(), strict=False):
        for i, mixer in enumerate(mixers):
            colour, mark = colours(i % 10), marks[(i + i // 10) % 10]
            mine = [p for p in found if (p.task, p.asked) == (task, mixer)]
            mine.sort(key=lambda p: p.runs[0]["state_bytes"])
            axis.plot([p.runs[0]["state_bytes"] for p in mine], [p.mean for p in mine], mark + "-", color=colour,
                      label=mixer, lw=1.3, ms=7)  # fmt: skip
            for p in mine:
                at = p.runs[0]["state_bytes"]
                axis.vlines(at, *p.ends, color=colour, lw=1)
                axis.annotate(f"{p.width}", (at, p.mean), (4, 5), textcoords="offset points", fontsize=7, color=colour)
                if p.solved < len(p.runs):
                    axis.plot(at, p.mean, mark, color=colour, mfc="white", ms=7)
        axis.axhline(solved, color="grey", lw=0.8, ls=":")
        axis.axhline(chance(task), color="grey", lw=0.8, ls="--", label="chance")
        axis.set(xscale="log", title=task, xlabel="decode state of one sequence, bytes", ylim=(-0.03, 1.04))
    for line in axes:
        line[0].set_ylabel("held-out accuracy, mean and range of seeds")
    handles, labels = axes[0][0].get_legend_handles_labels()
    handles += [Line2D([], [], marker="o", ls="", color="grey", mfc="white")]
    figure.legend(handles, [*labels, "hollow: not converged\nin the budget"], loc="outside right upper", fontsize=9)
    with path.open("wb") as f:
        figure.savefig(f, format="png", dpi=130)
    plt.close(figure)
