"""Which runs to do next: greedy designs under a budget, for one fit or for several that disagree.

Each candidate x is worth the drop in a variance that it promises, from the fits' covariances S_k (basins with
weights w_k), linearised, plus what it would settle between the fits:

  target  mean over targets t of cov(t, x)^2 / (s^2 + var(x)), cov(t, x) = sum_k w_k J_k(t) S_k J_k(x)' +
  between fits V       the same with all candidates as targets D       log(1 + J S J' / s^2), the drop in the
  log volume of the parameters

divided by cost(x)^power. A run that is taken changes the covariances by one rank-one step before the next is
chosen. Before any run a coordinate has the standard deviation PRIOR, so that a direction in which the runs so far say
nothing counts as unknown; noise that few runs show is drawn towards NOISE.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .covariance import jacobian_of
from .fit import Fit
from .problem import Rows

KINDS = ("target", "V", "D")
PRIOR = 2.0  # of free coordinates: a factor e^2 in an amplitude, 2 in an exponent
NOISE, NOISE_RUNS = 0.01, 2  # a run's own noise, relative, and the number of runs that this guess counts for


@dataclasses.dataclass(frozen=True)
class Design:
    """Candidates taken, in order: rows [k], their x, score and cost; spent: their sum; the variance of the
    target before
    and after, mean over targets, in the space of the loss squared. worth [m], price [m]: score of every candidate
    before the first was taken, and its cost."""

    rows: np.ndarray
    x: dict[str, np.ndarray]
    score: np.ndarray
    cost: np.ndarray
    spent: float
    before: float
    after: float
    worth: np.ndarray
    price: np.ndarray

    def __str__(self):
        head = " ".join(f"{k:>12}" for k in self.x)
        body = [
            " ".join(f"{self.x[k][i]:12.5g}" for k in self.x) + f" {self.cost[i]:12.5g} {self.score[i]:12.4g}"
            for i in range(len(self.rows))
        ]
        ends = f"spent {self.spent:.5g}; target error {self.before**0.5:.4g} -> {self.after**0.5:.4g}"
        return "\n".join([f"{head} {'cost':>12} {'score':>12}", *body, ends])


def _jacobian(fit: Fit, x: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(value [m] in the space of the loss, its Jacobian by free coordinates [m, p])."""
    m = len(next(iter(x.values())))
    rows = Rows(fit.z(x), np.ones(m), np.ones(m), fit.fixed)
    with jax.enable_x64(True):
        j = -np.asarray(fit.problem.jacobian(jnp.asarray(fit.u[: fit.problem.size]), jax.tree.map(jnp.asarray, rows)))
    value = fit.predict(x)
    return (np.log(value) if fit.loss.space == "log" else value), j


def noise_of(fit: Fit) -> float:
    """Standard deviation of a run in the space of the loss, the fit's own where it has runs to tell."""
    guess = NOISE * (1.0 if fit.loss.space == "log" else float(np.median(np.abs(fit.data.y))))
    df = max(fit.df, 0)
    return float(np.sqrt((df * fit.noise() ** 2 + NOISE_RUNS * guess**2) / (df + NOISE_RUNS)))


def _known(fit: Fit) -> np.ndarray:
    """Covariance of the free coordinates [p, p] from the runs so far and the prior."""
    j, w = jacobian_of(fit), fit.data.weights()
    w = w * np.sum(w > 0) / np.sum(w)
    return np.linalg.inv(j.T @ (j * w[:, None]) / noise_of(fit) ** 2 + np.eye(j.shape[1]) / PRIOR**2)


def _valid(kind: str, target: Any) -> None:
    if kind not in KINDS:
        raise ValueError(f"design kinds are {', '.join(KINDS)}, not {kind!r}")
    if kind == "target" and target is None:
        raise ValueError('kind="target" needs a target: the inputs at which the law is wanted')


