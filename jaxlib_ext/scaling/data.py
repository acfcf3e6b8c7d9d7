"""The runs that a law is fitted to, checked before anything is computed."""

import dataclasses
import warnings
from typing import Any

import jax
import numpy as np


class DataWarning(UserWarning):
    """Something in the data that is allowed but is mostly a mistake."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Data:
    """One row a run (or a checkpoint of a run).

    x: input name -> [n], positive, in any units: parameters, tokens, FLOPs. y: [n], what the law predicts. w:
    [n] weights >= 0, all 1 by default; 0 leaves a row out. group: [n] labels; rows of one run share one, and
    they are resampled together. budget: [n] the compute budget that a row was planned for, for IsoFLOP fits.
    note: how N, D and FLOPs were counted and which runs were left out; printed with every report.

    >>> Data(x=dict(N=[1e6, 1e7]), y=[3.0, 2.5]).n
    2
    """

    x: dict[str, Any]
    y: Any
    w: Any = None
    group: Any = None
    budget: Any = None
    note: str = dataclasses.field(default="counting not stated", metadata=dict(static=True))

    def __post_init__(self):
        plain = (np.ndarray, list, tuple, float, int, jax.Array)
        if not all(isinstance(a, plain) for a in (self.y, *self.x.values())):
            return  # jax passes placeholders through pytrees
        put = lambda name, value: object.__setattr__(self, name, value)
        put("x", {k: np.atleast_1d(np.asarray(v, np.float64)) for k, v in self.x.items()})
        put("y", np.atleast_1d(np.asarray(self.y, np.float64)))
        for name in ("w", "budget"):
            value = getattr(self, name)
            put(name, None if value is None else np.atleast_1d(np.asarray(value, np.float64)))
        put("group", None if self.group is None else np.atleast_1d(np.asarray(self.group)))
        arrays = dict(self.x, w=self.w, group=self.group, budget=self.budget)
        for name, value in arrays.items():
            if value is not None and value.shape != self.y.shape:
                raise ValueError(f"column {name!r} has shape {value.shape}, y has {self.y.shape}")

    @property
    def n(self) -> int:
        """Number of rows with a weight above zero."""
        return len(self.y) if self.w is None else int(np.sum(self.w > 0))

    def weights(self) -> np.ndarray:
        """[n], ones where none were given."""
        return np.ones_like(self.y) if self.w is None else self.w

    def take(self, rows: Any, note: str = "") -> "Data":
        """The named rows (indices or a mask). What was left out goes into the note: nothing is dropped
        silently."""
        rows = np.asarray(rows)
        pick = lambda a: None if a is None else a[rows]
        columns = dict(w=pick(self.w), group=pick(self.group), budget=pick(self.budget))
        out = Data({k: v[rows] for k, v in self.x.items()}, self.y[rows], **columns)
        left = len(self.y) - len(out.y)
        said = f"{left} of {len(self.y)} rows left out{': ' if note else ''}{note}"
        return dataclasses.replace(out, note=f"{self.note}; {said}" if left else self.note)


def check(data: Data, inputs: tuple[str, ...], log: bool) -> None:
    """Raises on what cannot be fitted, with the column and the row; warns of what is mostly a mistake.

    inputs: columns that the law reads. log: residuals are in the log, so y must be positive.
    """
    missing = [k for k in inputs if k not in data.x]
    if missing:
        raise ValueError(f"the law reads column {missing[0]!r}; the data has {', '.join(data.x) or 'none'}")
    for name, column in {**{k: data.x[k] for k in inputs}, "y": data.y, "w": data.weights()}.items():
        bad = ~np.isfinite(column)
        i = int(np.argmax(bad))
        if bad.any():
            raise ValueError(f"column {name!r}, row {i}: {column[i]} is not a finite number")
        low = column < 0 if name == "w" else column <= 0
        if low.any() and (name != "y" or log):
            i, hint = int(np.argmax(low)), '; use a loss with space="raw"' if name == "y" else ""
            raise ValueError(f"column {name!r}, row {i}: {column[i]:g} is not positive{hint}")
    for text in suspicions(data, inputs):
        warnings.warn(text, DataWarning, stacklevel=3)


def suspicions(data: Data, inputs: tuple[str, ...]) -> list[str]:
    """Repeated rows and mixed units, one line each."""
    out = []
    rows = np.stack([data.x[k] for k in inputs] + [data.y], 1)
    _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        i, more = first[np.argmax(counts > 1)], int(np.sum(counts - 1))
        out.append(f"duplicated runs: {more} rows repeat another exactly, the first is row {i}")
    for k in inputs:
        order = np.argsort(data.x[k])
        gap = np.diff(np.log10(data.x[k][order]))
        if len(gap) and gap.max() > 4:
            i = int(np.argmax(gap))
            row = order[i] if i + 1 <= len(order) / 2 else order[i + 1]
            where = f"look at row {row} ({data.x[k][row]:g})"
            out.append(f"mixed units: column {k!r} jumps by a factor of 1e{gap[i]:.1f}; {where}")
    return out
