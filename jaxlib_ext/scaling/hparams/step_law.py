"""step_law: the best peak learning rate and batch size of a language model against its size and its tokens.

    lr = lr_scale N^lr_N D^lr_D        batch = batch_scale D^batch_D

N: parameters without the embedding; D: training tokens; batch in tokens. AdamW, a final rate held at 1e-5.
source: Li et al. 2025, arXiv 2503.04715: 1.79, -0.713, 0.307 and 0.58, 0.571, from N 6e7 to 1.1e9, D 2e9 to 1e11
departs: `fit_step_law` interpolates the optimum of each (N, D) (`optima`), then fits a power law to the optima; the
    authors regress on every run within 0.25% of the lowest
catalogue: step_law
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from .optima import Optima, optima


@dataclasses.dataclass(frozen=True)
class StepLaw:
    """Constants; the published ones by default. Call it with N and D, scalars or [m]."""

    lr_scale: float = 1.79
    lr_N: float = -0.713
    lr_D: float = 0.307
    batch_scale: float = 0.58
    batch_D: float = 0.571

    def __call__(self, N: Any, D: Any) -> dict[str, np.ndarray]:
        """{"lr": peak rate, "batch": tokens a step}."""
        N, D = np.asarray(N, np.float64), np.asarray(D, np.float64)
        if not (np.all(N > 0) and np.all(D > 0)):
            raise ValueError("N and D must be positive")
        return dict(lr=self.lr_scale * N**self.lr_N * D**self.lr_D, batch=self.batch_scale * D**self.batch_D)


def step_law(N: Any, D: Any) -> dict[str, np.ndarray]:
    """The published law at N parameters (no embedding) and D tokens.

    >>> {k: float(f"{v:.4g}") for k, v in step_law(1e9, 1e11).items()}
    {'lr': 0.001632, 'batch': 1108000.0}
    """
    return StepLaw()(N, D)


def fit_step_law(
    N: Any, D: Any, lr: Any, batch: Any, loss: Any, near: float = 0.01, draws: int = 1000, key: jax.Array | None = None
) -> tuple[StepLaw, dict[str, np.ndarray], Optima]:
    """The law's constants from sweeps over lr and batch (tokens a step) at several N and D, each [n].

    Returns (law, constant -> [draws] that its groups allow, the optima that it was fitted to). Raises ValueError
    with fewer than 4 groups that have an optimum inside their grid.
    """
    found = optima(dict(N=N, D=D), dict(lr=lr, batch=batch), loss, near)
    ok = found.ok
    if ok.sum() < 4:
        raise ValueError(f"{ok.sum()} of {len(ok)} groups have an optimum inside their grid; the law needs 4")
    n, d = (np.log(found.keys[k][ok]) for k in ("N", "D"))
    rate, size = (np.log(found.best[k][ok]) for k in ("lr", "batch"))
    seed = np.asarray(jax.random.key_data(jax.random.key(0) if key is None else key)).ravel().tolist()
    rng = np.random.default_rng(seed)
    by_rate = _regress(np.stack([n, d], 1), rate, draws, rng)
    by_size = _regress(d[:, None], size, draws, rng)
    each = dict(
        lr_scale=np.exp(by_rate[:, 0]), lr_N=by_rate[:, 1], lr_D=by_rate[:, 2],
        batch_scale=np.exp(by_size[:, 0]), batch_D=by_size[:, 1],
    )  # fmt: skip
    return StepLaw(**{k: float(v[0]) for k, v in each.items()}), {k: v[1:] for k, v in each.items()}, found


def _regress(inputs: np.ndarray, y: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Least squares of y [m] on inputs [m, k] with an intercept: [1 + draws, 1 + k], the estimate first, then draws
    from its t distribution, which is exact for equal normal errors however few the groups."""
    m, middle = len(y), inputs.mean(0)
    basis = np.concatenate([np.ones((m, 1)), inputs - middle], 1)
    best, _, rank, _ = np.linalg.lstsq(basis, y, rcond=None)
    if rank < basis.shape[1] or m <= rank:
        raise ValueError(f"{m} groups with an optimum do not hold {basis.shape[1]} constants: vary N and D apart")
    df = m - rank
    root = np.linalg.cholesky(np.linalg.inv(basis.T @ basis)) * np.sqrt(np.sum((y - basis @ best) ** 2) / df)
    wide = np.sqrt(df / rng.chisquare(df, size=(draws, 1)))
    out = np.concatenate([best[None], best + wide * (rng.standard_normal((draws, len(best))) @ root.T)])
    out[:, 0] -= out[:, 1:] @ middle
    return out
