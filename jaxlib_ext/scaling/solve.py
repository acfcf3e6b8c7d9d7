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


def newton(value: Callable[[Array], Array], u: Array, steps: int, floor: Array | float = 0.0):
    """Damped Newton steps on the exact Hessian, at most `steps`; each is kept only if the value does not
    rise.

    Directions of negative curvature are walked down as if it were positive. Returns (u, value, gradient [p],
    decrement): the decrement g' H^-1 g is twice the decrease still to be had, infinite where the Hessian has
    a negative direction.
    """
    value_and_grad, hessian = jax.value_and_grad(value), jax.hessian(value)

    def model(u, g):
        # Scaling by the diagonal keeps a coordinate that hardly matters from ruining the others.
        h = hessian(u)
        d = jnp.sqrt(jnp.abs(jnp.diagonal(h)) + 1e-300)
        h = jnp.where(jnp.isfinite(h), h, 0.0) / (d[:, None] * d[None, :])
        eig, vec = jnp.linalg.eigh(h)
        part = vec.T @ (g / d)
        tiny = 1e-15 * jnp.max(jnp.abs(eig))
        bent = jnp.any((eig < -tiny * 1e3) & (part * part > 1e-30 * jnp.sum(part * part)))
        size = jnp.maximum(jnp.abs(eig), tiny)
        return d, vec, size, part, jnp.where(bent, jnp.inf, jnp.sum(part * part / size))

    def body(carry):
        u, f, g, (d, vec, size, part, decrement), damp, k = carry
        step = vec @ (part / (size + damp)) / d
        new = u - jnp.clip(jnp.where(k == 0, 0.0, step), -0.5, 0.5)
        f2, g2 = value_and_grad(new)
        here = model(new, g2)
        # At the bottom f only jitters: then the decrement decides.
        better = (f2 < f) | ((f2 <= f + 1e-14 * jnp.abs(f)) & (here[-1] < decrement))
        pick = lambda a, b: jnp.where(better, a, b)
        damp = jnp.where(better, jnp.where(damp < 1e-9, 0.0, damp / 10), jnp.maximum(damp * 10, 1e-6))
        best = jax.tree.map(pick, (new, f2, g2, here), (u, f, g, (d, vec, size, part, decrement)))
        return *best, jnp.where(k == 0, 0.0, damp), k + 1

    def going(carry):
        _, f, _, (*_, decrement), damp, k = carry
        return (k <= steps) & (damp < 1e6) & ~(jnp.isfinite(f) & (decrement <= 1e-18 * (jnp.abs(f) + floor)))

    # The first pass only evaluates.
    inf, p = jnp.full((), jnp.inf, u.dtype), len(u)
    none = jnp.ones((p,), u.dtype), jnp.eye(p, dtype=u.dtype), jnp.ones((p,), u.dtype), jnp.zeros_like(u), inf
    carry = u, inf, jnp.zeros_like(u), none, jnp.zeros_like(inf), jnp.zeros((), jnp.int32)
    u, f, g, (*_, decrement), _, _ = jax.lax.while_loop(going, body, carry)
    return u, f, g, decrement
