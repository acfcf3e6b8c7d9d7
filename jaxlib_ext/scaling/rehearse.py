"""A design tried on runs that are already there: which of them it would have done, and how well it would have ended.

Begins with the cheapest runs, fits, lets `next_runs` spend a share of what is left, fits again, until the budget is
spent. The same loop with training in place of looking up is how a design is used.

source: Li et al. 2026, arXiv 2604.22753: 2.5 runs a parameter to begin with, gain over cost^0.4
departs: several runs between two fits instead of one; the fit alone while it converges, else rivals beside it
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .data import Data
from .design import next_runs
from .fit import Fit, fit, unit_free
from .law import Law, centred, named
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
    """Rows of the `count` cheapest runs within a fifth of the budget, but `least` different ones within all of it,
    and the cheapest at three values of each input within two fifths.

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
    for k in inputs:  # a law says nothing of an input that all runs share
        for value in np.unique(data.x[k])[:3]:
            here = np.flatnonzero(data.x[k] == value)
            i = int(here[np.argmin(cost[here])])
            if i not in rows and len(np.unique(data.x[k][rows])) < 3 and spent + cost[i] <= 0.4 * budget:
                rows.append(i)
                spent += cost[i]
    if len(seen) < least:
        raise ValueError(f"the budget {budget:g} pays for {len(seen)} different runs; the law needs {least}")
    return rows


def _rivals(got: Fit, **options: Any) -> list[Fit]:
    """Other readings of runs that do not hold the law: its exponents set low and high in the ranges that starts come
    from, the rest fitted. Where a parameter ran away the law's slope by it is 0, and only rivals show what it hides."""
    ranges = got.law.ranges(got.z(), got.data.y)
    plain = [k for k in ranges if unit_free(got.law, (k,)) and k not in got.fixed] if centred(got.law) else []
    if not plain or not set(got.problem.free) - set(plain):
        return []
    at = lambda share: {k: ranges[k][0] + share * (ranges[k][1] - ranges[k][0]) for k in plain}
    held = lambda share: {**options, "fixed": {**got.fixed, **at(share)}}
    return [fit(got.law, got.data, got.loss, **held(share)) for share in (0.2, 0.5)]


def _sound(got: Fit, places: Sequence[Mapping[str, Any] | None]) -> bool:
    """Whether the design can use a fit: everywhere a number, and one with a logarithm where the loss takes it."""
    values = np.concatenate([got.predict(x) for x in places])
    return bool(np.all(np.isfinite(got.u)) and np.all(np.isfinite(values))
                and (got.loss.space != "log" or np.all(values > 0)))  # fmt: skip


def rehearse(
    law: Law | str,
    data: Data,
    cost: Any,
    budget: float,
    target: Mapping[str, Any] | None = None,
    kind: str = "target",
    loss: Loss | None = None,
    rounds: int = 9,
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
        share = (budget - spent) / 2 ** max(rounds - len(at), 0)  # small steps while the law is hardly known
        share = max(share, float(cost[affordable].min()))
        x = {k: data.x[k][affordable] for k in law.inputs}
        rivals = [] if got.status == "converged" else _rivals(got, **options)
        rivals = [f for f in rivals if _sound(f, (None, x, *([target] if target else ())))]
        weights = [2.0] + [1.0] * len(rivals)
        more = next_runs([got, *rivals], x, cost[affordable], share, target, kind, power, weights)
        rows += affordable[more.rows].tolist()
        spent += float(more.cost.sum())
