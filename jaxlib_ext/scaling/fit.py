"""One call that fits any law: `fit(law, data)`."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import law as laws_of
from .data import Data, check
from .law import Domain, Law, centred, named
from .laws import LAWS
from .losses import Loss, huber
from .problem import Problem, Rows, padded
from .starts import box, complete, draw
from .status import Status, condition, diagnose
from .varpro import chosen, project

METHOD = "BFGS from Gauss-Newton, wide to narrow, then Newton; float64"
HIT = 1e-6  # a start is at the optimum if its objective is at most this share above the best


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted law with everything that was chosen on the way. Arrays are float64.

    theta: natural parameters, in the units of the data. objective: the loss as `losses.py` writes it, summed
    over runs. gradient_norm: of objective in free coordinates, with the loss's width divided out. hit_rate:
    share of starts whose objective is at most 1e-6 above the best. condition: of J'WJ in free coordinates, at
    centred logs. moved: largest change of a coordinate from the best start to the optimum. u: the free
    coordinates, at inputs z - centre.
    """

    law: Law
    data: Data
    loss: Loss
    theta: dict[str, float]
    objective: float
    status: Status
    reason: str
    gradient_norm: float
    hit_rate: float
    condition: float
    moved: float
    u: np.ndarray
    centre: dict[str, float]
    fixed: dict[str, float]
    bounds: dict[str, tuple[float, float]]
    settings: dict[str, Any]

    @property
    def n(self) -> int:
        """Runs with a weight."""
        return self.data.n

    @property
    def df(self) -> int:
        """Runs less free parameters of the law."""
        return self.n - self.problem.size

    @property
    def problem(self) -> Problem:
        """The same fit as functions of free coordinates."""
        return problem_of(self.law, self.loss, self.fixed, self.bounds)

    @property
    def scale(self) -> float | None:
        """The fitted scale of `losses.learned`, else None."""
        return float(np.exp(self.u[-1])) if self.loss.extra else None

    def z(self, x: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Centred log inputs, of the data by default."""
        x = self.data.x if x is None else x
        return {k: np.log(np.asarray(x[k], np.float64)) - self.centre[k] for k in self.law.inputs}

    def predict(self, x: Mapping[str, Any] | None = None) -> np.ndarray:
        """The fitted law at inputs x, at the data's by default, [n]."""
        x = self.data.x if x is None else x
        value = laws_of.predict(self.law, self.theta, x)
        if np.all(np.isfinite(value) & (value != 0)):
            return value
        # Where an exponent ran away, its amplitude overflows or fades to 0 in the data's units, at centred inputs not.
        with jax.enable_x64(True), np.errstate(all="ignore"):
            here = self.problem.natural(jnp.asarray(self.u), self.fixed)
            return laws_of.predict(self.law, here, {k: np.exp(v) for k, v in self.z(x).items()})

    def residuals(self) -> np.ndarray:
        """[n], in the space of the loss."""
        fitted = self.predict()
        return np.log(self.data.y / fitted) if self.loss.space == "log" else self.data.y - fitted

    def noise(self) -> float:
        """Standard deviation of a run about the law, in the space of the loss: sqrt(sum w r^2 / (n - p))."""
        w = self.data.weights()
        w = w * np.sum(w > 0) / np.sum(w)
        return float(np.sqrt(np.sum(w * self.residuals() ** 2) / max(self.df, 1)))

    @functools.cached_property
    def holdout(self) -> Any:
        """`Score` of the same fit without the tenth of its runs with most compute, found on first use; None where the
        rest is too few. What a law says beyond its runs is as good as this, not as its residuals."""
        from .select import holdout

        return holdout(self)

    def report(self) -> str:
        """All that was chosen and found, as text."""
        from .report import report

        return report(self)

    def to_json(self) -> str:
        """Everything, the data too, as JSON; `report.from_json` reads it back."""
        from .report import to_json

        return to_json(self)

    @staticmethod
    def from_json(text: str, law: Law | None = None) -> "Fit":
        """The fit that `to_json` wrote. law: needed where the law is a function of your own."""
        from .report import from_json

        return from_json(text, law)


def natural(problem: Problem, u: Any, held: Mapping[str, Any], centre: Mapping[str, float]) -> dict[str, Any]:
    """Free coordinates -> natural parameters in the data's units. Traceable."""
    p = problem.natural(u[: problem.size], dict(held))
    return problem.law.units(p, dict(centre)) if centred(problem.law) else p


def problem_of(law: Law, loss: Loss, fixed: Mapping[str, Any], bounds: Mapping[str, Any]) -> Problem:
    """The static part of a fit. The loss's delta is left out of it: widths are arguments, so one program
    serves all."""
    for name in (*fixed, *bounds):
        if name not in law.params:
            raise ValueError(f"{name!r} is not a parameter; they are {', '.join(law.params)}")
    domains: dict[str, Domain] = dict(law.params)
    domains.update({k: (float(lo), float(hi)) for k, (lo, hi) in bounds.items()})
    return Problem(law, loss.program(), tuple(domains.items()), tuple(sorted(fixed)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _search(problem: Problem, count: int, method: str, key, box, rows: Rows, widths):
    """Many starts in one program: (u, start, gradient, decrement, residuals, jacobian, value, values
    [count])."""
    begin = project if method == "varpro" else complete
    one = lambda _, drawn: begin(problem, drawn, rows)  # nothing is drawn where the law is linear in all that is free
    first = jax.vmap(one)(jnp.arange(count), draw(problem, key, box, count))
    us, values, gradients, decrements = jax.vmap(lambda u: problem.solve(u, rows, widths))(first)
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    best = jnp.argmin(values)
    u = us[best][: problem.size]
    r, j = problem.residual(u, rows), problem.jacobian(u, rows)
    return us[best], first[best], gradients[best], decrements[best], r, j, values[best], values


def centre_of(law: Law, data: Data, held: Mapping[str, Any]) -> dict[str, float]:
    """The middle of the runs in log inputs; 0 where the law cannot be moved, or where a fixed or bounded
    parameter
    depends on the units and so must keep them."""
    used = data.weights() > 0
    middle = {k: float(np.mean(np.log(data.x[k][used]))) for k in law.inputs}
    middle.update(dict.fromkeys((k for k in getattr(law, "keep", ()) if k in middle), 0.0))
    for names in getattr(law, "same_unit", ()):
        middle.update(dict.fromkeys(names, float(np.mean([middle[k] for k in names]))))
    if not centred(law) or (held and not unit_free(law, tuple(held))):
        return dict.fromkeys(middle, 0.0)
    return middle


def unit_free(law: Law, names: tuple[str, ...]) -> bool:
    at = {k: 0.5 if isinstance(d, str) else float(np.mean(d)) for k, d in law.params.items()}
    moved = law.units(at, dict.fromkeys(law.inputs, 1.0))
    return all(abs(float(moved[k]) - at[k]) < 1e-6 for k in names)


def _enough(problem: Problem, data: Data) -> None:
    inputs = np.stack([data.x[k] for k in problem.law.inputs], 1)[data.weights() > 0]
    kinds = len(np.unique(inputs, axis=0))
    if kinds < problem.size:
        raise ValueError(f"too few points: {problem.size} free parameters, {kinds} distinct runs")


def fit(
    law: Law | str,
    data: Data,
    loss: Loss | None = None,
    *,
    starts: int = 64,
    method: str = "auto",
    key: jax.Array | None = None,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Fit:
    """The best parameters over many starts.

    law: a law or its name ("chinchilla", "bnsl(breaks=2)"). loss: `huber(1e-3)` on log y by default. starts:
    how many; they are drawn from key (`jax.random.key(0)` by default). method: "full" descends in all
    parameters, "varpro" first in those that the law is not linear in (`varpro.py`), "auto" takes it where it is
    exact. fixed: parameter -> value; bounds: parameter -> (low, high); both in natural units. Raises ValueError
    on data that cannot be fitted: see `data.check`; fewer runs than parameters; an unknown name. A fit that came
    to nothing does not raise: read `status` and `reason`.

    >>> from jaxlib_ext.scaling import lsq
    >>> N, D = np.meshgrid([1e7, 3e7, 1e8, 3e8], [1e9, 3e9, 1e10, 3e10])
    >>> L = 400 / N**0.34 + 410 / D**0.28 + 1.7
    >>> f = fit("chinchilla", Data(dict(N=N.ravel(), D=D.ravel()), L.ravel()), lsq())
    >>> f.status, round(f.theta["alpha"], 9), round(f.theta["E"], 9)
    (<Status.CONVERGED: 'converged'>, 0.34, 1.7)
    """
    law = named(law, LAWS) if isinstance(law, str) else law
    loss, fixed, bounds = loss or huber(1e-3), dict(fixed or {}), dict(bounds or {})
    problem = problem_of(law, loss, fixed, bounds)
    check(data, law.inputs, loss.space == "log")
    centre = centre_of(law, data, {**fixed, **bounds})
    _enough(problem, data)
    key = jax.random.key(0) if key is None else key
    z = {k: np.log(data.x[k]) - centre[k] for k in law.inputs}
    rows = Rows(z, data.y, data.weights(), fixed)
    widths, how = loss.stages(data.y[rows.w > 0]), chosen(method, problem)
    with jax.enable_x64(True):
        out = _search(problem, starts, how, key, jnp.asarray(box(problem, z, data.y)), rows.padded(), padded(widths))
        u, first, gradient, decrement, r, j, value, values = (np.asarray(a) for a in out)
        r, j = r[: len(data.y)], j[: len(data.y)]
        theta = {k: float(v) for k, v in natural(problem, jnp.asarray(u), fixed, centre).items()}
    w, moved = rows.w, np.max(np.abs(u[: problem.size] - first))
    floor = 1e-20 * w.sum()
    left = float(decrement / (abs(value) + floor)) if np.isfinite(decrement) else float("inf")
    status, reason = diagnose(problem, u[: problem.size], rows, r, j, left)
    settings = dict(
        starts=starts, key=np.asarray(jax.random.key_data(key)).tolist(), widths=list(widths),
        method=("variable projection, then " if how == "varpro" else "") + METHOD,
        initialisation="exponents drawn, amplitudes by non-negative least squares", promised=left,
    )  # fmt: skip
    hits = float(np.mean(values <= value + HIT * abs(value) + floor))
    found = dict(objective=float(loss.report(value, w.sum())), status=status, reason=reason, hit_rate=hits)
    found |= dict(gradient_norm=float(np.linalg.norm(gradient)), condition=condition(j, w), moved=float(moved))
    return Fit(law, data, loss, theta, u=u, centre=centre, fixed=fixed, bounds=bounds, settings=settings, **found)
