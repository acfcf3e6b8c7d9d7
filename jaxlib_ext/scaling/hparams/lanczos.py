"""Spectra of matrices known only by their products with vectors: Lanczos, and its quadrature of the density.

`steps` products from one random vector give a tridiagonal matrix whose eigenvalues (Ritz values) approach the outer
ones of the operator first; with the squared first components of its eigenvectors as weights they are a Gauss rule of
the spectral density, averaged over several vectors. Vectors are made orthogonal to all earlier ones twice, so that no
eigenvalue is found again. Works on any pytree of parameters.

source: Lanczos 1950; quadrature: Golub and Welsch 1969; for networks: Granziol et al. 2022, arXiv 2006.09092
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Ritz:
    """values [vectors, steps] rising in each row, weights [vectors, steps] of the density, summing to 1 a row."""

    values: np.ndarray
    weights: np.ndarray

    @property
    def top(self) -> float:
        """Largest eigenvalue, approached from below."""
        return float(self.values[:, -1].max())

    @property
    def bottom(self) -> float:
        return float(self.values[:, 0].min())

    def moment(self, k: int) -> float:
        """trace(A^k) / P, exact in expectation for k < 2 steps."""
        return float(np.mean(np.sum(self.weights * self.values**k, 1)))


def hessian_vector(loss: Callable[..., Array], params: Any, *batch: Any) -> tuple[Callable[[Array], Array], int]:
    """(v [P] -> H v [P], P): the Hessian of loss(params, *batch) by forward over reverse, parameters flattened."""
    flat, unravel = ravel_pytree(params)
    slope = jax.grad(lambda x: loss(unravel(x), *batch))
    return lambda v: jax.jvp(slope, (flat,), (v,))[1], flat.size


def tridiagonal(product: Callable[[Array], Array], start: Array, steps: int) -> tuple[Array, Array]:
    """Lanczos from start [P]: diagonal [steps], off-diagonal [steps - 1]. Zero off-diagonals say that the space is
    exhausted. Traceable."""
    size = len(start)

    def step(i, carry):
        basis, diagonal, off = carry
        v = basis[i]
        w = product(v)
        diagonal = diagonal.at[i].set(v @ w)
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        length = jnp.sqrt(w @ w)
        scale = jnp.max(jnp.abs(diagonal)) + jnp.max(off)
        alive = length > 100 * jnp.finfo(w.dtype).eps * scale
        off = off.at[i].set(jnp.where(alive, length, 0))
        basis = basis.at[i + 1].set(jnp.where(alive, w / jnp.where(alive, length, 1), 0))
        return basis, diagonal, off

    basis = jnp.zeros((steps + 1, size), start.dtype).at[0].set(start / jnp.sqrt(start @ start))
    empty = jnp.zeros((steps,), start.dtype)
    _, diagonal, off = jax.lax.fori_loop(0, steps, step, (basis, empty, empty))
    return diagonal, off[:-1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _runs(product, size, steps, keys):
    start = lambda key: jax.random.rademacher(key, (size,), jnp.zeros(()).dtype)
    return jax.lax.map(lambda key: tridiagonal(product, start(key), steps), keys)


def lanczos(
    product: Callable[[Array], Array], size: int, steps: int = 30, vectors: int = 1, key: jax.Array | None = None
) -> Ritz:
    """Ritz values of a symmetric operator [size, size] from `vectors` random sign vectors, in jax's default float.

    Raises ValueError for steps beyond size.
    """
    if not 1 <= steps <= size:
        raise ValueError(f"steps must be from 1 to the size {size}, not {steps}")
    keys = jax.random.split(jax.random.key(0) if key is None else key, vectors)
    diagonal, off = (np.asarray(a, np.float64) for a in _runs(product, size, steps, keys))
    values, weights = [], []
    for d, o in zip(diagonal, off, strict=True):
        dead = np.flatnonzero(o == 0)
        last = int(dead[0]) + 1 if len(dead) else len(d)  # beyond an exhausted space the entries mean nothing
        theta, vec = np.linalg.eigh(np.diag(d[:last]) + np.diag(o[: last - 1], 1) + np.diag(o[: last - 1], -1))
        pad = (len(d) - last, 0)
        values.append(np.pad(theta, pad, constant_values=theta[0]))
        weights.append(np.pad(vec[0] ** 2, pad))
    return Ritz(np.array(values), np.array(weights))


def density(ritz: Ritz, at: Any, width: float) -> np.ndarray:
    """Spectral density at points [m], every Ritz value widened to a normal of this standard deviation."""
    at = np.asarray(at, np.float64)[:, None, None]
    bumps = np.exp(-0.5 * ((at - ritz.values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return np.mean(np.sum(bumps * ritz.weights, -1), -1)
