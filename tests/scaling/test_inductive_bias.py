"""Bits of inductive bias against exact chi-square tails and against counting."""

import numpy as np
import pytest

from jaxlib_ext.scaling.inductive_bias import ErrorLaw, error_law, gaussian_errors, inductive_bias_bits


def test_tails_are_exact():
    stats = pytest.importorskip("scipy.stats")
    for df, nc in ((3.0, 0.5), (10.0, 6.0), (40.0, 80.0)):
        at = np.array([0.05, 0.3, 0.9, 1.4]) * (df + nc)
        want = stats.ncx2.logcdf(at, df, nc)
        fine = want > -25  # beyond, the reference loses its digits
        np.testing.assert_allclose(ErrorLaw(df, nc, 2.0).log_below(2 * at)[fine], want[fine], rtol=1e-6, atol=1e-9)
    deep = ErrorLaw(10.0, 1e-8, 1.0).log_below(1e-6)  # (x / 2)^5 / 5! for a small x
    np.testing.assert_allclose(deep, 5 * np.log(0.5e-6) - np.log(120), rtol=1e-6)


def linear(n, width=12, test=40, seed=0):
    """h ~ N(0, I) on random features, conditioned on n points of a planted function: errors and the exact law's."""
    rng = np.random.default_rng(seed)
    target = rng.standard_normal(width)
    a, b = rng.standard_normal((n, width)), rng.standard_normal((test, width))
    return gaussian_errors(a @ a.T, b @ a.T, b @ b.T, a @ target, b @ target, draws=4000), a, b, target


def test_a_linear_space_is_a_non_central_chi_square():
    """With orthonormal test features the error is a scaled non-central chi-square whose parameters are known."""
    rng = np.random.default_rng(3)
    target = rng.standard_normal(12)
    a = np.linalg.qr(rng.standard_normal((12, 12)))[0][:4]
    errors = gaussian_errors(a @ a.T, a.T, np.eye(12), a @ target, target, draws=20000)
    law = error_law(errors)
    free = target - a.T @ (a @ target)
    np.testing.assert_allclose((law.df + law.nc) * law.scale, (8 + free @ free) / 12, rtol=0.02)
    exact = ErrorLaw(8.0, float(free @ free), 1 / 12)
    for eps in (0.05, 0.2, 0.5):
        np.testing.assert_allclose(law.log_below(eps), exact.log_below(eps), rtol=0.1, atol=0.05)


def test_counting_agrees_and_bias_falls_with_data_and_tolerance():
    bits = {}
    for n in (2, 5, 8):
        errors, *_ = linear(n)
        eps = np.quantile(errors, 0.05)
        np.testing.assert_allclose(inductive_bias_bits(errors, eps), -np.log2(0.05), atol=0.6)
        bits[n] = inductive_bias_bits(errors, np.array([0.5, 1.0, 2.0]))
        assert np.all(np.diff(bits[n]) < 0)
    assert np.all(bits[2] > bits[5]) and np.all(bits[5] > bits[8])


def test_bad_errors():
    for match, errors in {"needs 20": np.ones(5), "positive and finite": np.r_[np.ones(30), 0.0]}.items():
        with pytest.raises(ValueError, match=match):
            inductive_bias_bits(errors, 0.1)
