"""What the law says at new inputs, with intervals for the law itself and for one new run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .fit import Fit
from .law import predict as law_value
from .resample import Draws, leverage, rows_of, widening
from .student import t_quantile

EMPIRICAL = 30  # degrees of freedom from which a new run's noise is drawn from the residuals, not a normal


@dataclasses.dataclass(frozen=True)
class Prediction:
    """value, low, high [m]. distance [m]: how far outside the runs the inputs lie, in units of the runs' log
    range, the
    worst input counts; 0 is inside. kind: "mean" is the law's value, "new_run" one more run at these
    inputs."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    distance: np.ndarray
    level: float
    kind: str
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

        head = f"{'value':>12} {'low':>12} {'high':>12}  outside the runs by"
        rows = zip(self.value, self.low, self.high, self.distance, strict=True)
        body = [f"{v:12.6g} {a:12.6g} {b:12.6g}  {d:.2f} log ranges" for v, a, b, d in rows]
        note = [] if self.status == "converged" else [f"the fit is not to be trusted: {self.status}"]
        beyond = [holdout_line(self.fit)] if np.any(self.distance > 0) else []
        return "\n".join([f"{self.level:.0%} interval, {self.kind}", head, *body, *beyond, *note])


def distance(fit: Fit, x: Mapping[str, Any]) -> np.ndarray:
    """How far outside the runs x lies, [m]; 1 is as far as the runs themselves reach, in the log."""
    used, z = fit.data.weights() > 0, fit.z()
    out = []
    for name, at in fit.z(x).items():
        lo, hi = z[name][used].min(), z[name][used].max()
        out.append(np.maximum(np.maximum(lo - at, at - hi), 0) / max(hi - lo, 1e-12))
    return np.max(np.broadcast_arrays(*out), axis=0)


def _spread_delta(fit: Fit, x: Mapping[str, Any]) -> np.ndarray:
    """Standard error of the law at x by the delta method, in the space of the loss, [m]."""
    from .covariance import cov_free

    problem, rows = fit.problem, rows_of(fit)
    with jax.enable_x64(True):
        z = {k: jnp.asarray(v) for k, v in fit.z(x).items()}
        m = len(next(iter(z.values())))
        there = rows._replace(z=z, y=jnp.ones(m), w=jnp.ones(m), held=rows.held)
        j = np.asarray(problem.jacobian(jnp.asarray(fit.u[: problem.size]), there))
    return np.sqrt(np.maximum(np.sum((j @ cov_free(fit)) * j, 1), 0))


def predict(
    fit: Fit,
    x: Mapping[str, Any],
    draws: Draws | None = None,
    level: float = 0.95,
    kind: str = "new_run",
    key: jax.Array | None = None,
) -> Prediction:
    """The law at x with an interval that allows for few runs.

    x: input name -> [m] or scalar. draws: from `bootstrap`; without them the delta method is used. kind:
    "mean" for the law, "new_run" for a run to be trained there: parameter error and the run's own noise. The
    size of the noise is itself an estimate with n - p degrees of freedom, so widths follow Student's t: with
    draws, each carries its own factor sqrt(df / chi2_df). Intervals hold if the law is true at x; no interval
    here knows whether it is, so read `distance` and a hold-out score beside them. Raises ValueError for an
    unknown kind, a missing input or a fit without degrees of freedom.
    """
    if kind not in ("mean", "new_run"):
        raise ValueError(f'kind is "mean" or "new_run", not {kind!r}')
    if fit.df < 1:
        raise ValueError(f"no interval: {fit.n} runs for {fit.problem.size} parameters leave no degrees of freedom")
    missing = [k for k in fit.law.inputs if k not in x]
    if missing:
        raise ValueError(f"x has no {missing[0]!r}; the law reads {', '.join(fit.law.inputs)}")
    columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, np.float64)) for v in x.values()))
    x = dict(zip(x, columns, strict=True))
    value = fit.predict(x)
    log = fit.loss.space == "log"
    noise = fit.noise() if kind == "new_run" else 0.0
    if draws is None:
        half = t_quantile((1 + level) / 2, fit.df) * np.sqrt(_spread_delta(fit, x) ** 2 + noise**2)
        low, high = -half, half
    else:
        low, high = _errors(fit, x, value, draws, noise, level, key)
    low, high = (value * np.exp(low), value * np.exp(high)) if log else (value + low, value + high)
    return Prediction(value, low, high, distance(fit, x), level, kind, fit)


def _errors(fit, x, value, draws, noise, level, key):
    """Quantiles of the error of the prediction, in the space of the loss, from the draws: (low [m], high
    [m])."""
    log = fit.loss.space == "log"
    each = {k: v[:, None] for k, v in draws.theta.items()}
    there = law_value(fit.law, each, {k: v[None] for k, v in x.items()})
    error = np.log(there / value) if log else there - value
    seed = np.asarray(jax.random.key_data(jax.random.key(2) if key is None else key)).ravel().tolist()
    rng = np.random.default_rng(seed)
    if noise and fit.df >= EMPIRICAL:
        r = (fit.residuals() / np.sqrt(1 - leverage(fit)))[fit.data.weights() > 0]
        own = rng.choice(r - r.mean(), size=error.shape)
    else:
        own = noise * rng.standard_normal(error.shape)
    # Parameter error and noise share the unknown size of the noise, so one factor serves both.
    wide, tail = widening(draws, len(error), rng)[:, None], 50 * (1 - level)
    return np.nanpercentile((error + own) * wide, [tail, 100 - tail], axis=0)
