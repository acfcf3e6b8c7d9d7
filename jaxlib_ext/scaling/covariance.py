"""Covariances without resampling: delta method and sandwich, in free coordinates or in natural parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from .fit import Fit, natural
from .resample import rows_of

KINDS = ("delta", "sandwich")
BAND = 0.8  # half width, in robust standard deviations, over which the density of residuals at 0 is measured


def jacobian_of(fit: Fit) -> np.ndarray:
    """d residual / d free coordinate at the optimum, [n, p]."""
    with jax.enable_x64(True):
        rows = jax.tree.map(jnp.asarray, rows_of(fit))
        return np.asarray(fit.problem.jacobian(jnp.asarray(fit.u[: fit.problem.size]), rows))


def _scores(fit: Fit, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivative of the loss by the residual, and that derivative's own slope, smoothed; both [n]."""
    if fit.loss.kind == "lsq":
        return r, np.ones_like(r)
    width = fit.loss.stages(fit.data.y)[-1] * (fit.scale or 1.0)
    band = max(width, BAND * float(np.median(np.abs(r))) / 0.6745)
    return np.clip(r / width, -1, 1), (np.abs(r) < band) / band


def cov_free(fit: Fit, kind: str = "delta") -> np.ndarray:
    """Covariance of the free coordinates, [p, p].

    delta: noise^2 (J'WJ)^-1, right for noise that is equal in all runs. sandwich: allows noise that differs
    between runs; HC0 for least squares. For a narrow Huber loss the density of the residuals at zero is
    needed and is measured over a wider band (Powell's estimator), since few residuals lie within the width
    itself.
    """
    if kind not in KINDS:
        raise ValueError(f"covariance kinds are {', '.join(KINDS)}, not {kind!r}")
    j, w = jacobian_of(fit), fit.data.weights()
    w = w * np.sum(w > 0) / np.sum(w)
    if kind == "delta":
        return fit.noise() ** 2 * np.linalg.pinv(j.T @ (j * w[:, None]), hermitian=True)
    score, slope = _scores(fit, fit.residuals())
    bread = np.linalg.pinv(j.T @ (j * (w * slope)[:, None]), hermitian=True)
    return bread @ (j.T @ (j * ((w * score) ** 2)[:, None])) @ bread


def cov(fit: Fit, kind: str = "delta") -> tuple[tuple[str, ...], np.ndarray]:
    """(names, covariance [p, p]) of the free natural parameters, by the delta method from `cov_free`."""
    problem, names = fit.problem, fit.problem.free
    with jax.enable_x64(True):
        to = lambda u: jnp.stack([natural(problem, u, fit.fixed, fit.centre)[k] for k in names])
        g = np.asarray(jax.jacfwd(to)(jnp.asarray(fit.u[: problem.size])))
    return names, g @ cov_free(fit, kind) @ g.T
