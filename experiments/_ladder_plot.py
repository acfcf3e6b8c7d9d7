"""Plots of ladders."""

from typing import Any

import numpy as np
from etils import epath

from jaxlib_ext import scaling
from jaxlib_ext.training.progress import human_count


def plot(path: epath.Path, mixer: str, fit, draws, rows: list[dict], tests: list[dict]) -> None:
    """Loss against tokens for every width with the law, and predicted against measured."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    widths = sorted({r["width"] for r in rows})
    tokens = np.geomspace(min(r["tokens"] for r in rows) / 1.5, max(r["tokens"] for r in rows) * 2, 60)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(widths)))
    for width, colour in zip(widths, colours, strict=True):
        mine = [r for r in rows if r["width"] == width]
        n = mine[0]["parameters"]
        band = scaling.predict(fit, dict(N=np.full(60, float(n)), D=tokens), draws, kind="mean")
        left.plot(tokens, band.value, color=colour, lw=1.2)
        left.fill_between(tokens, band.low, band.high, color=colour, alpha=0.15, lw=0)
        used = [r for r in mine if not any(t["width"] == width and t["tokens"] == r["tokens"] for t in tests)]
        label = f"width {width} ({human_count(n)})"
        if used:
            left.plot([r["tokens"] for r in used], [r["eval_loss"] for r in used], "o", color=colour, ms=5, label=label)
        fresh = [t for t in tests if t["width"] == width]
        left.plot([t["tokens"] for t in fresh], [t["measured"] for t in fresh], "*", color=colour, ms=14, mec="black",
                  label=f"{label}, held out" if fresh else None)  # fmt: skip
    left.set(xscale="log", xlabel="training tokens", ylabel="held-out loss, nats a token", title=mixer)
    budgets = sorted({r["tokens"] for r in rows})
    left.set_xticks(budgets, [human_count(t) for t in budgets])
    left.minorticks_off()
    left.legend(fontsize=8)
    right.plot(fit.predict(), fit.data.y, "o", ms=5, label="fitted runs")
    for t in tests:
        error = [[t["predicted"] - t["low"]], [t["high"] - t["predicted"]]]
        right.errorbar(t["predicted"], t["measured"], xerr=error, fmt="*", ms=13, capsize=4, color="tab:red",
                       label="held out, 95% interval for a new run")  # fmt: skip
    ends = [min(fit.data.y.min(), *(t["low"] for t in tests)), fit.data.y.max()]
    right.plot(ends, ends, color="grey", lw=0.8)
    right.set(xlabel="predicted loss", ylabel="measured loss", title="the law against the runs")
    right.legend(fontsize=8)
    save(path, figure)


def compare(path: epath.Path, laws: list[Any], rows: list[dict], budget: float) -> None:
    """Best loss against compute of every law with its runs, and the differences with their limits.

    rows: differences, each with `pair`, `what`, `value`, `low`, `high`. budget: FLOPs at which losses are compared.
    """
    plt = pyplot()
    whats = [*dict.fromkeys(r["what"] for r in rows)]
    pairs = [*dict.fromkeys(r["pair"] for r in rows)]
    figure, axes = plt.subplots(
        1, 1 + len(whats), figsize=(6.5 + 2.6 * len(whats), 2.2 + max(2.6, 0.35 * len(pairs))), layout="constrained",
        width_ratios=[2.4] + [1] * len(whats),
    )  # fmt: skip
    left, colours = axes[0], [plt.get_cmap("tab10")(i) for i in range(10)]
    low = min(r["flops"] for law in laws for r in law.rows)
    C = np.geomspace(low, 4 * budget, 40)
    for law, colour in zip(laws, colours * 9, strict=False):
        plan = scaling.optimal(law.fit, C, draws=law.draws)
        left.plot(C, plan.loss, color=colour, lw=1.4, label=law.mixer)
        if plan.low is not None and plan.high is not None:
            left.fill_between(C, plan.low["loss"], plan.high["loss"], color=colour, alpha=0.15, lw=0)
        for runs, mark, size in ((law.rows, "o", 3.5), (law.held, "*", 13)):
            left.plot([r["flops"] for r in runs], [r["eval_loss"] for r in runs], mark, color=colour, ms=size,
                      mec="black" if mark == "*" else None)  # fmt: skip
    left.plot([], [], "*", color="white", mec="black", ms=11, label="held out")
    left.axvline(budget, color="grey", lw=0.8, ls=":")
    left.set(xscale="log", xlabel="training FLOPs, 6 N D", ylabel="held-out loss, nats a token",
             title="compute-optimal loss of each law, 95%")  # fmt: skip
    left.legend(fontsize=8)
    for axis, what in zip(axes[1:], whats, strict=True):
        mine = {r["pair"]: r for r in rows if r["what"] == what}
        for y, pair in enumerate(pairs):
            if r := mine.get(pair):
                colour = "tab:red" if r["low"] > 0 or r["high"] < 0 else "grey"
                axis.plot([r["low"], r["high"]], [y, y], color=colour, lw=2)
                axis.plot(r["value"], y, "o", color=colour, ms=6)
        axis.axvline(0, color="black", lw=0.8)
        axis.set(title=what, ylim=(len(pairs) - 0.5, -0.5))
        axis.title.set_fontsize(9)
        axis.set_yticks(range(len(pairs)), pairs if axis is axes[1] else [""] * len(pairs), fontsize=8)
        axis.locator_params(axis="x", nbins=4)
    save(path, figure)


def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(path: epath.Path, figure) -> None:
    with path.open("wb") as f:
        figure.savefig(f, format="png", dpi=130)
    pyplot().close(figure)
