"""Compute-optimal size, tokens and loss for any law in two inputs and any FLOP model, with joint
intervals."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .fit import Fit
from .law import Law, predict
from .predict import distance
from .resample import Draws, limits

Array = jax.Array
Flops = Callable[[Array, Array], Array]  # (N, D) -> training FLOPs; increasing in D

REACH = 25.0  # sizes are searched over e^-25 to e^25 times the middle of the runs


def six_nd(N: Array, D: Array) -> Array:
    """Training FLOPs 6 N D: N parameters that every token is multiplied with, D tokens; attention is left
    out.

    source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1.
    """
    return 6 * N * D


@dataclasses.dataclass(frozen=True)
class Plan:
    """Compute-optimal N, D, loss and D / N for budgets C, each [c], in the data's units.

    low, high: name -> [c], `limits` from joint draws, or None without draws. draws: name -> [R, c].
    open_end [c]: share of draws (of the fit itself without draws) whose best size lies at the edge of the
    search: the law then has no optimum, and the limits say so by reaching 0 or infinity. distance [c]: see
    `Prediction`.
    """

    C: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    ratio: np.ndarray
    low: dict[str, np.ndarray] | None
    high: dict[str, np.ndarray] | None
    draws: dict[str, np.ndarray] | None
    open_end: np.ndarray
    distance: np.ndarray
    level: float
    fit: Fit = dataclasses.field(repr=False)

    @property
    def status(self) -> str:
        return self.fit.status.value

    @property
    def holdout(self) -> Any:
        """The fit's `holdout`, to be read beside `distance`."""
        return self.fit.holdout

    def __str__(self):
        from .select import holdout_line

        lines = []
        for i, c in enumerate(self.C):
            lines.append(f"C = {c:.4g}, {self.distance[i]:.2f} log ranges outside the runs")
            for name in ("N", "D", "loss", "ratio"):
                ends, label = "", "D / N" if name == "ratio" else name
                if self.low and self.high:
                    ends = f"  [{self.low[name][i]:.5g}, {self.high[name][i]:.5g}]"
                lines.append(f"  {label:6} {getattr(self, name)[i]:12.6g}{ends}")
            if self.open_end[i] > 0:
                lines.append(f"  no optimum within reach in {self.open_end[i]:.1%} of the draws")
        note = [holdout_line(self.fit)] if np.any(self.distance > 0) else []
        note += [] if self.status == "converged" else [f"the fit is not to be trusted: {self.status}"]
        return "\n".join([*lines, *([f"{self.level:.0%} limits"] if self.low else []), *note])


