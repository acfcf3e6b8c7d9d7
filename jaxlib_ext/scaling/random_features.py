"""rf_eigenframework: the test risk of random-feature ridge regression in closed form, a known truth for law fitters.

    sum_i l_i / (l_i + g) + d / K = n        sum_i l_i / (l_i + g) + k K / g = k        solved for g, K > 0
    z = sum_i l_i / (l_i + g)   q = sum_i (l_i / (l_i + g))^2
    bias = sum_i (g / (l_i + g) - K l_i / (l_i + g)^2 k / (k - q)) v_i^2
    risk = (bias + noise) / (1 - (q (k - 2 z) + z^2) / (n (k - q)))

n samples, k features, ridge d, kernel eigenvalues l_i, target coefficients v_i, noise the variance of the labels. With
k infinite g = K and this is kernel ridge regression: risk = [sum_i (K / (l_i + K))^2 v_i^2 + noise] / (1 - q / n).
Spectra l_i = i^-a with v_i^2 = i^-b give power laws in n and k with known exponents.

source: Simon et al. 2023, arXiv 2311.14646, section 4
departs: g and K are found by bisection on a log scale; eigenvalues that follow a power law are summed as they are,
    without a continuous limit
catalogue: rf_eigenframework
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Task:
    """eigenvalues [m] > 0 and squared target coefficients [m] >= 0 of a task, and the label noise's variance."""

    eigenvalues: Any
    power: Any
    noise: float = 0.0

    def __post_init__(self):
        values, power = (np.asarray(a, np.float64) for a in (self.eigenvalues, self.power))
        if values.shape != power.shape or values.ndim != 1:
            raise ValueError(f"eigenvalues and power must be [m] both, not {values.shape} and {power.shape}")
        if not (np.all(values > 0) and np.all(power >= 0) and self.noise >= 0):
            raise ValueError("eigenvalues must be positive, power and noise not negative")
        object.__setattr__(self, "eigenvalues", values)
        object.__setattr__(self, "power", power)


def power_spectrum(modes: int, a: float, b: float, noise: float = 0.0) -> Task:
    """eigenvalues i^-a and squared coefficients i^-b, i from 1 to modes."""
    i = np.arange(1.0, modes + 1)
    return Task(i**-a, i**-b, noise)


def _root(f: Callable[[Array], Array], low: float, high: float) -> Array:
    """ln x at which the rising f crosses 0, by bisection between two logs."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        under = f(middle) < 0
        return jnp.where(under, middle, low), jnp.where(under, high, middle)

    ends = jnp.asarray(low, jnp.float64), jnp.asarray(high, jnp.float64)
    low, high = jax.lax.fori_loop(0, 200, halve, ends)
    return jnp.mean(jnp.stack([low, high]))


def _risk(eigenvalues: Array, power: Array, noise: Array, n: Array, k: Array, ridge: Array) -> Array:
    """One risk; k and n scalars, k may be infinite."""
    shares = lambda g: eigenvalues / (eigenvalues + g)
    finite = jnp.isfinite(k)
    many = jnp.where(finite, k, 1.0)

    def kappa(g):  # from the second equation; g itself for infinite k
        return jnp.where(finite, g * (many - jnp.sum(shares(g))) / many, g)

    def short(log_g):  # rises in g: samples that are not used up by learned modes and ridge
        g = jnp.exp(log_g)
        left = kappa(g)
        return jnp.where(left > 0, n - jnp.sum(shares(g)) - ridge / jnp.where(left > 0, left, 1.0), -1.0)

    reach = jnp.log(jnp.max(eigenvalues) * len(eigenvalues) + ridge) + 2
    g = jnp.exp(_root(short, jnp.log(jnp.min(eigenvalues)) - 60, reach + 5))
    K, s = kappa(g), shares(g)
    z, q = jnp.sum(s), jnp.sum(s * s)
    ratio = jnp.where(finite, many / (many - q), 1.0)
    bias = jnp.sum((g / (eigenvalues + g) - K * eigenvalues / (eigenvalues + g) ** 2 * ratio) * power)
    used = jnp.where(finite, (q * (many - 2 * z) + z**2) / (n * (many - q)), q / n)
    return (bias + noise) / (1 - used)


@jax.jit
def _risks(eigenvalues: Array, power: Array, noise: Array, columns: tuple[Array, Array, Array]) -> Array:
    return jax.lax.map(lambda c: _risk(eigenvalues, power, noise, *c), columns)


def rf_eigenframework(task: Task, n: Any, k: Any = np.inf, ridge: Any = 0.0) -> np.ndarray:
    """Test risk with n samples and k features (infinite: the kernel), label noise included; arguments broadcast.

    ridge 0 is the limit of a small ridge. Raises ValueError where no ridge, samples and features leave the risk
    infinite or undefined: n = k at ridge 0, or n at or beyond the number of modes.

    >>> task = power_spectrum(1000, a=1.5, b=1.5)
    >>> rf_eigenframework(task, n=[16, 64, 256], k=np.inf, ridge=1e-3).round(4).tolist()
    [0.8042, 0.3668, 0.1308]
    """
    n, k, ridge = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (n, k, ridge)))
    if not (np.all(n > 0) and np.all(k > 0) and np.all(ridge >= 0)):
        raise ValueError("samples and features must be positive, the ridge not negative")
    least = np.minimum(n, k)
    if np.any((ridge == 0) & ((n == k) | (least >= len(task.eigenvalues)))):
        raise ValueError("without a ridge the risk needs n != k and min(n, k) below the number of modes")
    if np.any((ridge == 0) & (k < n)):
        ridge = np.where((ridge == 0) & (k < n), 1e-12 * task.eigenvalues[0], ridge)
    with jax.enable_x64(True):
        facts = [jnp.asarray(a, jnp.float64) for a in (task.eigenvalues, task.power, task.noise)]
        out = _risks(*facts, tuple(jnp.asarray(v.ravel()) for v in (n, k, ridge)))
        return np.asarray(out).reshape(n.shape)


def best_ridge(task: Task, n: float, k: float = np.inf) -> tuple[float, float]:
    """(ridge, risk) of least test risk, by golden section in the log of the ridge."""
    scale = float(task.eigenvalues.sum())
    grid = np.geomspace(1e-9, 1e3, 61) * scale
    risk = functools.partial(rf_eigenframework, task, n, k)
    i = int(np.argmin(risk(grid)))
    low, high = np.log(grid[max(i - 1, 0)]), np.log(grid[min(i + 1, 60)])
    golden = (5**0.5 - 1) / 2
    for _ in range(40):
        a, b = high - golden * (high - low), low + golden * (high - low)
        at_a, at_b = risk(np.exp([a, b]))
        low, high = (low, b) if at_a < at_b else (a, high)
    best = float(np.exp((low + high) / 2))
    return best, float(risk(best))
