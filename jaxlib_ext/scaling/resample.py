"""Bootstrap: thousands of refits in one program, as weights (pairs, cluster) or as new losses (wild,
parametric).

Every refit starts from the full fit's optimum and passes a few wider Huber widths on its way. Refits run in
blocks that stay in cache.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .fit import Fit, natural
from .problem import Problem, Rows, padded
from .status import NO_EFFECT

KINDS = ("pairs", "cluster", "wild", "parametric")


@dataclasses.dataclass(frozen=True)
class Draws:
    """Refits of one fit. theta: parameter -> [R], in the data's units; u [R, p] free coordinates, at the
    fit's centre.

    objective [R]. settled [R]: the refit is at a proper minimum. bound: parameter -> how many refits pushed
    it to 0, infinity or a bound: what the data cannot hold in place. point: the fit's own parameters; runs, df: its
    runs and degrees of freedom.
    """

    theta: dict[str, np.ndarray]
    u: np.ndarray
    objective: np.ndarray
    settled: np.ndarray
    bound: dict[str, int]
    kind: str
    point: dict[str, float]
    runs: int
    df: int

    @property
    def n(self) -> int:
        return len(self.objective)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.theta[name]

    def se(self) -> dict[str, float]:
        """Standard deviation over the refits. Of little use where a parameter is skewed: see `interval`."""
        return {k: float(np.std(v, ddof=1)) for k, v in self.theta.items()}

    def interval(self, level: float = 0.95, kind: str = "t") -> dict[str, tuple[float, float]]:
        """Interval of each parameter: kind as in `limits`."""
        out = {}
        for k, v in self.theta.items():
            log = self.point[k] > 0 and bool(np.all(v > 0))
            low, high = limits(self, v, self.point[k], level, log, kind)
            out[k] = float(low), float(high)
        return out


LIMITS = ("t", "percentile")


def limits(
    draws: Draws, values: np.ndarray, point: Any, level: float = 0.95, log: bool = True, kind: str = "t"
) -> tuple[np.ndarray, np.ndarray]:
    """Limits of a quantity from its draws [R, ...] about its value at the fit [...]; log: of a positive one.

    "t" (the default everywhere) allows for few runs: the size of the noise is itself an estimate with df degrees
    of freedom, so each draw's distance from the point is multiplied by its own sqrt(df / chi2_df), and by
    sqrt(runs / df) where residuals were resampled, since the fit made them too small. "percentile" takes the draws
    as they are, and covers too rarely with few runs; so do resamples that were given (`refit`).
    """
    if kind not in LIMITS:
        raise ValueError(f"interval kinds are {', '.join(LIMITS)}, not {kind!r}")
    tail, point = 50 * (1 - level), np.asarray(point, np.float64)

    def ends(v):
        how = "linear" if np.all(np.isfinite(v)) else "nearest"  # infinities cannot be interpolated
        return np.nanpercentile(v, [tail, 100 - tail], axis=0, method=how)

    if kind == "percentile" or draws.kind == "given" or draws.df < 1 or not np.all(np.isfinite(point)):
        low, high = ends(values)
        return low, high
    with np.errstate(divide="ignore"):
        far = np.log(values) - np.log(point) if log else values - point
        low, high = ends(far * widening(draws, len(values)).reshape(-1, *[1] * point.ndim))
    return (point * np.exp(low), point * np.exp(high)) if log else (point + low, point + high)


def widening(draws: Draws, n: int, seed: Any = 2) -> np.ndarray:
    """The factor [n] of every draw's error: see `limits`."""
    factor = np.sqrt(draws.df / np.random.default_rng(seed).chisquare(draws.df, size=n))
    return factor * (np.sqrt(draws.runs / draws.df) if draws.kind in ("pairs", "cluster") else 1.0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _refits(problem: Problem, block: int, u0, rows: Rows, ys, ws, widths, centre):
    """ys, ws: [R, n], or None where the data's own serve. Returns per refit what `Draws` holds."""

    def one(yw):
        here = rows._replace(y=rows.y if ys is None else yw[0], w=rows.w if ws is None else yw[-1])
        u, value, _, decrement = problem.solve(u0, here, widths, 120, 10)
        effect = jnp.max(jnp.abs(problem.jacobian(u[: problem.size], here)), 0)
        scale = 1.0 if problem.loss.space == "log" else jnp.median(jnp.abs(rows.y))
        tiny = 1e-20 * jnp.sum(here.w)
        settled = (decrement <= 1e-8 * (jnp.abs(value) + tiny)) & jnp.isfinite(value)
        return natural(problem, u, rows.held, centre), u, value, settled, effect < NO_EFFECT * scale

    return jax.lax.map(one, tuple(a for a in (ys, ws) if a is not None), batch_size=block)


def refit(fit: Fit, y: Any = None, w: Any = None, kind: str = "given", block: int = 128) -> Draws:
    """Refits with other losses y or weights w, each [R, n]; what is not given is the data's.

    block: how many refits run side by side.
    """
    if y is None and w is None:
        raise ValueError("give losses y or weights w, each [refits, runs]")
    for name, a in (("y", y), ("w", w)):
        if a is not None and (np.ndim(a) != 2 or np.shape(a)[1] != len(fit.data.y)):
            raise ValueError(f"{name} must be [refits, {len(fit.data.y)}], not {np.shape(a)}")
    problem, rows = fit.problem, rows_of(fit)
    widths = padded(fit.loss.stages(fit.data.y, warm=True))
    with jax.enable_x64(True):
        ys, ws = (None if a is None else jnp.asarray(a, jnp.float64) for a in (y, w))
        u0 = jnp.asarray(fit.u[: problem.size])
        out = _refits(problem, block, u0, rows, ys, ws, widths, fit.centre)
        theta, u, value, settled, idle = jax.tree.map(np.asarray, out)
    total = np.broadcast_to(rows.w.sum() if w is None else np.sum(w, 1), value.shape)
    objective = fit.loss.report(value, total)
    bound = {k: int(idle[:, i].sum()) for i, k in enumerate(problem.free) if idle[:, i].any()}
    return Draws(theta, u, objective, settled, bound, kind, dict(fit.theta), fit.n, fit.df)


def rows_of(fit: Fit) -> Rows:
    """The fit's data as the solver takes it."""
    return Rows(fit.z(), fit.data.y, fit.data.weights(), fit.fixed)


def leverage(fit: Fit) -> np.ndarray:
    """How much of each run's residual the fit takes up, [n], in [0, 1): the diagonal of J (J'WJ)^-1 J'W."""
    from .covariance import jacobian_of

    j = jacobian_of(fit)
    root = np.sqrt(fit.data.weights())
    q, _ = np.linalg.qr(j * root[:, None])
    return np.clip(np.sum(q * q, 1), 0.0, 0.99)


def bootstrap(fit: Fit, n: int = 1000, key: jax.Array | None = None, kind: str = "pairs") -> Draws:
    """n refits to resampled runs; key is `jax.random.key(1)` by default.

    kind: "pairs" draws runs with replacement; "cluster" draws whole groups (`Data.group`), for checkpoints of
    one run; "wild" keeps the design and flips the sign of each residual, leverage taken out, one sign a group
    where there are groups: for noise that differs between runs; "parametric" simulates Gaussian noise of the
    fitted size about the law: for few runs. Raises ValueError for an unknown kind and for "cluster" without
    groups.
    """
    if kind not in KINDS:
        raise ValueError(f"bootstrap kinds are {', '.join(KINDS)}, not {kind!r}")
    if kind == "cluster" and fit.data.group is None:
        raise ValueError('kind="cluster" needs Data.group')
    key = jax.random.key(1) if key is None else key
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    rng = np.random.default_rng(seed)
    rows, weights, group = len(fit.data.y), fit.data.weights(), fit.data.group
    own = np.arange(rows)
    if kind in ("pairs", "cluster"):
        used = np.flatnonzero(weights > 0)
        codes = own if kind == "pairs" else np.unique(group, return_inverse=True)[1]
        units = np.unique(codes[used])
        counts = np.zeros((n, codes.max() + 1))
        counts[:, units] = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=n)
        return refit(fit, w=counts[:, codes] * weights, kind=kind)
    fitted, log = fit.predict(), fit.loss.space == "log"
    if kind == "wild":
        codes = own if group is None else np.unique(group, return_inverse=True)[1]
        signs = rng.choice([-1.0, 1.0], size=(n, codes.max() + 1))[:, codes]
        noise = signs * (fit.residuals() / (1 - leverage(fit)))
    else:
        size = fit.noise() / np.sqrt(np.maximum(weights / weights.mean(), 1e-12))
        noise = size * rng.standard_normal((n, rows))
    return refit(fit, y=fitted * np.exp(noise) if log else fitted + noise, kind=kind)
