"""Variances of biases and weights at which signals neither grow nor fade with depth.

    K' = C_b + C_W <f(z)^2>,  z ~ N(0, K);  chi_par = C_W <z f'(z) f(z)> / K,  chi_perp = C_W <f'(z)^2>
    critical: K' = K = K*,  chi_par = chi_perp = 1

source: Roberts, Yaida and Hanin 2022, arXiv 2106.10165, chapter 5
catalogue: criticality_init
departs: none
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

POINTS = 20_000  # none at 0, where an activation may have a kink
RANGE = 1e-3, 1e3  # of K*, where one is looked for


class Critical(NamedTuple):
    """C_b, C_W: variance of a bias, and of a weight times fan_in. K: the fixed point; nan where every K is one."""

    C_b: float
    C_W: float
    K: float


def _moments(f: Callable, K: float) -> tuple[float, float, float]:
    """<f^2>, <z f f'> / K, <f'^2>."""
    x = (np.arange(POINTS) + 0.5) * (24 / POINTS) - 12
    w = np.exp(-(x**2) / 2)
    w = w / w.sum()
    with jax.enable_x64(True):
        z = jax.numpy.asarray(x * K**0.5)
        value, slope = (np.asarray(v) for v in jax.vmap(jax.value_and_grad(f))(z))
    return float(w @ value**2), float(w @ (np.asarray(z) * value * slope)) / K, float(w @ slope**2)


def kernel(f: Callable, K: float, C_b: float, C_W: float) -> float:
    """K of the next layer."""
    return C_b + C_W * _moments(f, K)[0]


def susceptibilities(f: Callable, K: float, C_W: float) -> tuple[float, float]:
    """(chi_par, chi_perp): growth of a perturbation of K, and of one that turns the signal."""
    _, par, perp = _moments(f, K)
    return C_W * par, C_W * perp


def criticality(f: Callable) -> Critical:
    """The critical start of an activation f: R -> R that jax can differentiate.

    >>> relu = criticality(jax.nn.relu)
    >>> round(relu.C_b, 6), round(relu.C_W, 6)
    (0.0, 2.0)
    """
    gap = lambda K: (lambda m: m[1] - m[2])(_moments(f, K))
    grid = np.geomspace(*RANGE, 61)
    values = np.array([gap(K) for K in grid])
    if np.abs(values).max() < 1e-9:  # scale-invariant
        square, _, perp = _moments(f, 1.0)
        return Critical(0.0, 1 / perp, float("nan"))
    turns = np.flatnonzero(np.sign(values[:-1]) != np.sign(values[1:]))
    if not len(turns):
        with jax.enable_x64(True):
            start, slope = (float(v) for v in jax.value_and_grad(f)(0.0))
        if start or not slope:
            raise ValueError("no critical start: f(0) is not 0 or f'(0) is, and no K* is there")
        return Critical(0.0, slope**-2, 0.0)
    low, high = np.log(grid[turns[0]]), np.log(grid[turns[0] + 1])
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.sign(gap(np.exp(middle))) == np.sign(values[turns[0]]) else (low, middle)
    K = float(np.exp(low))
    square, _, perp = _moments(f, K)
    return Critical(K - square / perp, 1 / perp, K)
