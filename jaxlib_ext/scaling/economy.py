"""Costs beyond training: inference-aware sizes, compute wasted off the optimum, and the compute that a run is
worth."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .fit import Fit
from .plan import REACH, Flops, optimum_of, six_nd
from .resample import Draws, limits

GOLDEN = (5**0.5 - 1) / 2


def two_nd(N, D):
    """Inference FLOPs 2 N D for D tokens read or written, attention left out."""
    return 2 * N * D


@dataclasses.dataclass(frozen=True)
class Lifetime:
    """The cheapest way to a loss when D_inf tokens are to be served: N, training tokens D, FLOPs of both and
    their sum.

    low, high: name -> `limits` from joint draws, or None.
    """

    loss: float
    infer_tokens: float
    N: float
    D: float
    train: float
    infer: float
    total: float
    low: dict[str, float] | None = None
    high: dict[str, float] | None = None


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _cheapest(law, train: Callable, infer: Callable, theta, loss, served, middle):
    """ln N of least lifetime cost for each draw, theta name -> [R]; loss scalar. Returns ln N, ln D, edge,
    each [R]."""

    def tokens(p, n):
        def halve(_, ends):
            low, high = ends
            d = (low + high) / 2
            above = law.predict(p, {"N": n, "D": d}) > loss
            return jnp.where(above, d, low), jnp.where(above, high, d)

        low, high = jax.lax.fori_loop(0, 60, halve, (middle["D"] - 2 * REACH, middle["D"] + 2 * REACH))
        reached = law.predict(p, {"N": n, "D": high}) <= loss * (1 + 1e-9)
        return jnp.where(reached, (low + high) / 2, jnp.nan)

    def cost(p, n):
        d = tokens(p, n)
        value = jnp.log(train(jnp.exp(n), jnp.exp(d)) + infer(jnp.exp(n), served))
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    def one(p):
        grid = middle["N"] + jnp.linspace(-REACH, REACH, 201)
        values = jax.vmap(lambda n: cost(p, n))(grid)
        best = jnp.argmin(values)
        edge = (best == 0) | (best == len(grid) - 1) | ~jnp.isfinite(values[best])

        def shrink(_, ends):
            low, high = ends
            a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
            left = cost(p, a) < cost(p, b)
            return jnp.where(left, low, a), jnp.where(left, b, high)

        step = grid[1] - grid[0]
        low, high = jax.lax.fori_loop(0, 45, shrink, (grid[best] - step, grid[best] + step))
        n = jnp.where(edge, jnp.nan, (low + high) / 2)
        return n, tokens(p, n), edge

    return jax.lax.map(one, theta, batch_size=64)


def lifetime(
    fit: Fit,
    infer_tokens: float,
    loss: float | None = None,
    N: float | None = None,
    train: Flops = six_nd,
    infer: Flops = two_nd,
    draws: Draws | None = None,
    level: float = 0.95,
) -> Lifetime:
    """Least train(N, D) + infer(N, infer_tokens) that reaches a loss, for a law in N and D.

    The loss is given, or is that of a compute-optimal model of N parameters. More tokens to serve call for
    smaller models trained for longer. source: Sardana et al. 2024, arXiv 2401.00448. Raises ValueError unless
    one of loss and N is given, and where no size reaches the loss.
    """
    if (loss is None) == (N is None):
        raise ValueError("give either the loss to reach or the size N whose compute-optimal loss is meant")
    if tuple(fit.law.inputs) != ("N", "D"):
        raise ValueError(f"lifetime cost needs a law in N and D; this one reads {', '.join(fit.law.inputs)}")
    middle = {k: float(np.mean(np.log(fit.data.x[k]))) for k in ("N", "D")}
    goal = float(loss) if loss is not None else optimal_loss_of_size(fit, float(N), train)
    theta = {k: np.array([v]) for k, v in fit.theta.items()}
    if draws is not None:
        theta = {k: np.concatenate([theta[k], draws.theta[k]]) for k in theta}
    with jax.enable_x64(True):
        theta = {k: jnp.asarray(v, jnp.float64) for k, v in theta.items()}
        served = jnp.asarray(infer_tokens, jnp.float64)
        n, d, edge = (np.asarray(a) for a in _cheapest(fit.law, train, infer, theta, jnp.asarray(goal), served, middle))
    if edge[0]:
        raise ValueError(f"no size reaches the loss {goal:g} under this fit")
    size, tokens = np.exp(n), np.exp(d)
    flops = np.asarray(train(size, tokens)), np.asarray(infer(size, infer_tokens))
    out = dict(N=size, D=tokens, train=flops[0], infer=flops[1], total=flops[0] + flops[1])
    low = high = None
    if draws is not None:
        ends = {k: limits(draws, v[1:], v[0], level) for k, v in out.items()}
        low, high = ({k: float(v[side]) for k, v in ends.items()} for side in (0, 1))
    return Lifetime(goal, float(infer_tokens), **{k: float(v[0]) for k, v in out.items()}, low=low, high=high)


def optimal_loss_of_size(fit: Fit, N: float, flops: Flops = six_nd) -> float:
    """The loss of the compute-optimal model with N parameters: the budget is found for which N is the best
    size."""
    middle = float(np.mean(np.log(fit.data.x["N"])))
    best = lambda c: optimum_of(fit.law, fit.theta, np.exp(c), middle, flops)
    low, high = np.log(N) + np.array([0.0, 4 * REACH])
    for _ in range(60):
        c = (low + high) / 2
        low, high = (c, high) if best(c)["N"][0, 0] < N else (low, c)
    return float(best((low + high) / 2)["loss"][0, 0])


@dataclasses.dataclass(frozen=True)
class Worth:
    """Runs (N, D) against the compute-optimal frontier, each [m]: FLOPs spent, FLOPs with which the optimum
    reaches the
    same loss, the share wasted 1 - equivalent / spent, and how much lower a loss the spent FLOPs could have
    bought."""

    spent: np.ndarray
    equivalent: np.ndarray
    waste: np.ndarray
    loss: np.ndarray
    excess: np.ndarray


def equivalent_compute(fit: Fit, N: Any, D: Any, flops: Flops = six_nd) -> Worth:
    """What runs with N parameters and D tokens, scalars or [m], are worth under the fitted law."""
    N, D = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, np.float64)) for v in (N, D)))
    spent, loss = np.asarray(flops(N, D)), fit.predict(dict(N=N, D=D))
    middle = float(np.mean(np.log(fit.data.x["N"])))
    best = lambda c: np.diagonal(optimum_of(fit.law, fit.theta, np.exp(c), middle, flops)["loss"][:1].repeat(len(c), 0))
    low, high = np.log(spent) - REACH, np.log(spent)
    for _ in range(60):
        c = (low + high) / 2
        worse = best(c) > loss
        low, high = np.where(worse, c, low), np.where(worse, high, c)
    equivalent = np.exp((low + high) / 2)
    return Worth(spent, equivalent, 1 - equivalent / spent, loss, loss - best(np.log(spent)))


def waste(fit: Fit, N: Any, D: Any, flops: Flops = six_nd) -> np.ndarray:
    """Share of the training FLOPs that a compute-optimal shape would have saved, [m]."""
    return equivalent_compute(fit, N, D, flops).waste
