"""The three regions of a learning curve: a guess at first, then the power law, at last the irreducible error.

error(D) = level for the smallest sets, A D^-alpha + E beyond. Where the law begins is the cut with the least sum of
squared log residuals after a charge for the level; where it ends in its floor is where A D^-alpha falls below E.

source: Hestness et al. 2017, arXiv 1712.00409, section 3; how the cut is found is ours
"""

import dataclasses
from typing import Any

import numpy as np

from .data import Data
from .fit import Fit, fit
from .losses import lsq


@dataclasses.dataclass(frozen=True)
class Regions:
    """guess: error of the smallest sets, not a number without such a region; power_from: the smallest set in the
    power law; floor_from: the size at which half of the error is irreducible, infinite without a floor; fit: the law
    from power_from on."""

    guess: float
    power_from: float
    floor_from: float
    fit: Fit


def regions(D: Any, error: Any) -> Regions:
    """Splits a learning curve with sizes D [n] and errors [n]. Raises ValueError for fewer than 5 sizes."""
    D, error = (np.asarray(v, np.float64) for v in (D, error))
    order = np.argsort(D)
    D, error = D[order], error[order]
    n = len(D)
    if len(np.unique(D)) < 5:
        raise ValueError(f"a learning curve needs 5 sizes, not {len(np.unique(D))}")
    tried = []
    for cut in range(n - 3):
        got = fit("hestness", Data(dict(D=D), error, w=1.0 * (np.arange(n) >= cut)), lsq(), starts=16)
        flat = float(np.var(np.log(error[:cut])) * cut) if cut else 0.0
        rss = max(got.objective + flat, 1e-12 * n)
        tried.append((n * np.log(rss / n) + (np.log(n) if cut else 0.0), cut, got))
    _, cut, got = min(tried, key=lambda t: t[0])
    theta = got.theta
    ratio = theta["A"] / theta["E"]
    held = got.status == "converged" and theta["alpha"] > 0
    floor = float(ratio ** (1 / theta["alpha"])) if held else float("inf")
    guess = float(np.exp(np.mean(np.log(error[:cut])))) if cut else float("nan")
    return Regions(guess, float(D[cut]), floor, got)
