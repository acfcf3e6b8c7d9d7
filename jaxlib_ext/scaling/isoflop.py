"""Cross-checks that need no law: minima of loss against size at equal compute, and the envelope of training
curves.

A parabola in log size is biased in its prefactor by the width of the grid and by unequal exponents, and in
its exponent when the grid drifts off the minimum; the surface fit has neither fault. Budgets without a proper
minimum inside their grid get a status and are left out of the trend, never silently.
"""

import dataclasses
from typing import Any

import numpy as np

from .data import Data

KINDS = ("parabola", "akima")


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """One entry a budget: C, best size N, tokens D, loss, number of runs, status ("ok", "few", "edge",
    "curvature").

    N, D and loss are not numbers unless the status is ok. a, b: slopes of log N and log D over log C through
    the ok budgets, with their prefactors; not numbers with fewer than two.
    """

    C: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    runs: np.ndarray
    status: tuple[str, ...]
    kind: str
    a: float
    b: float
    scale_N: float
    scale_D: float

    def size(self, C: Any) -> np.ndarray:
        """Best N at other budgets, by the power law through the minima."""
        return self.scale_N * np.asarray(C, np.float64) ** self.a

    def __str__(self):
        rows = zip(self.C, self.N, self.D, self.loss, self.runs, self.status, strict=True)
        body = [f"{c:10.3g} {n:12.5g} {d:12.5g} {l:9.5f} {int(r):5d}  {s}" for c, n, d, l, r, s in rows]
        head = f"{'C':>10} {'N':>12} {'D':>12} {'loss':>9} {'runs':>5}  status ({self.kind})"
        return "\n".join([head, *body, f"N ~ C^{self.a:.4f}, D ~ C^{self.b:.4f}"])


def isoflop(data: Data, kind: str = "parabola") -> IsoFlop:
    """Minimum of loss over log N in each budget. `Data.budget` tells the groups; without it 6 N D, to three
    digits.

    kind: "parabola" by least squares, or "akima", a spline through the runs that overshoots less. D is budget
    / (6 N) where no run says otherwise: the geometric mean of D N / budget over the runs. Raises ValueError
    for an unknown kind or without columns N and D.
    """
    if kind not in KINDS:
        raise ValueError(f"isoflop kinds are {', '.join(KINDS)}, not {kind!r}")
    for k in ("N", "D"):
        if k not in data.x:
            raise ValueError(f"isoflop needs column {k!r}; the data has {', '.join(data.x)}")
    N, D = data.x["N"], data.x["D"]
    budget = data.budget
    if budget is None:
        budget = np.array([float(f"{c:.2e}") for c in 6 * N * D])
    used = data.weights() > 0
    C = np.unique(budget[used])
    found = []
    for c in C:
        rows = used & (budget == c)
        n, y = np.log(N[rows]), data.y[rows]
        product = float(np.exp(np.mean(np.log(N[rows] * D[rows]))))
        best, loss, status = _parabola(n, y) if kind == "parabola" else _akima_minimum(n, y)
        size = np.exp(best) if status == "ok" else np.nan
        found.append((size, product / size, loss if status == "ok" else np.nan, rows.sum(), status))
    size, tokens, loss, runs, status = zip(*found, strict=True)
    size, tokens = np.array(size), np.array(tokens)
    (a, scale_n), (b, scale_d) = _trend(C, size), _trend(C, tokens)
    return IsoFlop(C, size, tokens, np.array(loss), np.array(runs), tuple(status), kind, a, b, scale_n, scale_d)


def _trend(C: np.ndarray, v: np.ndarray) -> tuple[float, float]:
    good = np.isfinite(v)
    if good.sum() < 2:
        return float("nan"), float("nan")
    slope, level = np.polyfit(np.log(C[good]), np.log(v[good]), 1)
    return float(slope), float(np.exp(level))


