"""Closed-form random-feature risks against simulation and their limits, and as a truth that fits must find."""

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import Data, random_features
from jaxlib_ext.scaling.random_features import power_spectrum, rf_eigenframework


def simulated(task, n, k, ridge, trials=60, seed=0):
    """Ridge regression on k random features of Gaussian eigenfunctions: mean test risk and its standard error."""
    rng, m, risks = np.random.default_rng(seed), len(task.eigenvalues), []
    root, target = np.sqrt(task.eigenvalues), np.sqrt(task.power)
    for _ in range(trials):
        v = target * rng.choice([-1, 1], m)
        weights = root[:, None] * rng.standard_normal((m, k)) / np.sqrt(k)
        x = rng.standard_normal((n, m))
        y = x @ v + np.sqrt(task.noise) * rng.standard_normal(n)
        f = x @ weights
        coefficients = weights @ (f.T @ np.linalg.solve(f @ f.T + ridge * np.eye(n), y))
        risks.append(np.sum((v - coefficients) ** 2) + task.noise)
    return np.mean(risks), np.std(risks) / np.sqrt(trials)


@pytest.mark.parametrize("n, k, ridge", [(60, 90, 0.05), (90, 60, 0.5), (40, 40, 0.1)])
def test_theory_is_the_simulation(n, k, ridge):
    task = power_spectrum(400, a=1.2, b=1.3, noise=0.2)
    mean, se = simulated(task, n, k, ridge)
    assert abs(rf_eigenframework(task, n, k, ridge) - mean) < 3 * se + 0.02 * mean


def test_endless_features_are_the_kernel():
    """k to infinity gives g = K and the prefactor 1 / (1 - q / n), written out here."""
    task, n, ridge = power_spectrum(800, a=1.5, b=1.4, noise=0.1), 50.0, 0.01
    low, high = 1e-12, 1e3
    for _ in range(200):
        g = np.sqrt(low * high)
        short = np.sum(task.eigenvalues / (task.eigenvalues + g)) + ridge / g > n
        low, high = (g, high) if short else (low, g)
    s = task.eigenvalues / (task.eigenvalues + g)
    want = (np.sum((1 - s) ** 2 * task.power) + 0.1) / (1 - np.sum(s * s) / n)
    np.testing.assert_allclose(rf_eigenframework(task, n, np.inf, ridge), want, rtol=1e-9)
    np.testing.assert_allclose(rf_eigenframework(task, n, 1e9, ridge), want, rtol=1e-5)


def test_more_is_better_at_the_best_ridge():
    task = power_spectrum(500, a=1.3, b=1.3, noise=0.1)
    by_n = [random_features.best_ridge(task, n, 60)[1] for n in (20, 40, 80)]
    by_k = [random_features.best_ridge(task, 60, k)[1] for k in (20, 40, 80, np.inf)]
    assert np.all(np.diff(by_n) < 0) and np.all(np.diff(by_k) < 0)
    peak = rf_eigenframework(task, 60, [40, 59, 61, 200], 1e-8)  # without tuning there is a peak at k = n
    assert peak[1] > 3 * peak[0] and peak[2] > 3 * peak[3]


def test_fits_find_the_exponents_of_the_theory():
    """l ~ i^-2 and v^2 ~ i^-1.8: without noise the kernel's risk falls as n^-0.8 and with few features as k^-0.8, so
    the learning curve is a power law whose exponent a fit must return."""
    task = power_spectrum(200_000, a=2.0, b=1.8)
    n = np.geomspace(30, 3000, 12).round()
    fit = scaling.fit("power(input='D')", Data(dict(D=n), rf_eigenframework(task, n, np.inf, 1e-9)), scaling.lsq())
    np.testing.assert_allclose(fit.theta["alpha"], 0.8, atol=0.01)


def test_bad_tasks_are_one_line():
    task = power_spectrum(100, 1.5, 1.5)
    for match, call in {
        "needs n != k": lambda: rf_eigenframework(task, 30, 30),
        "samples and features must be positive": lambda: rf_eigenframework(task, 0, 30, 0.1),
        "eigenvalues must be positive": lambda: random_features.Task([1.0, 0.0], [1.0, 1.0]),
        "must be \\[m\\] both": lambda: random_features.Task([1.0], [1.0, 1.0]),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()
