"""inductive_bias_bits: how many bits of prior knowledge a task asks for beyond its training set.

    bits = -log2 P( test error of h <= eps ),  h drawn from a base space, given that it fits the training set

Hypotheses are drawn, a scaled non-central chi-square is fitted to their test errors by maximum likelihood, and the
probability is read off its lower tail, which no number of draws would reach. It is exact in form where test outputs
are Gaussian with one variance, as is the mean square error of a Gaussian process with a flat posterior.

source: Boopathy et al. 2024, arXiv 2406.15941; family of the distribution as in code FieteLab/Exact-Inductive-Bias
departs: bits instead of nats; the tail is summed as it is, where the code turns to a normal approximation
catalogue: inductive_bias_bits
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .solve import bfgs, newton

Array = jax.Array
TERMS = 160  # of the Poisson mixture that a non-central chi-square is: enough for a non-centrality up to about 160
MOST = 1000  # errors that the fit looks at: of more, as many evenly spaced ones of the sorted errors


@dataclasses.dataclass(frozen=True)
class ErrorLaw:
    """Test errors as scale times a non-central chi-square with df degrees of freedom and non-centrality nc."""

    df: float
    nc: float
    scale: float

    def log_below(self, error: Any) -> np.ndarray:
        """Natural log of P(test error <= error), error > 0 scalar or [m]."""
        with jax.enable_x64(True):
            x = jnp.atleast_1d(jnp.asarray(error, jnp.float64)) / self.scale
            out = _log_cdf(x, jnp.asarray(self.df, jnp.float64), jnp.asarray(self.nc, jnp.float64))
        return np.asarray(out).reshape(np.shape(error))


def _poisson(nc: Array) -> Array:
    j = jnp.arange(TERMS)
    return -nc / 2 + j * jnp.log(nc / 2) - jax.lax.lgamma(j + 1.0)


def _log_pdf(x: Array, df: Array, nc: Array) -> Array:
    """Of a non-central chi-square at x [m], as a Poisson mixture of central ones."""
    a = df / 2 + jnp.arange(TERMS)[None]
    chi = (a - 1) * jnp.log(x)[:, None] - x[:, None] / 2 - a * jnp.log(2.0) - jax.lax.lgamma(a)
    return jax.nn.logsumexp(_poisson(nc)[None] + chi, axis=1)


@jax.jit
def _log_cdf(x: Array, df: Array, nc: Array) -> Array:
    a, half = df / 2 + jnp.arange(TERMS)[None], x[:, None] / 2
    # P(a, h) = h^a e^-h / Gamma(a + 1) (1 + h / (a + 1) + h^2 / ((a + 1)(a + 2)) ...): no cancellation in the tail.
    term = lambda k, c: (c[0] * half / (a + 1 + k), c[1] + c[0] * half / (a + 1 + k))
    ones = jnp.ones(jnp.broadcast_shapes(half.shape, a.shape), x.dtype)
    _, series = jax.lax.fori_loop(0, 1000, term, (ones, ones))
    low = a * jnp.log(half) - half - jax.lax.lgamma(a + 1) + jnp.log(series)
    return jnp.minimum(jax.nn.logsumexp(_poisson(nc)[None] + low, axis=1), 0.0)


@functools.partial(jax.jit, static_argnums=1)
def _likeliest(errors: Array, steps: int, start: Array) -> Array:
    def nll(u):
        df, nc, scale = jnp.exp(u)
        return -jnp.sum(_log_pdf(errors / scale, df, nc)) + len(errors) * u[2]

    floor = jnp.asarray(len(errors), errors.dtype)
    u = bfgs(nll, start, jnp.eye(3, dtype=errors.dtype) / len(errors), steps, 1e-10, floor, longest=0.5).u
    return newton(nll, u, 30, floor)[0]


def error_law(errors: Any) -> ErrorLaw:
    """The distribution of test errors [m] of drawn hypotheses, by maximum likelihood. Raises ValueError for fewer
    than 20, or errors that are not positive."""
    errors = np.asarray(errors, np.float64)
    if errors.ndim != 1 or len(errors) < 20:
        raise ValueError(f"a distribution of test errors needs 20 of them, not {errors.shape}")
    if not (np.all(np.isfinite(errors)) and np.all(errors > 0)):
        raise ValueError("test errors must be positive and finite")
    unit, mean, var = errors.mean(), 1.0, errors.var() / errors.mean() ** 2
    if len(errors) > MOST:
        errors = np.quantile(errors, (np.arange(MOST) + 0.5) / MOST)
    with jax.enable_x64(True):
        found = []
        for share in (0.1, 0.9):  # of the mean that is non-central
            # mean = s (df + nc), var = 2 s^2 (df + 2 nc)
            scale = var / (2 * mean * (1 + share))
            total = mean / scale
            start = jnp.log(jnp.asarray([total * (1 - share), min(total * share, 80.0), scale], jnp.float64))
            u = _likeliest(jnp.asarray(errors / unit), 200, start)
            df, nc, scale = (float(v) for v in jnp.exp(u))
            value = float(-jnp.sum(_log_pdf(jnp.asarray(errors / unit) / scale, df, nc)) + len(errors) * np.log(scale))
            found.append((value if np.isfinite(value) else np.inf, df, nc, scale))
    _, df, nc, scale = min(found)
    return ErrorLaw(df, nc, scale * unit)


def inductive_bias_bits(errors: Any, eps: Any) -> np.ndarray:
    """Bits of inductive bias that a test error of at most eps, scalar or [m], asks for, from errors [m] of drawn
    hypotheses that fit the training set.

    >>> z = np.random.default_rng(0).standard_normal((4000, 10))
    >>> bool(abs(inductive_bias_bits((z**2).mean(1), 0.1) - 12.5) < 0.5)  # chi-square: P(X <= 1) with 10 degrees
    True
    """
    eps = np.asarray(eps, np.float64)
    if not np.all(eps > 0):
        raise ValueError("eps must be positive")
    return -error_law(errors).log_below(eps) / np.log(2)


def gaussian_errors(
    train: Any, cross: Any, test: Any, y_train: Any, y_test: Any, draws: int = 1000, key: jax.Array | None = None
) -> np.ndarray:
    """Mean square test errors [draws] of functions from a Gaussian process that pass through the training points.

    train [n, n], cross [t, n], test [t, t]: kernel matrices; y_train [n], y_test [t].
    """
    train, cross, test, y_train, y_test = (np.asarray(a, np.float64) for a in (train, cross, test, y_train, y_test))
    weight = np.linalg.solve(train, cross.T).T
    mean, spread = weight @ y_train, test - weight @ cross.T
    values, vectors = np.linalg.eigh((spread + spread.T) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0))
    seed = np.asarray(jax.random.key_data(jax.random.key(0) if key is None else key)).ravel().tolist()
    z = np.random.default_rng(seed).standard_normal((draws, len(y_test)))
    return np.mean((mean + z @ root.T - y_test) ** 2, axis=1)
