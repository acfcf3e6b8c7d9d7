"""The best learning rate of a constant phase against batch size and tokens: lr = batch a n^b, capped.

n tokens seen, batch in the unit that a was fitted in (sequences of some length, or tokens): the rate is the
same for every length of the run, so a run can be stopped or continued anywhere. `optim.make_schedule("power", ...)`
is the schedule with warm-up and final decay.

source: Shen et al. 2024, arXiv 2408.13359. The constants a and b are arguments without defaults: public code and
paper differ, and the unit of the batch is not stated beside them. Meant for muP.
"""

import dataclasses
from typing import Any

import numpy as np

from ..data import Data
from ..fit import Fit, fit
from ..law import function
from ..losses import lsq


def power_lr(n: Any, batch: Any, a: float, b: float, most: float = np.inf) -> np.ndarray:
    """min(most, batch a n^b) after n tokens; n and batch scalars or [m].

    >>> power_lr([1e9, 1.0], batch=1024, a=4.6, b=-0.51, most=0.2).round(6).tolist()
    [0.121076, 0.2]
    """
    n, batch = np.asarray(n, np.float64), np.asarray(batch, np.float64)
    if not (np.all(n > 0) and np.all(batch > 0)):
        raise ValueError("tokens and batch must be positive")
    return np.minimum(most, batch * a * n**b)


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """a, b of `power_lr`, from the fit of a and b, whose bootstrap and intervals are those of any law."""

    a: float
    b: float
    fit: Fit


def _rate(p, x):
    return p["a"] * x["batch"] * x["tokens"] ** p["b"]


def fit_power_lr(tokens: Any, batch: Any, lr: Any) -> PowerLaw:
    """a and b from the best rates lr of runs over `tokens` tokens in batches of `batch`, each [n], in log space.

    The best rates come from `optima`, not from the lowest point of a grid.
    """
    tokens = np.asarray(tokens, np.float64)
    typical = float(np.exp(np.mean(np.log(tokens))))  # a user's law is not centred: centre it here
    law = function(_rate, ("tokens", "batch"), dict(a=(1e-8, 1.0), b=(-1.0, 0.5)), real=("b",), linear=("a",))
    got = fit(law, Data(dict(tokens=tokens / typical, batch=batch), lr), lsq())
    return PowerLaw(got.theta["a"] * typical ** -got.theta["b"], got.theta["b"], got)
