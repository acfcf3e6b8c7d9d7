"""Profile likelihood: how far a parameter can move while all others follow. Sees bends and open ends that a
standard
error does not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from .covariance import _scores, cov_free
from .fit import Fit, centre_of, problem_of
from .law import centred, from_free, to_free
from .problem import Problem, Rows, padded
from .student import t_quantile

REACH = 60.0  # the parameter is followed this many standard errors out, then the side is called open


@dataclasses.dataclass(frozen=True)
class Profile:
    """values [m]: the parameter, in the data's units; statistic [m]: what it costs, to be compared with
    `limit`.

    low, high: where the statistic crosses the limit; 0 or an infinity where it never does: that side is
    unbounded.
    """

    name: str
    best: float
    low: float
    high: float
    level: float
    values: np.ndarray
    statistic: np.ndarray
    limit: float

    def __str__(self):
        end = lambda v: f"{v:.6g}" if np.isfinite(v) and v != 0 else "unbounded"
        return f"{self.name} = {self.best:.6g}, {self.level:.0%} profile [{end(self.low)}, {end(self.high)}]"


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _follow(problem: Problem, name: str, domain, u0, rows: Rows, path, widths):
    """Refits along path [m] of the held coordinate, each from its neighbour's optimum: values of the
    objective [m]."""

    def step(u, at):
        here = rows._replace(held={**rows.held, name: from_free(domain, at)})
        u, value, _, _ = problem.solve(u, here, widths, 120, 20)
        return u[: problem.size], value

    return jax.lax.scan(step, u0, path)[1]


def profile(fit: Fit, name: str, level: float = 0.95, points: int = 24) -> Profile:
    """The profile of one parameter, `points` on each side.

    The statistic is twice the rise of the objective, in units in which it is chi-square with one degree of
    freedom: by the noise for least squares, by the score's variance over its slope for robust losses, as it
    is for `learned`. The limit is the square of Student's t with n - p degrees of freedom. Raises ValueError
    for a parameter that was not fitted and for a fit without degrees of freedom.
    """
    if name not in fit.problem.free:
        raise ValueError(f"{name!r} is not a fitted parameter; they are {', '.join(fit.problem.free)}")
    if fit.df < 1:
        raise ValueError(f"no profile: {fit.n} runs for {fit.problem.size} parameters leave no degrees of freedom")
    place, domain = fit.problem.free.index(name), dict(fit.problem.domains)[name]
    step = float(np.sqrt(cov_free(fit, "sandwich" if fit.loss.kind != "lsq" else "delta")[place, place]))
    step = min(max(step, 1e-8), 1.0)
    centre = centre_of(fit.law, fit.data, {**fit.fixed, **fit.bounds, name: 0.0})
    problem = problem_of(
        fit.law, fit.loss, {**fit.fixed, name: 0.0}, {k: b for k, b in fit.bounds.items() if k != name}
    )
    z = {k: np.log(fit.data.x[k]) - centre[k] for k in fit.law.inputs}
    rows = Rows(z, fit.data.y, fit.data.weights(), {k: np.float64(v) for k, v in fit.fixed.items()})
    away = np.concatenate([[0.0], np.geomspace(0.05, REACH, points)]) * step
    with jax.enable_x64(True):
        theta = {k: jnp.asarray(v, jnp.float64) for k, v in fit.theta.items()}
        p = fit.law.units(theta, {k: -v for k, v in centre.items()}) if centred(fit.law) else theta
        best, u0 = float(to_free(domain, p[name])), problem.coordinates(p)
        widths = padded(fit.loss.stages(fit.data.y, warm=True))
        sides = []
        for sign in (-1, 1):
            value = np.asarray(_follow(problem, name, domain, u0, rows, jnp.asarray(best + sign * away), widths))
            sides.append((best + sign * away, value))
        natural = lambda c: float(from_free(domain, jnp.asarray(c, jnp.float64)))
        unit = _unit(fit)
        least = min(v[0] for _, v in sides)
        limit = t_quantile((1 + level) / 2, fit.df) ** 2
        ends = [_crossing(path, 2 * (value - least) / unit, limit) for path, value in sides]
        low, high = (_end(domain, c, side, natural) for c, side in zip(ends, (-1, 1), strict=True))
        path = np.concatenate([sides[0][0][::-1], sides[1][0][1:]])
        values = np.array([natural(c) for c in path])
    statistic = 2 * (np.concatenate([sides[0][1][::-1], sides[1][1][1:]]) - least) / unit
    return Profile(name, fit.theta[name], low, high, level, values, statistic, limit)


def _unit(fit: Fit) -> float:
    """What twice the solver's objective must be divided by to be chi-square."""
    if fit.loss.kind == "learned":
        return 1.0
    if fit.loss.kind == "lsq":
        return 2 * fit.noise() ** 2
    score, slope = _scores(fit, fit.residuals())
    return float(np.mean(score**2) / np.mean(slope)) * fit.n / fit.df


def _crossing(path: np.ndarray, statistic: np.ndarray, limit: float) -> float | None:
    """Where the statistic passes the limit, by straight lines in its root; None if it never does."""
    root = np.sqrt(np.maximum(statistic, 0))
    over = np.flatnonzero(~(root < np.sqrt(limit)))
    if not len(over):
        return None
    i = int(over[0])
    if not np.isfinite(root[i]):
        return float(path[i])
    share = (np.sqrt(limit) - root[i - 1]) / (root[i] - root[i - 1])
    return float(path[i - 1] + share * (path[i] - path[i - 1]))


def _end(domain, coordinate: float | None, side: int, natural) -> float:
    if coordinate is not None:
        return natural(coordinate)
    if isinstance(domain, tuple):
        return domain[side > 0]
    return np.inf if side > 0 else 0.0 if domain == "positive" else -np.inf