def tokens_for(flops: Flops, log_c: Array, n: Array) -> Array:
    """ln D at which flops(e^n, D) = C, by Newton's method in logs; not a number where even few tokens cost
    more."""
    f = lambda d: jnp.log(flops(jnp.exp(n), jnp.exp(d)))
    better = lambda _, d: d - jnp.clip((f(d) - log_c) / jax.grad(f)(d), -10, 10)
    d = jax.lax.fori_loop(0, 12, better, log_c - f(jnp.zeros_like(n)))
    return jnp.where(jnp.abs(f(d) - log_c) < 1e-9, d, jnp.nan)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _optimum(law: Law, flops: Flops, theta, log_c, middle, others):
    """theta: name -> [R]; log_c [c]; others: the law's further inputs as logs. Returns ln N, ln D, y, edge,
    [R, c]."""
    inputs = lambda n, d: {"N": n, "D": d, **{k: jnp.broadcast_to(v, n.shape) for k, v in others.items()}}
    grid = middle + jnp.linspace(-REACH, REACH, 401)

    def budget(p, c):
        at = jax.vmap(lambda n: tokens_for(flops, c, n))(grid)
        y = law.predict(p, inputs(grid, at))
        y = jnp.where(jnp.isfinite(y), y, jnp.inf)
        best = jnp.argmin(y)
        left, right = jnp.maximum(best - 1, 0), jnp.minimum(best + 1, len(grid) - 1)
        edge = ~(jnp.isfinite(y[left]) & jnp.isfinite(y[right])) | (left == best) | (right == best)

        def halve(_, ends):
            lo, hi = ends
            middle = (lo + hi) / 2
            d = tokens_for(flops, c, middle)
            by_n, by_d = jax.grad(lambda n, d: law.predict(p, inputs(n, d)), (0, 1))(middle, d)
            cost_n, cost_d = jax.grad(lambda n, d: jnp.log(flops(jnp.exp(n), jnp.exp(d))), (0, 1))(middle, d)
            falling = by_n - by_d * cost_n / cost_d < 0  # along the line of equal cost
            return jnp.where(falling, middle, lo), jnp.where(falling, hi, middle)

        lo, hi = jax.lax.fori_loop(0, 50, halve, (grid[left], grid[right]))
        n = jnp.where(edge, grid[best], (lo + hi) / 2)
        d = tokens_for(flops, c, n)
        side = jnp.where(edge, jnp.where(best > len(grid) // 2, 1, -1), 0)
        return n, d, law.predict(p, inputs(n, d)), side

    return jax.lax.map(lambda p: jax.vmap(lambda c: budget(p, c))(log_c), theta, batch_size=64)


def optimum_of(
    law: Law,
    theta: Mapping[str, Any],
    C: Any,
    middle: float,
    flops: Flops = six_nd,
    others: Mapping[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """Optimal N, D, loss, ratio and side (-1, 1 at an edge of the search), each [R, c], for parameters name
    -> [R].

    middle: ln N to search about.
    """
    with jax.enable_x64(True):
        theta = {k: jnp.atleast_1d(jnp.asarray(v, jnp.float64)) for k, v in theta.items()}
        log_c = jnp.log(jnp.atleast_1d(jnp.asarray(C, jnp.float64)))
        logs = {k: jnp.log(jnp.asarray(v, jnp.float64)) for k, v in (others or {}).items()}
        out = _optimum(law, flops, theta, log_c, jnp.asarray(middle, jnp.float64), logs)
        n, d, y, side = (np.asarray(a) for a in out)
    open_to = lambda value, below, above: np.where(side == 0, value, np.where(side < 0, below, above))
    N, D = open_to(np.exp(n), 0.0, np.inf), open_to(np.exp(d), np.inf, 0.0)
    return dict(N=N, D=D, loss=y, ratio=open_to(np.exp(d - n), np.inf, 0.0), side=side)


def optimal(
    fit: Fit,
    C: Any,
    flops: Flops = six_nd,
    draws: Draws | None = None,
    level: float = 0.95,
    others: Mapping[str, float] | None = None,
) -> Plan:
    """Compute-optimal N and D for budgets C under a law that reads "N" and "D".

    C: scalar or [c], in the unit of flops(N, D) at the data's units of N and D. draws: from `bootstrap`;
    limits come from joint draws, so N, D and their ratio belong together. others: values of the law's further
    inputs. Raises ValueError where the law lacks N or D, or where a further input has no value.
    """
    others = dict(others or {})
    lacking = [k for k in ("N", "D") if k not in fit.law.inputs]
    if lacking:
        raise ValueError(f"an optimum needs a law in N and D; this one reads {', '.join(fit.law.inputs)}")
    lacking = [k for k in fit.law.inputs if k not in ("N", "D", *others)]
    if lacking:
        raise ValueError(f"the law also reads {lacking[0]!r}: give it in others")
    C = np.atleast_1d(np.asarray(C, np.float64))
    if not np.all(C > 0):
        raise ValueError(f"a budget must be positive, not {C.min():g}")
    middle = float(np.mean(np.log(fit.data.x["N"])))
    theta = {k: np.array([v]) for k, v in fit.theta.items()}
    if draws is not None:
        theta = {k: np.concatenate([theta[k], v]) for k, v in draws.theta.items()}
    found = optimum_of(fit.law, theta, C, middle, flops, others)
    side = found.pop("side")
    point = {k: v[0] for k, v in found.items()}
    low = high = joint = None
    open_end = np.mean(side[min(1, len(side) - 1) :] != 0, 0)
    if draws is not None:
        joint = {k: v[1:] for k, v in found.items()}
        ends = {k: limits(draws, v, point[k], level, bool(np.all(v >= 0))) for k, v in joint.items()}
        low, high = ({k: v[side] for k, v in ends.items()} for side in (0, 1))
    far = distance(fit, {"N": point["N"].clip(1e-300, 1e300), "D": point["D"].clip(1e-300, 1e300), **others})
    ends = dict(low=low, high=high, draws=joint, open_end=open_end, distance=far)
    return Plan(C, **point, **ends, level=level, fit=fit)


def closed_form(law: Law, theta: Mapping[str, float], C: float) -> dict[str, float]:
    """Optimal N, D and loss of the Chinchilla form under 6 N D, from the formula: a check on `optimal`.

    N = G (C / 6)^(beta / (alpha + beta)) with G = (alpha A / (beta B))^(1 / (alpha + beta)).
    source: Hoffmann et al. 2022, arXiv 2203.15556, equation 4.
    """
    alpha, beta = theta["alpha"], theta.get("beta", theta["alpha"])
    scale = (alpha * theta["A"] / (beta * theta["B"])) ** (1 / (alpha + beta))
    N = scale * (C / 6) ** (beta / (alpha + beta))
    D = C / 6 / N
    return dict(N=N, D=D, loss=float(predict(law, theta, dict(N=N, D=D))))
