"""Whether a fit can be believed, in one word and one line."""

import enum

import numpy as np

from .problem import Problem, Rows

NO_EFFECT = 1e-5  # a parameter that moves no prediction by this relative amount when it moves by 1
LOOSE = 1.0  # standard error of a direction of logs and exponents beyond which it is called flat


class Status(enum.StrEnum):
    """converged is the only one whose parameters mean what they say."""

    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    BOUND = "bound"
    FLAT = "flat"
    UNDERDETERMINED = "underdetermined"


def direction_text(names: tuple[str, ...], vector: np.ndarray, domains: dict) -> str:
    """A direction in coordinates, largest parts first: "+0.93 log A -0.36 alpha"."""
    vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
    say = lambda k: {"positive": f"log {k}", "real": k}.get(domains[k], f"logit {k}")
    order = [i for i in np.argsort(-np.abs(vector)) if abs(vector[i]) > 0.1]
    return " ".join(f"{vector[i]:+.2f} {say(names[i])}" for i in order)


def condition(j: np.ndarray, w: np.ndarray) -> float:
    """Condition number of J' W J in free coordinates; infinite where it is singular."""
    s = np.linalg.svd(j * np.sqrt(w)[:, None], compute_uv=False)
    return float((s[0] / s[-1]) ** 2) if len(s) and s[-1] > 0 else float("inf")


def diagnose(
    problem: Problem, u: np.ndarray, rows: Rows, r: np.ndarray, j: np.ndarray, left: float
) -> tuple[Status, str]:
    """u [p] coordinates, r [n] residuals, j [n, p] their Jacobian, left: relative decrease still promised."""
    names, domains, (z, y, w, _) = problem.free, dict(problem.domains), rows
    used = w > 0
    n, p = int(used.sum()), len(names)
    scale = 1.0 if problem.loss.space == "log" else float(np.median(np.abs(y[used])))
    jw = j[used] * np.sqrt(w[used])[:, None] / scale
    if n <= p:
        return Status.UNDERDETERMINED, f"{n} runs for {p} free parameters leave nothing to judge the fit by"
    if not np.all(np.isfinite(jw)) or not np.all(np.isfinite(r[used])):
        return Status.MAX_ITER, "the fit is not finite"
    effect = np.max(np.abs(j[used]), axis=0) / scale
    for i, k in enumerate(names):
        if isinstance(domains[k], tuple):
            share = 1 / (1 + np.exp(-u[i]))
            if min(share, 1 - share) < 1e-6:
                return Status.BOUND, f"{k} is at its bound {domains[k][int(share > 0.5)]:g}"
        if domains[k] == "positive" and effect[i] < NO_EFFECT:
            return Status.BOUND, f"{k} went to {'0' if u[i] < 0 else 'infinity'}: no prediction depends on it"
    for k in problem.law.inputs:
        if np.ptp(z[k][used]) < 1e-9:
            return Status.UNDERDETERMINED, f"all runs have the same {k}"
    if np.any(effect < NO_EFFECT):
        return Status.FLAT, f"no prediction depends on {names[int(np.argmin(effect))]}"
    size = np.sqrt(np.sum(jw * jw, 0))
    _, s, v = np.linalg.svd(jw / size, full_matrices=False)
    if s[-1] < 1e-7 * s[0]:
        way = v[-1] / size
        text = direction_text(names, way / np.linalg.norm(way), domains)
        return Status.UNDERDETERMINED, f"the data say nothing about {text}"
    if not left < 1e-8:
        return Status.MAX_ITER, f"stopped while a relative decrease of {left:.1e} was still promised"
    variance = np.sum(w[used] * (r[used] / scale) ** 2) / (n - p)
    values, vectors = np.linalg.eigh(np.linalg.inv(jw.T @ jw) * variance)
    if values[-1] > LOOSE**2:
        text = direction_text(names, vectors[:, -1], domains)
        return Status.FLAT, f"{text} is hardly determined: standard error {values[-1] ** 0.5:.2g}"
    return Status.CONVERGED, ""
