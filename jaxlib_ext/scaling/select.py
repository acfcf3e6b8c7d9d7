"""Which law: information criterion, cross-validation and, what counts, extrapolation to held-out large
runs."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .data import Data, DataWarning
from .fit import Fit, fit
from .law import Law
from .losses import Loss
from .predict import distance
from .report import law_text

Split = Callable[[Data], np.ndarray]  # data -> mask of the rows held out


def compute(data: Data) -> np.ndarray:
    """Training compute of each row, [n]: column C, or 6 N D, or the product of all inputs, which orders runs
    too."""
    if "C" in data.x:
        return data.x["C"]
    if {"N", "D"} <= set(data.x):
        return 6 * data.x["N"] * data.x["D"]
    return np.prod(np.stack(list(data.x.values())), 0)


def by_compute(share: float = 0.1) -> Split:
    """Holds out the rows with the most compute, at least one. What a law is for is to speak of these."""
    if not 0 < share < 1:
        raise ValueError(f"the share held out lies between 0 and 1, not {share}")

    def split(data: Data) -> np.ndarray:
        c = compute(data)
        return c >= np.sort(c)[::-1][max(1, round(share * len(c))) - 1]

    return split


@dataclasses.dataclass(frozen=True)
class Score:
    """Errors on held-out rows. rmse of log y, or of y where the loss counts in raw space; r2 of y; error:
    mean relative.

    distance: the farthest held-out row outside the training rows, in log ranges."""

    law: str
    rmse: float
    r2: float
    error: float
    n: int
    distance: float
    status: str


def score(law: Law | str, data: Data, split: Split | np.ndarray, loss: Loss | None = None, **options: Any) -> Score:
    """Fits without the rows that split holds out and judges on them. split: `by_compute(...)`, or a mask [n].

    Raises ValueError where nothing is held out; else as `fit`.
    """
    held = np.asarray(split(data) if callable(split) else split, bool) & (data.weights() > 0)
    if not held.any() or held.all():
        raise ValueError(f"the split holds out {held.sum()} of {len(held)} rows")
    got = fit(law, dataclasses.replace(data, w=data.weights() * ~held), loss, **options)
    x, y = {k: v[held] for k, v in data.x.items()}, data.y[held]
    value = got.predict(x)
    rmse = _rmse(got, y, value)
    spread = float(np.sum((y - y.mean()) ** 2))
    r2 = 1 - float(np.sum((y - value) ** 2)) / spread if spread > 0 else float("nan")
    far = float(np.max(distance(got, x)))
    return Score(law_text(got.law), rmse, r2, float(np.mean(np.abs(value / y - 1))), len(y), far, got.status.value)


def holdout(got: Fit) -> Score | None:
    """The fit's own hold-out, as `Fit.holdout` gives it."""
    options = dict(starts=got.settings["starts"], fixed=got.fixed, bounds=got.bounds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # said when the fit was made
            return score(got.law, got.data, by_compute(0.1), got.loss, **options)
    except ValueError:
        return None


def holdout_line(got: Fit) -> str:
    """The hold-out beside an extrapolation, in a line."""
    s = got.holdout
    if s is None:
        return "no hold-out: too few runs to leave some out"
    return f"held out: the {s.n} runs with most compute, {s.distance:.2f} log ranges outside, missed by {s.error:.2%}"


def _rmse(got: Fit, y: np.ndarray, value: np.ndarray) -> float:
    if got.loss.space == "raw":
        return float(np.sqrt(np.mean((y - value) ** 2)))
    return float(np.sqrt(np.mean(np.log(y / value) ** 2))) if np.all(value > 0) else float("inf")


def aicc(got: Fit) -> float:
    """Akaike's criterion with the small-sample term; lower is better, and only fits of the same runs and loss
    compare.

    The noise is a parameter too. Least squares counts as normal noise, robust losses as Laplace noise.
    """
    n, k = got.n, got.problem.size + 1
    if n <= k + 1:
        return float("inf")
    w, r = got.data.weights(), got.residuals()
    w = w * n / w.sum()
    if got.loss.kind == "lsq":
        fitness = n * np.log(np.sum(w * r * r) / n)
    else:
        fitness = 2 * n * np.log(2 * np.sum(w * np.abs(r)) / n) + 2 * n
    return float(fitness + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def kfold(law: Law | str, data: Data, k: int = 5, key: jax.Array | None = None, loss: Loss | None = None, **options):
    """Root mean square error over k held-out parts (rows of one `Data.group` stay together). One program
    serves all."""
    seed = np.asarray(jax.random.key_data(jax.random.key(3) if key is None else key)).ravel().tolist()
    codes = np.arange(len(data.y)) if data.group is None else np.unique(data.group, return_inverse=True)[1]
    part = np.random.default_rng(seed).permutation(codes.max() + 1)[codes] % k
    scores = [score(law, data, part == i, loss, **options) for i in range(k)]
    return float(np.sqrt(sum(s.n * s.rmse**2 for s in scores) / sum(s.n for s in scores)))


@dataclasses.dataclass(frozen=True)
class Choice:
    """Laws, the best first: (name, value of the criterion, status), and the criterion's name."""

    rows: tuple[tuple[str, float, str], ...]
    by: str

    @property
    def best(self) -> str:
        return self.rows[0][0]

    def __str__(self):
        return "\n".join([f"{'law':24} {self.by:>14}  status"] + [f"{a:24} {v:14.6g}  {s}" for a, v, s in self.rows])


def select(
    laws: Sequence[Law | str],
    data: Data,
    by: str = "extrapolate",
    split: Split | np.ndarray | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Choice:
    """Orders laws by "extrapolate" (rmse on split, the tenth with the most compute by default), "kfold" or
    "aicc".

    A criterion that looks only at the runs themselves knows nothing of extrapolation; prefer "extrapolate"
    where a law is to be used beyond them. Raises ValueError for an unknown criterion.
    """
    if by not in ("extrapolate", "kfold", "aicc"):
        raise ValueError(f'laws are chosen by "extrapolate", "kfold" or "aicc", not {by!r}')
    rows = []
    for law in laws:
        if by == "extrapolate":
            s = score(law, data, by_compute(0.1) if split is None else split, loss, **options)
            rows.append((s.law, s.rmse, s.status))
            continue
        got = fit(law, data, loss, **options)
        value = aicc(got) if by == "aicc" else kfold(law, data, loss=loss, **options)
        rows.append((law_text(got.law), value, got.status.value))
    return Choice(tuple(sorted(rows, key=lambda r: (not np.isfinite(r[1]), r[1]))), by)
