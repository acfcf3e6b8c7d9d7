"""The law of a ladder: its fit, and what it says of the runs that were held out."""

import json
from typing import NamedTuple

import numpy as np
from _ladder_plot import plot
from _ladder_runs import Ladder
from etils import epath

from jaxlib_ext import scaling
from jaxlib_ext.training.progress import human_count
from jaxlib_ext.training.storage import replace_text


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


def inputs(rows: list[dict]) -> dict[str, np.ndarray]:
    """Of the law."""
    return dict(N=np.array([r["parameters"] for r in rows], float), D=np.array([r["tokens"] for r in rows], float))


class Law(NamedTuple):
    """What came of one ladder. held: the rows that the fit has not seen."""

    mixer: str
    rows: list[dict]
    held: list[dict]
    fit: scaling.Fit
    draws: scaling.Draws

    @property
    def degenerate(self) -> str:
        """Why the fit came to nothing, or nothing."""
        return "" if self.fit.status == scaling.Status.CONVERGED else self.fit.reason

    @property
    def measured(self) -> float:
        """Mean loss of the held-out runs."""
        return float(np.mean([r["eval_loss"] for r in self.held]))

    @property
    def budget(self) -> float:
        """FLOPs of a held-out run."""
        return max(r["flops"] for r in self.rows)


def conclude(ladder: Ladder, rows: list[dict], folder: epath.Path) -> Law:
    """Fit, prediction against what was measured, table, files in the folder."""
    fit, draws, held = fitted(rows)
    print("\n" + fit.report())
    prediction = scaling.predict(fit, inputs(held), draws)
    rms = float(np.sqrt(np.mean(fit.residuals() ** 2)))
    print(f"\nrms log residual {rms:.4f} over {fit.n} runs")
    tests, mixer = [], rows[0]["mixer"]
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
    found = dict(fit=json.loads(fit.to_json()), rms_log_residual=rms, held_out=tests, status=fit.status.value,
                 reason=fit.reason, design=ladder.design, seed=ladder.seed, mixer=mixer)  # fmt: skip
    replace_text(folder / "fit.json", json.dumps(found, indent=1) + "\n")
    plot(folder / "ladder.png", mixer, fit, draws, rows, tests)
    print(f"\nwrote {folder / 'runs.csv'}, fit.json, ladder.png")
    return Law(mixer, rows, held, fit, draws)
