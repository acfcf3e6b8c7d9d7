"""Inverses of unit lower triangular matrices, by products alone."""

import jax
import jax.numpy as jnp

from .exact import matmul

Array = jax.Array
BASE = 8


def blocks(first: Array, corner: Array, second: Array) -> Array:
    """[[first, 0], [corner, second]] of matrices [..., m, m]."""
    upper = jnp.concatenate([first, jnp.zeros_like(corner)], -1)
    return jnp.concatenate([upper, jnp.concatenate([corner, second], -1)], -2)


def diagonal(a: Array, m: int) -> Array:
    """The blocks of m on the diagonal: [..., C, C] -> [..., C/m, m, m]."""
    c = a.shape[-1]
    tiles = a.reshape(*a.shape[:-2], c // m, m, c // m, m)
    return jnp.stack([tiles[..., i, :, i, :] for i in range(c // m)], -3)


@jax.custom_vjp
def inverse(a: Array) -> Array:
    """(I + a)^-1 of strictly lower triangular a [..., C, C]; C is BASE or less, or BASE 2^n.

    Blocks of BASE by the finite series, larger ones from their halves: a substitution row by row is slow everywhere.
    The series cancels where entries are near 2 (one key again and again at strength 2) and loses two digits; a step of
    Newton's method restores them. How a is made and the inverse applied is the caller's, at its precision.
    """
    return _inverse(a)


def _inverse(a: Array) -> Array:
    c = a.shape[-1]
    m = min(BASE, c)
    x = first = -diagonal(a, m)
    one = jnp.eye(m, dtype=a.dtype).reshape((1,) * (x.ndim - 2) + (m, m))
    inv, size = one + x, 2
    while size < m:  # (I + x)(I + x^2)(I + x^4): x^m = 0
        x = matmul(x, x)
        inv, size = inv + matmul(inv, x), 2 * size
    inv = inv + matmul(inv, one - inv + matmul(first, inv))
    while m < c:
        corner = diagonal(a, 2 * m)[..., m:, :m]
        upper, lower = inv[..., 0::2, :, :], inv[..., 1::2, :, :]
        inv = blocks(upper, -matmul(lower, matmul(corner, upper)), lower)
        m *= 2
    return inv[..., 0, :, :]


def _forward(a: Array) -> tuple[Array, Array]:
    inv = _inverse(a)
    return inv, inv


def _backward(inv: Array, g: Array) -> tuple[Array]:
    turned = jnp.swapaxes(inv, -1, -2)
    return (-matmul(matmul(turned, g), turned),)


inverse.defvjp(_forward, _backward)
