"""The usual pictures. Each function returns a matplotlib Figure that belongs to no window; matplotlib loads
on use."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .coordinates import Coordinates
from .data import Data
from .design import Design
from .fit import Fit
from .isoflop import IsoFlop
from .laws.response_surface import ResponseSurface
from .plan import optimal
from .profile import Profile
from .resample import Draws
from .select import compute


def _figure(rows: int = 1, columns: int = 1, width: float = 4.5, height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def residuals(fit: Fit):
    """Residuals against every input, compute and the fitted value, and fitted against measured."""
    used = fit.data.weights() > 0
    r, value = fit.residuals()[used], fit.predict()[used]
    across = {k: fit.data.x[k][used] for k in fit.law.inputs} | {
        "compute": compute(fit.data)[used],
        "fitted": value,
    }
    figure, axes = _figure(1, len(across) + 1)
    for axis, (name, x) in zip(axes[0], across.items(), strict=False):
        axis.semilogx(x, r, "o", ms=3)
        axis.axhline(0, color="k", lw=0.8)
        axis.set(xlabel=name, ylabel=f"residual ({fit.loss.space})")
    last, y = axes[0, -1], fit.data.y[used]
    last.plot(y, value, "o", ms=3)
    last.plot([y.min(), y.max()], [y.min(), y.max()], "k", lw=0.8)
    last.set(xlabel="measured", ylabel="fitted")
    return figure


def contours(fit: Fit, draws: Draws | None = None):
    """Loss over N and D, the runs, and the compute-optimal line with its band."""
    figure, axes = _figure(width=5.5, height=4.5)
    axis, x = axes[0, 0], fit.data.x
    N, D = (np.geomspace(v.min() / 3, v.max() * 10, 60) for v in (x["N"], x["D"]))
    grid = np.meshgrid(N, D)
    loss = fit.predict(dict(N=grid[0].ravel(), D=grid[1].ravel())).reshape(grid[0].shape)
    lines = axis.contour(N, D, loss, levels=15, linewidths=0.8)
    axis.clabel(lines, fontsize=7)
    axis.plot(x["N"], x["D"], "k.", ms=4)
    plan = optimal(fit, np.geomspace(6 * N[0] * D[0], 6 * N[-1] * D[-1], 25), draws=draws)
    axis.plot(plan.N, plan.D, "r", label="compute-optimal")
    if plan.low and plan.high:
        axis.fill_betweenx(plan.D, *_along(plan), color="r", alpha=0.15, lw=0)
    axis.set(xscale="log", yscale="log", xlabel="N", ylabel="D", xlim=(N[0], N[-1]), ylim=(D[0], D[-1]))
    axis.legend()
    return figure


def _along(plan):
    """Band of N at the central D of each budget, by the limits of D / N: N = sqrt(N D / ratio)."""
    product = plan.N * plan.D
    return np.sqrt(product / plan.high["ratio"]), np.sqrt(product / plan.low["ratio"])


def frontier(fit: Fit, draws: Draws | None = None, held: Data | None = None):
    """Loss, N, D and D / N against compute along the optimum, with bands; held: further runs to mark."""
    C = 6 * fit.data.x["N"] * fit.data.x["D"]
    budgets = np.geomspace(C.min(), C.max() * 1e3, 40)
    plan = optimal(fit, budgets, draws=draws)
    figure, axes = _figure(1, 4)
    for axis, name in zip(axes[0], ("loss", "N", "D", "ratio"), strict=True):
        axis.plot(budgets, getattr(plan, name))
        if plan.low and plan.high:
            axis.fill_between(budgets, plan.low[name], plan.high[name], alpha=0.2, lw=0)
        axis.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel="D / N" if name == "ratio" else name)
        axis.axvline(C.max(), color="k", lw=0.8, ls=":")
    axes[0, 0].plot(C, fit.data.y, "k.", ms=3)
    if held is not None:
        axes[0, 0].plot(6 * held.x["N"] * held.x["D"], held.y, "rx", ms=5)
    axes[0, 3].axhline(20, color="k", lw=0.8, ls="--")
    return figure


def valleys(data: Data, found: IsoFlop):
    """Loss against size in each budget, with the minima that were accepted."""
    figure, axes = _figure(width=5.5, height=4.5)
    axis = axes[0, 0]
    C = 6 * data.x["N"] * data.x["D"]
    budget = data.budget if data.budget is not None else np.array([float(f"{c:.2e}") for c in C])
    for c in found.C:
        rows = np.flatnonzero(budget == c)
        rows = rows[np.argsort(data.x["N"][rows])]
        axis.semilogx(data.x["N"][rows], data.y[rows], ".-", lw=0.8, label=f"{c:.1e}")
    axis.plot(found.N, found.loss, "k*", ms=9)
    axis.set(xlabel="N", ylabel="loss")
    axis.legend(fontsize=6, title="FLOPs")
    return figure


def rainbow(fits: Sequence[Fit], reach: float = 1e3):
    """Several laws fitted to the same runs: measured against fitted, and each law's compute-optimal loss up to
    `reach` times the compute of the runs."""
    from .report import law_text

    data = fits[0].data
    C = 6 * data.x["N"] * data.x["D"]
    budgets = np.geomspace(C.min(), C.max() * reach, 40)
    figure, axes = _figure(1, 2, width=5.5, height=4.5)
    for got in fits:
        used = got.data.weights() > 0
        axes[0, 0].plot(got.predict()[used], got.data.y[used], ".", ms=4, label=law_text(got.law))
        axes[0, 1].plot(budgets, optimal(got, budgets).loss, label=law_text(got.law))
    ends = [data.y.min(), data.y.max()]
    axes[0, 0].plot(ends, ends, "k", lw=0.8)
    axes[0, 0].set(xlabel="fitted", ylabel="measured")
    axes[0, 1].plot(C, data.y, "k.", ms=3)
    axes[0, 1].axvline(C.max(), color="k", lw=0.8, ls=":")
    axes[0, 1].set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel="loss")
    axes[0, 1].legend(fontsize=7)
    return figure


def candidates(found: Design):
    """Score of every candidate against its cost, with those that were taken numbered in order."""
    figure, axes = _figure(width=5.5, height=4.5)
    axis = axes[0, 0]
    axis.loglog(found.price, np.maximum(found.worth, 1e-300), "k.", ms=4)
    for order, row in enumerate(found.rows, 1):
        axis.plot(found.price[row], found.worth[row], "rx", ms=6)
        axis.annotate(str(order), (found.price[row], found.worth[row]), fontsize=7)
    axis.set(xlabel="cost", ylabel="score before the first run")
    return figure


def batch_map(fit: Fit, at: dict[str, float], lr: str = "lr", batch: str = "B"):
    """Loss over learning rate and batch at fixed other inputs, from a `response_surface` fit, with its optimum."""
    if not isinstance(fit.law, ResponseSurface):
        raise ValueError(f"batch_map draws a fit of response_surface, not of {type(fit.law).__name__}")
    figure, axes = _figure(width=5.5, height=4.5)
    axis, x = axes[0, 0], fit.data.x
    rate, size = (np.geomspace(x[k].min(), x[k].max(), 60) for k in (lr, batch))
    grid = np.meshgrid(rate, size)
    points = {lr: grid[0].ravel(), batch: grid[1].ravel()} | {k: np.full(3600, float(v)) for k, v in at.items()}
    lines = axis.contour(rate, size, fit.predict(points).reshape(60, 60), levels=15, linewidths=0.8)
    axis.clabel(lines, fontsize=7)
    best = fit.law.optimum(fit.theta, (lr, batch), at)
    axis.plot(best[lr], best[batch], "r*", ms=12)
    axis.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="batch")
    return figure


def corner(draws: Draws):
    """Every pair of parameters over the refits."""
    names = list(draws.theta)
    figure, axes = _figure(len(names), len(names), 1.8, 1.8)
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            axis = axes[i, j]
            if j > i:
                axis.axis("off")
            elif i == j:
                axis.hist(draws[row], bins=40)
            else:
                axis.plot(draws[column], draws[row], ".", ms=1, alpha=0.3)
            if i == len(names) - 1:
                axis.set_xlabel(column)
            if j == 0:
                axis.set_ylabel(row)
            axis.tick_params(labelsize=5)
    return figure


def profiles(curves: Sequence[Profile]):
    """Profile statistics with their limits."""
    figure, axes = _figure(1, len(curves))
    for axis, p in zip(axes[0], curves, strict=True):
        near = p.statistic < 6 * p.limit
        axis.plot(p.values[near], p.statistic[near], ".-")
        axis.axhline(p.limit, color="k", lw=0.8, ls="--")
        axis.set(xlabel=p.name, ylabel="statistic")
    return figure


def coordinates(checks: Mapping[str, Coordinates], steps: Sequence[int] = (0, 1, -1)):
    """Activations against width, one row a check by its title and one column a step."""
    figure, axes = _figure(len(checks), len(steps))
    for row, (title, check) in zip(axes, checks.items(), strict=True):
        for axis, step in zip(row, steps, strict=True):
            for i, layer in enumerate(check.layers):
                axis.loglog(check.widths, check.rms[:, step, i], ".-", lw=0.8, label=layer)
            after = step % check.rms.shape[1]
            axis.set(xlabel="width", ylabel="root mean square")
            axis.set_title(f"{title}, step {after}" if axis is row[0] else f"step {after}", fontsize=8, loc="left")
            axis.set_xticks(check.widths, [str(w) for w in check.widths], minor=False)
            axis.minorticks_off()
        row[-1].legend(fontsize=5, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
