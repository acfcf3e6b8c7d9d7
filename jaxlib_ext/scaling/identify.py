"""Which directions of the parameters the data hold, and which they do not."""

import dataclasses

import numpy as np

from .covariance import cov_free
from .fit import Fit
from .status import LOOSE, direction_text


@dataclasses.dataclass(frozen=True)
class Identifiability:
    """Directions of free coordinates (logs of positive parameters), the loosest first.

    se [p]: standard error along each; text [p]: the direction; correlation [p, p] of the coordinates; flat:
    texts of the directions that the data hardly hold.
    """

    names: tuple[str, ...]
    se: np.ndarray
    text: tuple[str, ...]
    correlation: np.ndarray
    flat: tuple[str, ...]

    def __str__(self):
        lines = ["standard error  direction"]
        lines += [
            f"{s:14.4g}  {t}{'  <- flat' if t in self.flat else ''}" for s, t in zip(self.se, self.text, strict=True)
        ]
        c = np.abs(np.triu(self.correlation, 1))
        i, j = np.unravel_index(np.argmax(c), c.shape)
        if len(self.names) > 1:
            value = self.correlation[i, j]
            lines.append(f"closest pair: {self.names[i]} and {self.names[j]}, correlation {value:.4f}")
        return "\n".join(lines)


def identify(fit: Fit, kind: str = "delta") -> Identifiability:
    """Eigen-directions of the covariance of the free coordinates at centred logs; kind as in `cov`.

    A direction is flat where its standard error is above 1: a factor e in amplitudes, or 1 in an exponent.
    """
    c, names, domains = cov_free(fit, kind), fit.problem.free, dict(fit.problem.domains)
    values, vectors = np.linalg.eigh(c)
    order = np.argsort(-values)
    se = np.sqrt(np.maximum(values[order], 0))
    text = tuple(direction_text(names, vectors[:, i], domains) for i in order)
    d = np.sqrt(np.maximum(np.diagonal(c), 1e-300))
    flat = tuple(t for s, t in zip(se, text, strict=True) if s > LOOSE)
    return Identifiability(names, se, text, c / np.outer(d, d), flat)


def runs_needed(n: int, width: float, target: float) -> int:
    """Runs at which an interval that is `width` wide with n runs of the same kind would be `target` wide.

    Widths shrink with the root of n, so a published interval can be checked against its number of runs.

    >>> runs_needed(240, 0.0514, 0.001)
    634071
    """
    if not (width > 0 and target > 0):
        raise ValueError("widths must be positive")
    return int(np.ceil(n * (width / target) ** 2))
