"""A law, a loss and the data as functions of free coordinates: what the solver sees.

The free coordinates are, in the law's order, the parameters that are not held (logs of positive ones), at
inputs z - centre, then the log scale if the loss has one. A `Problem` is static and hashable, so jit compiles
once for each; widths, held values and data are arguments.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .law import Domain, Law, from_free, to_free
from .losses import Loss
from .solve import bfgs, inverse_of, newton

Array = jax.Array


def padded(widths: tuple[float, ...], size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """(widths [size], how many count): one shape for all losses, so one program serves them."""
    return np.array(widths + widths[-1:] * (size - len(widths))), np.array(len(widths), np.int32)


class Rows(NamedTuple):
    """The data as the solver takes it: z centred log inputs, each [n]; y, w [n]; held: values of held
    parameters."""

    z: dict[str, Any]
    y: Any
    w: Any
    held: dict[str, Any]

    def padded(self) -> "Rows":
        """With rows of no weight at the end, up to 32, 48, 64, 96, 128 ..., one program for many lengths."""
        power = 2 ** max(5, int(np.ceil(np.log2(len(self.y)))))
        more = next(n for n in (power * 3 // 4, power) if n >= max(32, len(self.y))) - len(self.y)
        z = {k: np.append(v, np.full(more, v[0])) for k, v in self.z.items()}
        return Rows(z, np.append(self.y, np.full(more, self.y[0])), np.append(self.w, np.zeros(more)), self.held)


@dataclasses.dataclass(frozen=True)
class Problem:
    """held: names of parameters that are not fitted; domains: name -> domain after the user's bounds, in the
    law's
    order; the loss's delta is not read."""

    law: Law
    loss: Loss
    domains: tuple[tuple[str, Domain], ...]
    held: tuple[str, ...] = ()

    @property
    def free(self) -> tuple[str, ...]:
        return tuple(k for k, _ in self.domains if k not in self.held)

    @property
    def size(self) -> int:
        """Number of free coordinates of the law, without the loss's scale."""
        return len(self.free)

    def natural(self, u: Array, held: dict[str, Any]) -> dict[str, Array]:
        """Coordinates [p] -> parameters at centred inputs."""
        at = {k: i for i, k in enumerate(self.free)}
        value = lambda k, d: from_free(d, u[at[k]]) if k in at else jnp.asarray(held[k], u.dtype)
        return {k: value(k, d) for k, d in self.domains}

    def coordinates(self, p: dict) -> Array:
        """Parameters at centred inputs -> coordinates [p]."""
        domains = dict(self.domains)
        return jnp.stack([to_free(domains[k], p[k]) for k in self.free])

    def residual(self, u: Array, rows: Rows) -> Array:
        """[n]; not a number where a log is asked of a prediction that is not positive."""
        value = self.law.predict(self.natural(u, rows.held), rows.z)
        return jnp.log(rows.y) - jnp.log(value) if self.loss.space == "log" else rows.y - value

    def value(self, u: Array, rows: Rows, width: Array) -> Array:
        """What is minimised. u [p + extra]."""
        return self.loss.value(self.residual(u[: self.size], rows), rows.w, width, u[self.size :])

    def jacobian(self, u: Array, rows: Rows) -> Array:
        """d residual / d coordinate, [n, p]."""
        return jax.jacfwd(self.residual)(u, rows)

    def _first(self, u, rows, width):
        """Inverse of the reweighted Gauss-Newton matrix, with the loss's scale apart."""
        head, extra = u[: self.size], u[self.size :]
        j = self.jacobian(head, rows)
        weight = rows.w * self.loss.curvature(self.residual(head, rows), width, extra)
        inverse = inverse_of(j.T @ (j * weight[:, None]))
        if not self.loss.extra:
            return inverse
        whole = jnp.zeros((len(u), len(u)), u.dtype).at[: self.size, : self.size].set(inverse)
        return whole.at[-1, -1].set(1 / jnp.sum(rows.w))

    def solve(self, u: Array, rows: Rows, widths: Any, iterations: int = 300, polish: int = 60):
        """From coordinates [p] to the optimum through the widths (`padded`).

        Returns (u [p + extra], value, gradient, decrement). Jit and vmap over any argument.
        """
        widths, count = widths
        floor = (1.0 if self.loss.extra else 1e-24) * jnp.sum(rows.w)
        u = jnp.concatenate([u, self.loss.extra_at(self.residual(u, rows), rows.w, widths[0])])

        def stage(i, u):
            width, last = widths[i], i == count - 1
            if self.loss.extra:  # the scale goes with the width
                u = u.at[-1].add(jnp.log(width / widths[jnp.maximum(i - 1, 0)]))
            value = lambda v: self.value(v, rows, width)
            most, tol = jnp.where(last, iterations, 40), jnp.where(last, 1e-13, 1e-5)
            return bfgs(value, u, self._first(u, rows, width), most, tol, floor).u

        u = jax.lax.fori_loop(0, count, stage, u)
        return newton(lambda v: self.value(v, rows, widths[-1]), u, polish, floor)
