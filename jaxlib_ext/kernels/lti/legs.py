"""HiPPO-LegS as a time-invariant system, stepped in as many operations as it has numbers of state.

A_ij = -sqrt((2 i + 1) (2 j + 1)) for j < i, -(i + 1) for j = i, 0 otherwise,  B_i = sqrt(2 i + 1)

Below its diagonal A is an outer product, so a product with A is a running sum, and solving with 1 - a dt A another
one: no matrix is made and none is inverted.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ...contracts import along

Array = jax.Array


def legs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """A [n, n], B [n] on the host.

    >>> legs(2)[0].round(3).tolist(), legs(2)[1].round(3).tolist()
    ([[-1.0, 0.0], [-1.732, -2.0]], [1.0, 1.732])
    """
    root = np.sqrt(2 * np.arange(n) + 1)
    return np.tril(-np.outer(root, root), -1) - np.diag(np.arange(n) + 1.0), root


def legs_step(x: Array, u: Array, dt: Array, alpha: float) -> Array:
    """(1 - alpha dt A)^-1 ((1 + (1 - alpha) dt A) x + dt B u): x [..., C, N], u [..., C], dt [C] > 0 -> [..., C, N]."""
    n = x.shape[-1]
    place = np.arange(n, dtype=np.float32)
    root, diagonal = jnp.asarray(np.sqrt(2 * place + 1)), jnp.asarray(place + 1)
    dt, u = along(dt, u)[..., None], u[..., None]
    root, diagonal = along(root, x), along(diagonal, x)
    scaled = root * x
    ax = -root * (jnp.cumsum(scaled, -1) - scaled) - diagonal * x
    right = x + (1 - alpha) * dt * ax + dt * root * u
    if not alpha:
        return right
    inverse = 1 / (1 + alpha * dt * diagonal)
    # w_i = sum_{j<i} sqrt(2 j + 1) x'_j goes on by a factor of at most 1, so rounding does not grow.
    keep, add = (1 - alpha * dt * (diagonal - 1)) * inverse, root * inverse * right

    def entry(w, row):
        keep, add = row
        return keep * w + add, w

    rows = (jnp.moveaxis(jnp.broadcast_to(keep, x.shape), -1, 0), jnp.moveaxis(add, -1, 0))
    _, w = jax.lax.scan(entry, jnp.zeros(x.shape[:-1], x.dtype), rows)
    return (right - alpha * dt * root * jnp.moveaxis(w, 0, -1)) * inverse


def legs_matrices(dt: Array, n: int, alpha: float) -> tuple[Array, Array]:
    """The same step as matrices: dt [C] -> [C, N, N] and [C, N], float32."""
    c = dt.shape[0]
    x = jnp.broadcast_to(jnp.eye(n + 1, n)[:, None], (n + 1, c, n))  # unit states, and none
    u = jnp.zeros((n + 1, c)).at[-1].set(1.0)
    made = legs_step(x, u, dt, alpha)
    return made[:-1].transpose(1, 2, 0), made[-1]
