"""critical_batch_size: the largest batch at which training still takes little longer than perfect scaling says.

    S(B) = a + b / B = S_min (1 + B_c / B),  S_min = a,  B_c = b / a
    B* solves S(B*) = (1 + extra) S(base) base / B*:   B* = (1 + extra) base + extra b / a

S(B): optimizer steps to a target loss at batch B, from runs at a constant rate with averaged weights, so that no
horizon is fixed in advance. B* across model sizes or tokens is a power law like any other, with intervals. The form
behind it is (S / S_min - 1) (T / T_min - 1) = 1 for T = S B tokens (McCandlish et al. 2018, arXiv 1812.06162).

source: Zhang et al. 2024, arXiv 2410.21676: base 256 sequences of 512 tokens, extra 0.2; B* = 93.20 N^0.47, N in
    millions, sequences, for compute-optimal runs
catalogue: critical_batch_size
"""

import dataclasses
from typing import Any

import numpy as np

from ..data import Data
from ..fit import Fit, fit
from ..losses import Loss, lsq
from ..predict import Prediction, predict


@dataclasses.dataclass(frozen=True)
class CriticalBatch:
    """One entry a size: critical batch [m] in the unit of the batches, S_min and B_c of its curve, the curve's fit."""

    size: np.ndarray
    batch: np.ndarray
    least_steps: np.ndarray
    noise_scale: np.ndarray
    fits: tuple[Fit, ...]
    base: float
    extra: float

    def __str__(self):
        rows = zip(self.size, self.batch, self.least_steps, self.noise_scale, strict=True)
        head = f"{'size':>12} {'B*':>10} {'S_min':>10} {'B_c':>10}   {self.extra:.0%} over linear from {self.base:g}"
        return "\n".join([head, *(f"{n:12.5g} {b:10.5g} {s:10.5g} {c:10.5g}" for n, b, s, c in rows)])


def overhead(batch: Any, base: float, noise_scale: float) -> np.ndarray:
    """How much more than perfect scaling from `base` the curve S(B) = S_min (1 + noise_scale / B) asks for, less 1.

    >>> round(float(overhead(512.0, base=256.0, noise_scale=1000.0)), 4)
    0.2038
    """
    batch = np.asarray(batch, np.float64)
    return (batch + noise_scale) / (base + noise_scale) - 1


def measure_critical_batch(
    size: Any, batch: Any, steps: Any, base: float = 256.0, extra: float = 0.2, loss: Loss | None = None
) -> CriticalBatch:
    """Critical batch of every size from steps to its target loss at several batches, each [n].

    size: number that names the model or the tokens it saw. loss: least squares in the log of the steps by
    default. Raises ValueError for a size with fewer than 3 batches.
    """
    size, batch, steps = (np.atleast_1d(np.asarray(v, np.float64)) for v in (size, batch, steps))
    if not size.shape == batch.shape == steps.shape:
        raise ValueError(f"size, batch and steps must be of one length, not {size.shape}, {batch.shape}, {steps.shape}")
    if not (base > 0 and extra > 0):
        raise ValueError(f"base and extra must be positive, not {base:g} and {extra:g}")
    sizes, fits = np.unique(size), []
    for s in sizes:
        rows = size == s
        if len(np.unique(batch[rows])) < 3:
            raise ValueError(f"size {s:g} has {len(np.unique(batch[rows]))} batches; the curve needs 3")
        data = Data(dict(B=batch[rows]), steps[rows])
        fits.append(fit("power_offset(input='B')", data, loss or lsq(), fixed=dict(alpha=1.0)))
    least = np.array([f.theta["E"] for f in fits])
    noise = np.array([f.theta["A"] for f in fits]) / least
    return CriticalBatch(sizes, (1 + extra) * base + extra * noise, least, noise, tuple(fits), base, extra)


def growth(measured: CriticalBatch, loss: Loss | None = None) -> Fit:
    """B* = A size^-alpha over the sizes measured (alpha is negative: it grows), by least squares in the log."""
    return fit("power(input='size')", Data(dict(size=measured.size), measured.batch), loss or lsq())


def predict_critical_batch(measured: CriticalBatch, size: Any, level: float = 0.95) -> Prediction:
    """Critical batch at other sizes, with the interval of the power law through the measured ones."""
    return predict(growth(measured), dict(size=size), level=level, kind="mean")


def steps_to(steps: Any, loss: Any, target: float) -> float:
    """The first step at which a loss curve reaches the target, by straight lines in log steps; infinite if never.

    >>> round(steps_to([100, 200, 400], [3.0, 2.5, 2.0], 2.25), 2)
    282.84
    """
    steps, loss = np.asarray(steps, np.float64), np.asarray(loss, np.float64)
    under = np.flatnonzero(loss <= target)
    if not len(under):
        return float("inf")
    i = int(under[0])
    if i == 0:
        return float(steps[0])
    share = (loss[i - 1] - target) / (loss[i - 1] - loss[i])
    return float(steps[i - 1] * (steps[i] / steps[i - 1]) ** share)