def _parabola(n: np.ndarray, y: np.ndarray) -> tuple[float, float, str]:
    """(log N, loss, status) at the minimum."""
    if len(np.unique(n)) < 3:
        return np.nan, np.nan, "few"
    middle = n.mean()
    bend, slope, level = np.polyfit(n - middle, y, 2)
    if bend <= 0:
        return np.nan, np.nan, "curvature"
    at = -slope / (2 * bend)
    if not n.min() - middle <= at <= n.max() - middle:
        return np.nan, np.nan, "edge"
    return middle + at, level - slope**2 / (4 * bend), "ok"


def akima(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Akima's spline through (x, y), x rising, at least 5 points, at the points `at` inside.

    source: Akima 1970, J. ACM 17, 589.
    """
    m = np.diff(y) / np.diff(x)
    m = np.concatenate([[3 * m[0] - 2 * m[1], 2 * m[0] - m[1]], m, [2 * m[-1] - m[-2], 3 * m[-1] - 2 * m[-2]]])
    w = np.abs(np.diff(m))
    right, left = w[2:], w[:-2]
    total = right + left
    flat = total < 1e-9 * max(total.max(), 1e-300)
    t = np.where(flat, (m[1:-2] + m[2:-1]) / 2, (right * m[1:-2] + left * m[2:-1]) / np.where(flat, 1, total))
    i = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    h, s = x[i + 1] - x[i], (at - x[i]) / (x[i + 1] - x[i])
    basis = (1 + 2 * s) * (1 - s) ** 2, s * (1 - s) ** 2, s**2 * (3 - 2 * s), s**2 * (s - 1)
    return basis[0] * y[i] + basis[1] * h * t[i] + basis[2] * y[i + 1] + basis[3] * h * t[i + 1]


def _akima_minimum(n: np.ndarray, y: np.ndarray) -> tuple[float, float, str]:
    sizes = np.unique(n)
    if len(sizes) < 5:
        return np.nan, np.nan, "few"
    means = np.array([y[n == s].mean() for s in sizes])  # repeated sizes count as their mean
    fine = np.linspace(sizes[0], sizes[-1], 20001)
    curve = akima(sizes, means, fine)
    i = int(np.argmin(curve))
    if i in (0, len(fine) - 1):
        return np.nan, np.nan, "edge"
    return float(fine[i]), float(curve[i]), "ok"


@dataclasses.dataclass(frozen=True)
class Envelope:
    """The lowest loss at each compute C over all training curves, and the size N of the run that has it, each
    [m].

    edge [m]: the run is the smallest or largest there, so the true best size may lie outside."""

    C: np.ndarray
    N: np.ndarray
    loss: np.ndarray
    edge: np.ndarray


def envelope(data: Data, points: int = 100) -> Envelope:
    """From checkpoints: `Data.group` names the run, x has N and either C or D (then C = 6 N D). Curves are
    read between
    checkpoints by straight lines in log C, and only where they were trained.

    source: Hoffmann et al. 2022, arXiv 2203.15556, approach 1.
    """
    if data.group is None or "N" not in data.x:
        raise ValueError("an envelope needs Data.group (the run of each checkpoint) and column 'N'")
    C = data.x["C"] if "C" in data.x else 6 * data.x["N"] * data.x["D"]
    grid = np.geomspace(C.min(), C.max(), points)
    runs = np.unique(data.group)
    curves, sizes = [], []
    for run in runs:
        rows = np.flatnonzero(data.group == run)
        rows = rows[np.argsort(C[rows])]
        curve = np.interp(np.log(grid), np.log(C[rows]), data.y[rows], left=np.nan, right=np.nan)
        curves.append(curve)
        sizes.append(data.x["N"][rows[0]])
    curves, sizes = np.array(curves), np.array(sizes)
    some = np.isfinite(curves).any(0)
    grid, curves = grid[some], curves[:, some]
    best = np.nanargmin(curves, 0)
    here = np.where(np.isfinite(curves), sizes[:, None], np.nan)
    edge = (sizes[best] == np.nanmin(here, 0)) | (sizes[best] == np.nanmax(here, 0))
    return Envelope(grid, sizes[best], curves[best, np.arange(len(grid))], edge)
