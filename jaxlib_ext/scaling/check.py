"""What in the runs or in the fit is known to mislead, one line each."""

import numpy as np

from .data import Data, suspicions
from .fit import Fit, fit
from .losses import huber


def check_data(data: Data, inputs: tuple[str, ...]) -> list[str]:
    """Findings about the runs, none if all is well."""
    out = suspicions(data, inputs)
    used = data.weights() > 0
    for k in inputs:
        kinds = len(np.unique(data.x[k][used]))
        if kinds < 5:
            out.append(f"few sizes: {kinds} values of {k}; five or more are needed to see a floor")
    if {"N", "D"} <= set(inputs):
        N, D = data.x["N"][used], data.x["D"][used]
        reach = np.log10((N * D).max() / (N * D).min())
        if reach < 2:
            out.append(f"short reach: compute spans 10^{reach:.1f}; two orders or more are needed to extrapolate")
        spread = np.log10((D / N).max() / (D / N).min())
        if spread < 0.5:
            out.append(f"one ratio: D / N spans only 10^{spread:.2f}, so the N and D terms cannot be told apart")
    rows = np.stack([data.x[k][used] for k in inputs], 1)
    if len(np.unique(rows, axis=0)) == len(rows):
        out.append("no repeats: no run has a second seed, so noise can only be judged by the law's own residuals")
    if data.group is None and {"N", "D"} <= set(inputs):
        sizes, counts = np.unique(data.x["N"][used], return_counts=True)
        if counts.max() >= 20 and len(sizes) <= len(rows) / 10:
            i = int(np.argmax(counts))
            out.append(f"checkpoints? {counts[i]} rows share N = {sizes[i]:g}: rows of one run need a group column")
    return out


def check_fit(got: Fit) -> list[str]:
    """Findings about a fit: its status, its starts, outlying runs, trends in the residuals, the Huber
    width."""
    out = [] if got.status == "converged" else [f"status {got.status.value}: {got.reason}"]
    if got.hit_rate < 0.1:
        out.append(f"lonely optimum: {got.hit_rate:.1%} of the starts reached it; try more starts")
    for k, v in got.theta.items():
        if k in ("alpha", "beta") and v < 0:
            out.append(f"wrong sign: {k} = {v:.3g}, the term grows with its input")
    used = got.data.weights() > 0
    r = got.residuals()[used]
    typical = 1.4826 * float(np.median(np.abs(r)))
    rows = np.flatnonzero(used)[np.abs(r) > 6 * typical]
    if typical > 0 and len(rows):
        worst = rows[np.argmax(np.abs(got.residuals()[rows]))]
        out.append(f"outliers: {len(rows)} runs lie over 6 deviations off, the worst is row {worst}")
    for k, z in got.z().items():
        z = z[used]
        if np.ptp(z) > 0 and len(r) > 8:
            bend = np.polyfit(z, np.clip(r, -3 * typical, 3 * typical), 2)[0] * np.var(z)
            if abs(bend) > 3 * typical * np.sqrt(2 / len(r)) and typical > 0:
                out.append(f"bent residuals: they curve with {k}, so the law misses something")
    return out + _width_line(got)


def _width_line(got: Fit) -> list[str]:
    """How far the parameters move with the Huber width: a choice that papers leave out."""
    if got.loss.kind != "huber" or got.loss.space != "log" or got.status != "converged":
        return []
    moves = {}
    for delta in (1e-4, 1e-2):
        other = fit(got.law, got.data, huber(delta), fixed=got.fixed, bounds=got.bounds, starts=16)
        for k, v in other.theta.items():
            moves.setdefault(k, [got.theta[k]]).append(v)
    spans = {k: (min(v), max(v)) for k, v in moves.items()}
    wide = {k: s for k, s in spans.items() if abs(s[1] - s[0]) > 0.03 * abs(got.theta[k])}
    text = ", ".join(f"{k} {lo:.4g} to {hi:.4g}" for k, (lo, hi) in wide.items())
    return [f"loss matters: with Huber widths 1e-4 to 1e-2, {text}"] if wide else []