def next_runs(
    fits: Fit | Sequence[Fit],
    candidates: Mapping[str, Any],
    cost: Any,
    budget: float,
    target: Mapping[str, Any] | None = None,
    kind: str = "target",
    power: float = 0.4,
    weights: Sequence[float] | None = None,
    most: int | None = None,
) -> Design:
    """Chooses runs among candidates until the budget is spent.

    fits: one fit, or several of the same runs (laws, or local optima) with weights, equal by default.
    candidates: input name -> [m]; a candidate may be taken once. cost [m], in the unit of budget. target:
    input name -> [t], needed for kind "target". power: 0 ignores cost, 1 counts gain per cost; 0.4 is the
    authors' choice. Where the law misfits cheap runs 0 does better, since it takes fewer (RESULTS.md). most:
    limit on the number. Raises ValueError for an unknown kind, a missing target, a cost that is not positive,
    or a budget below every cost.
    """
    fits = [fits] if isinstance(fits, Fit) else list(fits)
    _valid(kind, target)
    x = {k: np.atleast_1d(np.asarray(v, np.float64)) for k, v in candidates.items()}
    cost = np.broadcast_to(np.asarray(cost, np.float64), next(iter(x.values())).shape)
    if not np.all(cost > 0):
        raise ValueError(f"costs must be positive, not {cost.min():g}")
    if budget < cost.min():
        raise ValueError(f"the budget {budget:g} is below the cheapest candidate, {cost.min():g}")
    to = (
        x if kind != "target" or target is None else {k: np.atleast_1d(np.asarray(v, float)) for k, v in target.items()}
    )
    w = np.full(len(fits), 1 / len(fits)) if weights is None else np.asarray(weights, float) / np.sum(weights)
    at, there = [_jacobian(f, x) for f in fits], [_jacobian(f, to) for f in fits]
    state = [_known(f) for f in fits]
    noise = [noise_of(f) ** 2 for f in fits]
    taken, scores, spent = [], [], 0.0
    free = np.ones(len(cost), bool)
    settled = 0.0
    gain, drop = _gains(kind, w, at, there, state, noise)
    before, worth = _variance(w, there, state), gain / cost**power
    while True:
        allowed = free & (cost <= budget - spent)
        if not allowed.any() or (most is not None and len(taken) >= most):
            break
        value = np.where(allowed, np.nan_to_num(gain, nan=0.0, posinf=0.0) / cost**power, -np.inf)
        i = int(np.argmax(value))
        taken.append(i)
        scores.append(value[i])
        spent, free[i] = spent + cost[i], False
        settled += drop[i]
        for k in range(len(fits)):
            v = state[k] @ at[k][1][i]
            state[k] = state[k] - np.outer(v, v) / (noise[k] + at[k][1][i] @ v)
        gain, drop = _gains(kind, w, at, there, state, noise, settled)
    rows = np.array(taken, int)
    after = max(_variance(w, there, state) - settled, 0.0)
    there = {k: v[rows] for k, v in x.items()}
    return Design(rows, there, np.array(scores), cost[rows], spent, before, after, worth, cost)


def _between(w, values):
    mean = sum(a * v for a, v in zip(w, values, strict=True))
    return [v - mean for v in values]


def _variance(w, there, state) -> float:
    """Mean over targets of the variance within and between fits."""
    inside = sum(a * np.sum((j @ s) * j, 1) for a, (_, j), s in zip(w, there, state, strict=True))
    apart = sum(a * d**2 for a, d in zip(w, _between(w, [v for v, _ in there]), strict=True))
    return float(np.mean(inside + apart))


def _gains(kind, w, at, there, state, noise, settled: float = 0.0):
    """(gain of each candidate [m], the part of it between fits [m]). What lies between fits can be settled
    only once."""
    within, cross, apart = 0.0, 0.0, 0.0
    logdet = 0.0
    d_at, d_to = _between(w, [v for v, _ in at]), _between(w, [v for v, _ in there])
    for k, a in enumerate(w):
        jx, jt, s = at[k][1], there[k][1], state[k]
        var = np.sum((jx @ s) * jx, 1)
        within = within + a * (var + noise[k])
        logdet = logdet + a * np.log1p(var / noise[k])
        cross = cross + a * (jt @ s @ jx.T)
        apart = apart + a * np.outer(d_to[k], d_at[k])
    if kind == "D":
        return logdet, np.zeros_like(logdet)
    spread = sum(a * d**2 for a, d in zip(w, d_at, strict=True))
    drop = np.mean(apart**2, 0) / (within + spread)
    left = max(float(np.mean(sum(a * d**2 for a, d in zip(w, d_to, strict=True)))) - settled, 0.0)
    drop = np.minimum(drop, left)
    return np.mean(cross**2, 0) / within + drop, drop
