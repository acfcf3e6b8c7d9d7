"""The best hyperparameters of every size from sweeps, interpolated: the lowest run of a grid is only the grid's.

In each group of runs, log loss is a quadratic in the logs of the hyperparameters near its minimum, fitted by
least squares to the runs whose loss is at most `near` above the lowest; its minimum is the optimum. Groups
without a proper minimum inside their runs get a status and are left out of later fits, never silently.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Optima:
    """One entry a group, [g]: its keys (N, D, ...), the optimum of each hyperparameter, the loss there, runs used.

    se: hyperparameter -> standard error of its log. status: "ok", "few" runs, "edge" (the minimum lies outside
    the runs used) or "curvature" (the quadratic has none); values are not numbers unless it is ok.
    """

    keys: dict[str, np.ndarray]
    best: dict[str, np.ndarray]
    se: dict[str, np.ndarray]
    loss: np.ndarray
    runs: np.ndarray
    status: tuple[str, ...]

    @property
    def ok(self) -> np.ndarray:
        return np.array([s == "ok" for s in self.status])

    def __str__(self):
        names = [*self.keys, *self.best]
        columns = [*self.keys.values(), *self.best.values()]
        head = " ".join(f"{k:>11}" for k in names) + f" {'loss':>9} {'runs':>5}  status"
        rows = [
            " ".join(f"{c[i]:11.4g}" for c in columns) + f" {self.loss[i]:9.5f} {int(self.runs[i]):5d}  {s}"
            for i, s in enumerate(self.status)
        ]
        return "\n".join([head, *rows])


def optima(keys: Mapping[str, Any], knobs: Mapping[str, Any], loss: Any, near: float = 0.01) -> Optima:
    """Interpolated optima of every group of runs that share their keys.

    keys: name -> [n], such as N and D; knobs: name -> [n], positive, such as lr and batch; loss [n]. near: runs
    count whose loss is at most this share above the group's lowest; a wide window is biased by the steep walls
    of a valley, a narrow one holds few runs. Raises ValueError for columns of unequal length or not positive.
    """
    keys, knobs = ({k: np.asarray(v, np.float64) for k, v in d.items()} for d in (keys, knobs))
    loss = np.asarray(loss, np.float64)
    for name, column in {**keys, **knobs, "loss": loss}.items():
        if column.shape != loss.shape:
            raise ValueError(f"column {name!r} has shape {column.shape}, loss has {loss.shape}")
        if not np.all(column > 0):
            raise ValueError(f"column {name!r}, row {int(np.argmin(column > 0))}: not positive")
    groups, member = np.unique(np.stack(list(keys.values()), 1), axis=0, return_inverse=True)
    member = member.ravel()
    found = []
    for g in range(len(groups)):
        rows = np.flatnonzero(member == g)
        rows = rows[loss[rows] <= loss[rows].min() * (1 + near)]
        x = np.log(np.stack([v[rows] for v in knobs.values()], 1))
        found.append((*_minimum(x, np.log(loss[rows])), len(rows)))
    at, se, low, status, runs = (list(v) for v in zip(*found, strict=True))
    best = {k: np.exp([a[i] for a in at]) for i, k in enumerate(knobs)}
    errors = {k: np.array([s[i] for s in se]) for i, k in enumerate(knobs)}
    names = {k: groups[:, i] for i, k in enumerate(keys)}
    return Optima(names, best, errors, np.exp(low), np.array(runs), tuple(status))


def _minimum(x: np.ndarray, y: np.ndarray):
    """x [n, k] logs of knobs, y [n] log loss -> (log optimum [k], its standard error [k], log loss, status)."""
    n, k = x.shape
    none = np.full(k, np.nan)
    pairs = [(i, j) for i in range(k) for j in range(i, k)]
    if n < 1 + k + len(pairs) + 1 or any(len(np.unique(x[:, i])) < 3 for i in range(k)):
        return none, none, np.nan, "few"
    middle, spread = x.mean(0), x.std(0)
    u = (x - middle) / spread
    basis = np.concatenate([np.ones((n, 1)), u, np.stack([u[:, i] * u[:, j] for i, j in pairs], 1)], 1)
    c, _, rank, _ = np.linalg.lstsq(basis, y, rcond=None)
    if rank < basis.shape[1]:
        return none, none, np.nan, "few"
    bend = np.zeros((k, k))
    for value, (i, j) in zip(c[1 + k :], pairs, strict=True):
        bend[i, j] += value
        bend[j, i] += value
    if np.linalg.eigvalsh(bend)[0] <= 0:
        return none, none, np.nan, "curvature"
    at = -np.linalg.solve(bend, c[1 : 1 + k])
    if np.any(at < u.min(0)) or np.any(at > u.max(0)):
        return none, none, np.nan, "edge"
    # d at / d c by the implicit function theorem: bend d_at = -(d slope + d bend at).
    rate = np.zeros((k, basis.shape[1]))
    rate[:, 1 : 1 + k] = np.eye(k)
    for m, (i, j) in enumerate(pairs):
        rate[i, 1 + k + m] += at[j]
        rate[j, 1 + k + m] += at[i]
    rate = -np.linalg.solve(bend, rate)
    noise = np.sum((y - basis @ c) ** 2) / (n - basis.shape[1])
    covariance = noise * rate @ np.linalg.inv(basis.T @ basis) @ rate.T
    low = c[0] + c[1 : 1 + k] @ at / 2
    return middle + spread * at, spread * np.sqrt(np.diagonal(covariance)), float(low), "ok"
