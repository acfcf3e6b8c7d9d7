"""A dense quasi-Newton method for few parameters, made for vmap: one value and gradient a step, no inner line
search.

BFGS with the Armijo rule; a step that is refused is shortened by a quadratic fit and tried in the next
iteration, so lanes of a vmap never wait for each other's line searches. It starts from the inverse of a
Gauss-Newton matrix and ends with damped Newton steps on the exact Hessian, which settle the last digits. Call
it inside `jax.enable_x64`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class State(NamedTuple):
    """Where the method stands. u, g [p]; inverse [p, p]; the rest are scalars."""

    u: Array
    f: Array
    g: Array
    inverse: Array  # approximate inverse Hessian
    step: Array  # length to try next
    k: Array
    done: Array


def inverse_of(matrix: Array) -> Array:
    """Inverse of a positive semidefinite [p, p], damped so that flat directions get long but finite steps."""
    d = jnp.sqrt(jnp.diagonal(matrix) + 1e-300)
    unit = matrix / (d[:, None] * d[None, :]) + 1e-10 * jnp.eye(len(d), dtype=matrix.dtype)
    # By Cholesky: a small program, where a general inverse brings pivoting along. Not finite if not definite.
    eye = jnp.eye(len(d), dtype=matrix.dtype)
    lower = jax.lax.linalg.triangular_solve(jnp.linalg.cholesky(unit), eye, left_side=True, lower=True)
    return (lower.T @ lower) / (d[:, None] * d[None, :])


def _advance(value_and_grad, tol, floor, longest, s: State) -> State:
    direction = -s.inverse @ s.g
    slope = direction @ s.g
    uphill = ~(slope < 0)
    direction = jnp.where(uphill, -s.g, direction)
    slope = jnp.where(uphill, -s.g @ s.g, slope)
    limit = longest / jnp.maximum(jnp.max(jnp.abs(direction)), longest)  # exponentials: a long step overflows
    t = s.step * limit
    u = s.u + t * direction
    f, g = value_and_grad(u)
    fine = jnp.isfinite(f) & jnp.all(jnp.isfinite(g))
    good = fine & (f <= s.f + 1e-4 * t * slope)
    dy, du = g - s.g, u - s.u
    bend = du @ dy
    learn = good & (bend > 1e-12 * jnp.sqrt((du @ du) * (dy @ dy)))
    rho = 1 / jnp.where(learn, bend, 1.0)
    left = jnp.eye(len(u), dtype=u.dtype) - rho * du[:, None] * dy[None, :]
    inverse = jnp.where(learn, left @ s.inverse @ left.T + rho * du[:, None] * du[None, :], s.inverse)
    inner = -slope * t / (2 * jnp.where(fine, f - s.f - slope * t, jnp.inf))
    shorter = s.step * jnp.where(jnp.isfinite(inner), jnp.clip(inner, 0.1, 0.5), 0.1)
    u, f, g = jnp.where(good, u, s.u), jnp.where(good, f, s.f), jnp.where(good, g, s.g)
    decrement = g @ inverse @ g
    done = (jnp.abs(decrement) <= tol * (jnp.abs(f) + floor)) | (~good & (shorter < 1e-9))
    return State(u, f, g, inverse, jnp.where(good, 1.0, shorter), s.k + 1, done)


def bfgs(
    value: Callable[[Array], Array],
    u: Array,
    inverse: Array,
    iterations: Array | int,
    tol: Array | float,
    floor: Array,
    longest: float = 2.0,
) -> State:
    """Minimises value from u [p] with a first inverse Hessian [p, p].

    Stops when the gradient promises a decrease below tol * (|value| + floor), when no step helps, or after
    `iterations` trial steps. longest: the largest change of one coordinate in one step.
    """
    # The first pass takes a step of zero from an infinite value: one gradient to compile, not two.
    inf, zero = jnp.full((), jnp.inf, u.dtype), jnp.zeros((), jnp.int32)
    s = State(u, inf, jnp.zeros_like(u), inverse, jnp.ones_like(inf), zero, zero > 0)
    advance = lambda s: _advance(jax.value_and_grad(value), tol, floor, longest, s)
    return jax.lax.while_loop(lambda s: ~s.done & (s.k < iterations), advance, s)


def newton(value: Callable[[Array], Array], u: Array, steps: int) -> tuple[Array, Array, Array, Array]:
    """Newton steps on the exact Hessian; one is kept only if it raises neither the value nor the gradient.

    Returns (u, value, gradient [p], decrement): the decrement g' H^-1 g is twice the decrease still to be
    had, infinite where the Hessian is not positive definite.
    """
    value_and_grad, hessian = jax.value_and_grad(value), jax.hessian(value)

    def solve(u, g):
        # Scaling by the diagonal keeps a coordinate that hardly matters from ruining the others.
        h = hessian(u)
        d = jnp.sqrt(jnp.abs(jnp.diagonal(h)) + 1e-300)
        lower = jnp.linalg.cholesky(h / (d[:, None] * d[None, :]))
        half = jax.scipy.linalg.solve_triangular(lower, g / d, lower=True)
        step = jax.scipy.linalg.solve_triangular(lower, half, lower=True, trans=1) / d
        return step, jnp.where(jnp.all(jnp.isfinite(half)), half @ half, jnp.inf)

    def body(_, carry):
        u, f, g, decrement, step = carry
        new = u - jnp.clip(jnp.where(jnp.isfinite(decrement), step, 0.0), -0.5, 0.5)
        f2, g2 = value_and_grad(new)
        step2, decrement2 = solve(new, g2)
        # At the bottom f only jitters: then the decrement decides.
        better = (f2 < f) | ((f2 <= f + 1e-14 * jnp.abs(f)) & (decrement2 < decrement))
        better = better & (jnp.isfinite(decrement2) | (f2 < f))
        pick = lambda a, b: jnp.where(better, a, b)
        return pick(new, u), pick(f2, f), pick(g2, g), pick(decrement2, decrement), pick(step2, step)

    inf = jnp.full((), jnp.inf, u.dtype)
    carry = u, inf, jnp.zeros_like(u), inf, jnp.zeros_like(u)  # the first pass only evaluates
    u, f, g, decrement, _ = jax.lax.fori_loop(0, steps + 1, body, carry)
    return u, f, g, decrement
