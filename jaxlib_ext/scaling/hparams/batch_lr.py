"""batch_lr_scaling: how the largest stable learning rate moves with the batch size, from the Hessian's spectrum.

    top(b) = lambda_1 + P sigma^2 / (b lambda_1)   if lambda_1 > sqrt(P / b) sigma, else 2 sqrt(P / b) sigma
    lr <= 2 / top(b) for SGD: about linear in b while the noise rules, constant once lambda_1 does
    lr'  = lr top(b) / top(b') for SGD, its root for Adam; without a spectrum b' / b and sqrt(b' / b)

The Hessian of a batch of b samples is that of the whole set plus a random symmetric matrix whose entries have variance
sigma^2 / b, in P dimensions; lambda_1 is the largest eigenvalue of the whole set's. Measure top(b) with `lanczos` on
Hessian-vector products, sigma from two batch sizes (`Spectrum.measured`).

source: Granziol, Zohren and Roberts 2022, JMLR 23 (173), arXiv 2006.09092
departs: the paper's rule for Adam is the square root of the SGD rule in the noise regime; that it holds between the
    regimes, through the same ratio, is ours. Momentum: (2 + 2 mu) / top(b) for the heavy ball, a textbook bound
catalogue: batch_lr_scaling
"""

import dataclasses
from typing import Any

import numpy as np

RULES = ("sgd", "adam")


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """top: lambda_1 of the full set's Hessian; noise: P sigma^2, the variance of one sample's entries times P."""

    top: float
    noise: float

    def __post_init__(self):
        if not (self.top >= 0 and self.noise >= 0 and self.top + self.noise > 0):
            raise ValueError(f"a spectrum needs top, noise >= 0, not both 0: {self.top:g}, {self.noise:g}")

    @classmethod
    def measured(cls, small: float, at_small: float, large: float, at_large: float) -> "Spectrum":
        """From the top eigenvalue at two batch sizes, in the regime where it stands out: two equations
        top = lambda_1 + noise / (b lambda_1). Raises ValueError where they have no solution."""
        # noise = (top - lambda) lambda b at both: b1 (t1 - l) = b2 (t2 - l).
        if not 0 < small < large:
            raise ValueError(f"give two batch sizes, the smaller first, not {small:g} and {large:g}")
        top = (large * at_large - small * at_small) / (large - small)
        noise = small * top * (at_small - top)
        if not (top > 0 and noise >= 0):
            raise ValueError(f"top eigenvalues {at_small:g} at {small:g} and {at_large:g} at {large:g} fit no outlier")
        return cls(float(top), float(noise))

    @property
    def threshold(self) -> float:
        """Batch size below which noise hides the largest eigenvalue: noise / top^2."""
        return self.noise / self.top**2 if self.top > 0 else float("inf")


def batch_eigenvalue(spectrum: Spectrum, batch: Any) -> np.ndarray:
    """Largest eigenvalue of a batch's Hessian, batch in samples, scalar or [m].

    >>> batch_eigenvalue(Spectrum(top=4.0, noise=64.0), [1.0, 4.0, 64.0]).tolist()
    [16.0, 8.0, 4.25]
    """
    batch = np.asarray(batch, np.float64)
    if not np.all(batch > 0):
        raise ValueError("a batch must be positive")
    edge = 2 * np.sqrt(spectrum.noise / batch)
    if spectrum.top == 0:
        return edge
    out = spectrum.top + spectrum.noise / (batch * spectrum.top)
    return np.where(batch > spectrum.threshold, out, edge)


def stable_lr(spectrum: Spectrum, batch: Any, momentum: float = 0.0) -> np.ndarray:
    """Largest rate at which gradient descent on the batch's quadratic does not diverge: (2 + 2 momentum) / top."""
    return (2 + 2 * momentum) / batch_eigenvalue(spectrum, batch)


def scale_lr(lr: float, batch: float, to: float, rule: str, spectrum: Spectrum | None = None) -> float:
    """The rate that stands at batch `to` where lr stood at `batch`. rule: "sgd" or "adam".

    Without a spectrum: to / batch and its root, which hold below the threshold only. With one, the growth ends
    where the largest eigenvalue stops falling.

    >>> scale_lr(0.1, 32, 64, "sgd"), round(scale_lr(1e-3, 32, 64, "adam"), 6)
    (0.2, 0.001414)
    """
    if rule not in RULES:
        raise ValueError(f"rules are {', '.join(RULES)}, not {rule!r}")
    if not (lr > 0 and batch > 0 and to > 0):
        raise ValueError("rate and batch sizes must be positive")
    ratio = to / batch if spectrum is None else batch_eigenvalue(spectrum, batch) / batch_eigenvalue(spectrum, to)
    return float(lr * (ratio if rule == "sgd" else np.sqrt(ratio)))
