"""A design tried on runs that are already there: which of them it would have done, and how well it would have ended.

Begins with the cheapest runs, fits, lets `next_runs` spend a share of what is left, fits again, until the budget is
spent. The same loop with training in place of looking up is how a design is used.

source: Li et al. 2026, arXiv 2604.22753: 2.5 runs a parameter to begin with, gain over cost^0.4
departs: several runs between two fits instead of one; one basin, that of the best fit
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from .data import Data
from .design import next_runs
from .fit import Fit, fit
from .law import Law, named
from .laws import LAWS
from .losses import Loss


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """rows [k] of the data in the order in which they were done, the fit to them, what they cost, and after which
    number of runs the law was fitted."""

    rows: np.ndarray
    fit: Fit
    spent: float
    fitted_after: tuple[int, ...]


def cheapest(data: Data, inputs: tuple[str, ...], cost: np.ndarray, count: int, least: int, budget: float) -> list[int]:
    """Rows of the `count` cheapest runs within a fifth of the budget, but `least` different ones within all of it.

    Raises ValueError where the budget does not pay for those."""
    seen, rows, spent = set(), [], 0.0
    for i in np.argsort(cost, kind="stable"):
        kind = tuple(data.x[k][i] for k in inputs)
        enough = len(seen) >= least
        if spent + cost[i] > budget * (0.2 if enough else 1.0) or len(rows) >= count:
            if enough:
                break
            continue
        if kind in seen and not enough:
            continue
        seen.add(kind)
        rows.append(int(i))
        spent += cost[i]
    if len(seen) < least:
        raise ValueError(f"the budget {budget:g} pays for {len(seen)} different runs; the law needs {least}")
    return rows


def rehearse(
    law: Law | str,
    data: Data,
    cost: Any,
    budget: float,
    target: Mapping[str, Any] | None = None,
    kind: str = "target",
    loss: Loss | None = None,
    rounds: int = 6,
    power: float = 0.4,
    **options: Any,
) -> Rehearsal:
    """Spends `budget` on rows of data by `next_runs`, refitting about `rounds` times on the way.

    cost [n]. target, kind, power: as for `next_runs`; options go to `fit`. Raises ValueError where the budget does
    not pay for as many different runs as the law has parameters.
    """
    law = named(law, LAWS) if isinstance(law, str) else law
    cost = np.broadcast_to(np.asarray(cost, np.float64), data.y.shape)
    p = len(law.params)
    rows = cheapest(data, law.inputs, cost, round(2.5 * p), p, budget)
    spent, at = float(cost[rows].sum()), []
    while True:
        got = fit(law, data.take(rows, "rehearsed"), loss, **options)
        at.append(len(rows))
        left = np.setdiff1d(np.arange(len(data.y)), rows)
        affordable = left[cost[left] <= budget - spent]
        if not len(affordable):
            return Rehearsal(np.array(rows), got, spent, tuple(at))
        share = (budget - spent) if len(at) >= rounds else (budget - spent) / (rounds + 1 - len(at))
        share = max(share, float(cost[affordable].min()))
        x = {k: data.x[k][affordable] for k in law.inputs}
        more = next_runs(got, x, cost[affordable], share, target, kind, power)
        rows += affordable[more.rows].tolist()
        spent += float(more.cost.sum())
