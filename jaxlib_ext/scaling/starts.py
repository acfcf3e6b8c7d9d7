"""Starts read off the data: exponents are drawn, amplitudes solved for.

In the parameters that a law names `linear`, least squares is exact and cheap, so a start needs luck only in
the rest. Amplitudes must be positive, so all faces of the positive cone are tried (2^k for k of them, k <= 4
in practice) and the best feasible one is taken.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from .law import Domain
from .problem import Problem, Rows
from .solve import inverse_of

Array = jax.Array


def box(problem: Problem, z: dict[str, np.ndarray], y: np.ndarray) -> np.ndarray:
    """Where the nonlinear parameters are drawn, [k, 2], in the order of `drawn_names`; logs for positive
    ones.

    Raises ValueError where the law gives no range for a parameter that needs one.
    """
    ranges, domains, rows = problem.law.ranges(z, y), dict(problem.domains), []
    for name in drawn_names(problem):
        if name not in ranges:
            raise ValueError(f"the law gives no range to start {name!r} from")
        lo, hi = ranges[name]
        domain = domains[name]
        if isinstance(domain, tuple):
            inset = 0.02 * (domain[1] - domain[0])
            lo, hi = np.clip([lo, hi], domain[0] + inset, domain[1] - inset)
        rows.append(np.log([lo, hi]) if domain == "positive" else np.array([lo, hi]))
    return np.array(rows, np.float64).reshape(-1, 2)


def drawn_names(problem: Problem) -> tuple[str, ...]:
    """Free parameters that are not solved for."""
    return tuple(k for k in problem.free if k not in linear_names(problem))


def draw(problem: Problem, key: Array, box: Array, count: int) -> dict[str, Array]:
    """Name -> [count]: the middle of the box first, then uniform draws."""
    share = jax.random.uniform(key, (count, len(box)), box.dtype).at[0].set(0.5)
    value = box[None, :, 0] + (box[:, 1] - box[:, 0])[None] * share
    domains = dict(problem.domains)
    log = [domains[k] == "positive" for k in drawn_names(problem)]
    return {k: jnp.exp(value[:, i]) if log[i] else value[:, i] for i, k in enumerate(drawn_names(problem))}


def linear_names(problem: Problem) -> tuple[str, ...]:
    """Free parameters that the law is linear in."""
    return tuple(k for k in problem.law.linear if k in problem.free)


def linear_basis(problem: Problem, drawn: dict[str, Array], rows: Rows) -> tuple[Array, Array]:
    """(basis [n, k], target [n]) of the weighted least squares in the linear parameters, at drawn values of the
    others.

    Residuals count relative to y where the loss does.
    """
    y = rows.y
    p = {**{k: jnp.asarray(v, y.dtype) for k, v in rows.held.items()}, **drawn}
    none = {**p, **dict.fromkeys(linear_names(problem), jnp.zeros((), y.dtype))}
    offset = problem.law.predict(none, rows.z)
    column = lambda k: problem.law.predict({**none, k: jnp.ones((), y.dtype)}, rows.z) - offset
    columns = jnp.stack([column(k) for k in linear_names(problem)], 1)
    root = jnp.sqrt(rows.w) / (y if problem.loss.space == "log" else 1.0)
    return columns * root[:, None], (y - offset) * root


def amplitudes(problem: Problem, drawn: dict[str, Array], rows: Rows) -> Array:
    """Linear parameters [k] by least squares, non-negative ones on the best face of their cone."""
    basis, target = linear_basis(problem, drawn, rows)
    domains = dict(problem.domains)
    size = jnp.sqrt(jnp.sum(basis * basis, 0)) + 1e-300
    kept = np.array([domains[k] != "real" for k in linear_names(problem)])
    return _cone(basis / size[None], target, kept) / size


def complete(problem: Problem, drawn: dict[str, Array], rows: Rows) -> Array:
    """One start: parameters drawn (scalars) -> coordinates [p], with amplitudes by non-negative least
    squares."""
    linear = linear_names(problem)
    p = {**{k: jnp.asarray(v, rows.y.dtype) for k, v in rows.held.items()}, **drawn}
    if not linear:
        return problem.coordinates(p)
    domains = dict(problem.domains)
    basis, target = linear_basis(problem, drawn, rows)
    theta = amplitudes(problem, drawn, rows)
    # A zero has no log. Start such an amplitude at a hundredth of what would explain the data alone.
    least = 0.01 * jnp.sqrt(jnp.sum(target * target)) / (jnp.sqrt(jnp.sum(basis * basis, 0)) + 1e-300)
    solved = {k: _inside(domains[k], theta[i], least[i]) for i, k in enumerate(linear)}
    return problem.coordinates({**p, **solved})


def _inside(domain: Domain, value: Array, least: Array) -> Array:
    if domain == "real":
        return value
    if domain == "positive":
        return jnp.maximum(value, least)
    assert isinstance(domain, tuple)
    lo, hi = domain
    return jnp.clip(value, lo + 0.02 * (hi - lo), hi - 0.02 * (hi - lo))


def _cone(basis: Array, target: Array, positive: np.ndarray) -> Array:
    """Least squares with some coefficients non-negative, by trying every set of them. basis [n, k] -> [k]."""
    gram, right = basis.T @ basis, basis.T @ target
    k = len(right)
    faces = [f for f in itertools.product((0.0, 1.0), repeat=k) if all(f[i] or positive[i] for i in range(k))]

    def on(face):
        inside = face[:, None] * face[None, :]
        theta = inverse_of(gram * inside + jnp.diag(1 - face)) @ (right * face)
        rss = theta @ gram @ theta - 2 * theta @ right
        allowed = jnp.all((theta >= 0) | ~jnp.asarray(positive))
        return theta, jnp.where(allowed & jnp.isfinite(rss), rss, jnp.inf)

    thetas, rss = jax.vmap(on)(jnp.asarray(faces, basis.dtype))
    return thetas[jnp.argmin(rss)]
