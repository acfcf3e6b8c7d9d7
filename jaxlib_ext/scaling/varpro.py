"""Variable projection: the parameters that a law is linear in are solved for at every step, the rest descend.

    min over theta of sum w (y - B(v) theta)^2, theta >= 0 where its parameter is positive;  gradient in v at that theta

By the envelope theorem the gradient of the minimum is that at fixed theta, so no derivative of the inner solve is
needed; the first metric is Gauss-Newton's with the columns of B projected out of the Jacobian. A two-exponent law
then has two coordinates and a condition near 1. Exact for least squares in raw space; for other losses it is the
weighted least squares (residuals relative to y in log space) that the descent on the loss itself begins from.

source: Golub and Pereyra 1973, SIAM J. Numer. Anal. 10, 413; the metric: Kaufman 1975, BIT 15, 49
"""

import jax
import jax.numpy as jnp

from .law import from_free, to_free
from .problem import Problem, Rows
from .solve import bfgs, inverse_of
from .starts import amplitudes, complete, drawn_names, linear_basis, linear_names

Array = jax.Array
METHODS = ("auto", "full", "varpro")


def applies(problem: Problem) -> bool:
    """Whether the law is linear in some free parameters and not in all, so that there is something to project."""
    return bool(linear_names(problem)) and bool(drawn_names(problem))


def chosen(method: str, problem: Problem) -> str:
    """The method to use, full or varpro. auto: varpro where it is exact. Raises ValueError where it cannot serve."""
    if method not in METHODS:
        raise ValueError(f"methods are {', '.join(METHODS)}, not {method!r}")
    if method == "varpro" and not applies(problem):
        raise ValueError("variable projection needs free parameters that the law is linear in, and others")
    if method == "auto":
        exact = problem.loss.kind == "lsq" and problem.loss.space == "raw"
        return "varpro" if exact and applies(problem) else "full"
    return method


def project(problem: Problem, drawn: dict[str, Array], rows: Rows, iterations: int = 200) -> Array:
    """From drawn nonlinear parameters (scalars) to the coordinates [p] of the projected optimum. Traceable."""
    names, domains = drawn_names(problem), dict(problem.domains)
    natural = lambda v: {k: from_free(domains[k], v[i]) for i, k in enumerate(names)}

    def residual(v, theta):
        basis, target = linear_basis(problem, natural(v), rows)
        return target - basis @ theta

    def value(v):
        theta = jax.lax.stop_gradient(amplitudes(problem, natural(v), rows))
        return jnp.sum(residual(v, theta) ** 2)

    v = jnp.stack([to_free(domains[k], drawn[k]) for k in names])
    theta = amplitudes(problem, natural(v), rows)
    slope = jax.jacfwd(residual)(v, theta)
    basis, _ = linear_basis(problem, natural(v), rows)
    basis = basis * (theta != 0)[None]
    basis = basis / (jnp.sqrt(jnp.sum(basis * basis, 0)) + 1e-300)[None]
    held = inverse_of(basis.T @ basis + jnp.diag(1.0 * (theta == 0)))
    slope = slope - basis @ (held @ (basis.T @ slope))
    floor = 1e-24 * jnp.sum(rows.w)
    v = bfgs(value, v, inverse_of(2 * slope.T @ slope), iterations, 1e-13, floor).u
    return complete(problem, natural(v), rows)
