"""How far two fitted laws are apart, with intervals: of an exponent, a prediction, a compute-optimal loss.

draws = [scaling.bootstrap(fit, 1000, kind="parametric") for fit in (a, b)]
print(scaling.difference(a, b, *draws, lambda fit, theta: theta["alpha"]))
print(scaling.difference(a, b, *draws, scaling.best_loss(1e18), relative=True))
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np

from .fit import Fit
from .law import predict as law_value
from .plan import Flops, optimum_of, six_nd
from .resample import Draws, widening

Quantity = Callable[[Fit, Mapping[str, np.ndarray]], np.ndarray]  # (fit, parameter -> [R]) -> [R]


@dataclasses.dataclass(frozen=True)
class Difference:
    """a - b with its limits. left, right: of a and of b alone."""

    value: float
    low: float
    high: float
    left: float
    right: float
    level: float

    @property
    def clear(self) -> bool:
        """0 is outside the limits."""
        return not self.low <= 0 <= self.high

    def __str__(self):
        return f"{self.value:+.4g} [{self.low:+.4g}, {self.high:+.4g}]"


def loss_at(x: Mapping[str, float]) -> Quantity:
    """The law's value at inputs x."""
    return lambda fit, theta: law_value(fit.law, {k: np.asarray(v) for k, v in theta.items()}, dict(x))


def best_loss(C: float, flops: Flops = six_nd) -> Quantity:
    """The loss of the compute-optimal run of a budget C."""

    def quantity(fit: Fit, theta: Mapping[str, np.ndarray]) -> np.ndarray:
        middle = float(np.mean(np.log(fit.data.x["N"])))
        return optimum_of(fit.law, theta, C, middle, flops)["loss"][:, 0]

    return quantity


def _around(fit: Fit, draws: Draws, quantity: Quantity, relative: bool, new_run: bool, rng) -> tuple[float, np.ndarray]:
    """The quantity of a fit, and what it might be [R], as `predict` spreads its draws."""
    value = float(np.asarray(quantity(fit, {k: np.array([v]) for k, v in fit.theta.items()})).ravel()[0])
    each = np.asarray(quantity(fit, draws.theta))
    error = np.log(each / value) if relative else each - value
    if new_run:
        error = error + fit.noise() * rng.standard_normal(error.shape)
    error = error * widening(draws, len(error), rng)
    with np.errstate(over="ignore"):  # few runs: a limit may be infinite
        return value, value * np.exp(error) if relative else value + error


def difference(a: Fit, b: Fit, draws_a: Draws, draws_b: Draws, quantity: Quantity, *, relative: bool = False,
               new_run: bool = False, level: float = 0.95, key: jax.Array | None = None) -> Difference:  # fmt: skip
    """quantity of a less that of b, with limits from joint draws of each law's parameters.

    draws: from `bootstrap`; those of the two laws are paired at random, so one key may serve both. The runs of two laws
    are taken to be independent; those that share data and order tend to err together, which makes the limits too wide
    and not too narrow. relative: errors are proportional to the quantity, as those of a loss fitted in the log.
    new_run: of one further run of each law instead of the laws themselves; needs relative where the fit is in the log.
    Raises ValueError where a fit has no degrees of freedom or the numbers of draws differ.
    """
    for fit in (a, b):
        if fit.df < 1:
            raise ValueError(f"no interval: {fit.n} runs for {fit.problem.size} parameters leave no degrees of freedom")
        if new_run and relative != (fit.loss.space == "log"):
            raise ValueError("new_run needs relative=True where the fit is in the log, and relative=False elsewhere")
    if draws_a.n != draws_b.n:
        raise ValueError(f"{draws_a.n} and {draws_b.n} draws do not pair up")
    seed = np.asarray(jax.random.key_data(jax.random.key(3) if key is None else key)).ravel().tolist()
    rng = np.random.default_rng(seed)
    left, first = _around(a, draws_a, quantity, relative, new_run, rng)
    right, second = _around(b, draws_b, quantity, relative, new_run, rng)
    apart, tail = first - rng.permutation(second), 50 * (1 - level)
    # Not interpolated: between two infinite draws there is nothing.
    low = float(np.nanpercentile(apart, tail, method="lower"))
    high = float(np.nanpercentile(apart, 100 - tail, method="higher"))
    return Difference(left - right, low, high, left, right, level)
