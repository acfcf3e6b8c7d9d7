"""Differences of two laws: limits that agree with those of one law, and that hold the truth as often as they say."""

import dataclasses

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import lsq

TRUE = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)
OTHER = TRUE | dict(A=300.0, alpha=0.33)
LAW = scaling.LAWS["chinchilla"]()
N, D = (v.ravel() for v in np.meshgrid([1e7, 3e7, 1e8, 3e8], [1e9, 3e9, 1e10, 3e10]))
X = dict(N=N, D=D)
BIG = dict(N=np.array([1e9]), D=np.array([1e11]))
alpha = lambda fit, theta: theta["alpha"]


def runs(theta, seed, noise=0.005):
    spread = np.exp(noise * np.random.default_rng(seed).standard_normal(len(N)))
    return scaling.Data(X, scaling.law_value(LAW, theta, X) * spread)


def fitted(theta, seed, draws=400, noise=0.005):
    fit = scaling.fit(LAW, runs(theta, seed, noise), lsq())
    return fit, scaling.bootstrap(fit, draws, kind="parametric")


@pytest.fixture(scope="module")
def two():
    return fitted(TRUE, 0), fitted(OTHER, 1)


@pytest.mark.slow
@pytest.mark.parametrize("quantity", [alpha, scaling.loss_at(BIG), scaling.best_loss(1e21)], ids=["alpha", "at", "C"])
def test_a_law_does_not_differ_from_itself(two, quantity):
    """The same draws twice are paired at random: not 0 but an interval about 0, root two as wide as one law's."""
    (a, draws), _ = two
    d = scaling.difference(a, a, draws, draws, quantity)
    assert d.value == 0 and not d.clear and d.low < 0 < d.high
    one = quantity(a, draws.theta)
    assert 1.1 < (d.high - d.low) / np.subtract(*np.percentile(one, [97.5, 2.5])) < 1.8


def test_a_limit_among_infinite_draws_is_infinite(two):
    """As those of a law with few runs are, in the log."""
    (a, draws), (b, others) = two
    some = np.arange(400) % 10 == 0
    quantity = lambda fit, theta: np.where(some & (len(theta["alpha"]) > 1) & (fit is b), np.inf, theta["alpha"].mean())
    d = scaling.difference(a, b, draws, others, quantity)
    assert d.low == -np.inf and np.isfinite(d.high)


def test_swapped_laws_swap_the_sign(two):
    (a, one), (b, other) = two
    d, e = (scaling.difference(*v, alpha) for v in ((a, b, one, other), (b, a, other, one)))
    assert d.value == -e.value == pytest.approx(a.theta["alpha"] - b.theta["alpha"])
    np.testing.assert_allclose([d.low, d.high], [-e.high, -e.low], atol=0.15 * (d.high - d.low))


@pytest.mark.parametrize("kind", ["mean", "new_run"])
def test_against_a_law_without_error_it_is_the_interval_of_one_law(two, kind):
    """`predict`'s limits, moved by the other law's value."""
    (a, draws), (b, _) = two
    exact = dataclasses.replace(b, data=dataclasses.replace(b.data, y=b.predict()))
    still = scaling.Draws({k: np.full(400, v) for k, v in b.theta.items()}, np.tile(b.u, (400, 1)), np.zeros(400),
                          np.ones(400, bool), {}, "parametric", b.theta, b.n, b.df)  # fmt: skip
    new = kind == "new_run"
    d = scaling.difference(a, exact, draws, still, scaling.loss_at(BIG), relative=True, new_run=new)
    p, other = scaling.predict(a, BIG, draws, kind=kind), b.predict(BIG)
    width = float(p.high[0] - p.low[0])
    assert d.left == pytest.approx(p.value[0]) and d.value == pytest.approx(p.value[0] - other[0])
    np.testing.assert_allclose([d.low, d.high], [p.low[0] - other[0], p.high[0] - other[0]], atol=0.15 * width)


def test_best_loss_is_that_of_the_closed_form(two):
    (a, draws), _ = two
    found = scaling.best_loss(1e21)(a, {k: np.array([v]) for k, v in a.theta.items()})
    assert found[0] == pytest.approx(scaling.optimal(a, 1e21).loss[0], rel=1e-12)
    assert found[0] == pytest.approx(scaling.closed_form(LAW, a.theta, 1e21)["loss"], rel=1e-8)


@pytest.mark.slow
def test_limits_hold_the_truth_as_often_as_they_say():
    """40 pairs of ladders of 16 runs, 95% limits: between 34 and 40 hold the truth (fewer is a chance of 0.3%), for the
    exponent, the loss at a larger run and the best loss at its compute."""
    C, held = 6e20, np.zeros(3, int)
    for i in range(40):
        (a, one), (b, other) = fitted(TRUE, 2 * i, 200), fitted(OTHER, 2 * i + 1, 200)
        loss = lambda theta: float(scaling.law_value(LAW, theta, BIG)[0])
        best = lambda theta: scaling.closed_form(LAW, theta, C)["loss"]
        truth = TRUE["alpha"] - OTHER["alpha"], loss(TRUE) - loss(OTHER), best(TRUE) - best(OTHER)
        asked = (alpha, False), (scaling.loss_at(BIG), True), (scaling.best_loss(C), True)
        for k, (quantity, relative) in enumerate(asked):
            d = scaling.difference(a, b, one, other, quantity, relative=relative)
            held[k] += d.low <= truth[k] <= d.high
    print(held)
    assert (held >= 34).all(), held


def test_refusals(two):
    (a, one), (b, other) = two
    with pytest.raises(ValueError, match="400 and 10 draws do not pair up"):
        scaling.difference(a, b, one, dataclasses.replace(other, objective=other.objective[:10]), alpha)
    with pytest.raises(ValueError, match="new_run needs relative=True"):
        scaling.difference(a, b, one, other, scaling.loss_at(BIG), new_run=True)
