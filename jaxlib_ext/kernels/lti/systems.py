"""What a chunk of tokens needs of a linear system, from modes or from matrices."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...contracts import along
from ..exact import einsum

Array = jax.Array
CHUNK = 64
FEW = 16  # tokens of a chunk of modes, whose tables cost nothing: blocks that are summed tap by tap


class System(NamedTuple):
    """C channels of S numbers of state in chunks of K tokens; float32."""

    response: Array  # [K, C]: what an input adds to the output j tokens later: C A^j B, and D with j = 0
    read: Array  # [K, C, S]: what the state before a chunk adds to output j: C A^{j+1}, or C A^j by `modal`
    push: Array  # [K, C, S]: A^j B: what an input leaves in the state j tokens later
    advance: Callable[[Array, Array], Array]  # s [B, C, S], n int32 [B] in 0 .. K -> A^n s
    over: Callable[[Array], Array]  # s -> A^K s


def modal(rate: Array, angle: Array, re: Array, im: Array, skip: Array, chunk: int = FEW) -> System:
    """Diagonal A = exp(-rate + i angle) [C, M], B = 1, C = re + i im [C, M] of which the real part is taken, D = skip
    [C]. What is read is the state before the token, y_t = Re C s_{t-1} + D u_t: lag 0 is D alone, however soon a mode
    is over. A state is M real parts and then M imaginary ones, S = 2 M.
    """

    def power(n: Array) -> tuple[Array, Array]:  # [...] -> real and imaginary parts [..., C, M]
        n = n.astype(jnp.float32)[..., None, None]
        size, turned = jnp.exp(-n * along(rate, n)), n * along(angle, n)
        return size * jnp.cos(turned), size * jnp.sin(turned)

    def turn(s: Array, a: Array, b: Array) -> Array:
        x, y = jnp.split(s, 2, -1)
        return jnp.concatenate([a * x - b * y, b * x + a * y], -1)

    a, b = power(jnp.arange(chunk + 1))
    re, im = along(re, a), along(im, a)
    reads = jnp.concatenate([re * a - im * b, -(re * b + im * a)], -1)
    later = jnp.sum(reads[: chunk - 1, :, : a.shape[-1]], -1)
    over = lambda s: turn(s, *(along(v[-1], s[..., : a.shape[-1]]) for v in (a, b)))
    return System(
        jnp.concatenate([skip[None], later]), reads[:-1], jnp.concatenate([a, b], -1)[:-1],
        lambda s, n: turn(s, *power(n)), over,
    )  # fmt: skip


# Products of products: in fewer digits each would lose what the one before had kept.
def powers(a: Array, n: int) -> list[Array]:
    """A, A^2, A^4 .. A^(2^(n-1)) of a [..., S, S]."""
    found = [a]
    for _ in range(n - 1):
        found.append(einsum("...ij,...jk->...ik", found[-1], found[-1]))
    return found


def krylov(squares: list[Array], b: Array) -> Array:
    """A^j B for j < 2^n of squares `powers(A, n)` and b [..., S] -> [2^n, ..., S], twice as many at a time."""
    v = b[None]
    for square in squares:
        v = jnp.concatenate([v, einsum("...ij,k...j->k...i", square, v)])
    return v


def matrices(a: Array, b: Array, c: Array, skip: Array, chunk: int = CHUNK) -> System:
    """a [C, S, S], b [C, S], c [C, S], skip [C]; chunk a power of 2."""
    bits = chunk.bit_length() - 1
    squares = powers(a, bits + 1)
    push = krylov(squares[:-1], b)
    reads = krylov([jnp.swapaxes(s, -1, -2) for s in squares[:-1]], einsum("cij,ci->cj", a, c))
    response = einsum("kcs,cs->kc", push, c)
    apply = lambda square, s: einsum("cij,bcj->bci", square, s)

    def advance(s: Array, n: Array) -> Array:
        for bit, square in enumerate(squares):
            s = jnp.where(((n >> bit) & 1 == 1)[:, None, None], apply(square, s), s)
        return s

    return System(response.at[0].add(skip), reads, push, advance, functools.partial(apply, squares[-1]))


def gbt(a: np.ndarray, b: np.ndarray, dt: float, alpha: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """x' = a x + b u over steps of dt by the generalised bilinear transform, on the host.

    a [S, S], b [S] -> (1 - alpha dt a)^-1 (1 + (1 - alpha) dt a) and (1 - alpha dt a)^-1 dt b. alpha: 0 is Euler's
    method, 1/2 the bilinear transform, 1 the backward Euler method.

    >>> a, b = gbt(-np.eye(1), np.ones(1), 0.5, alpha=1.0)
    >>> bool(np.allclose(a, 2 / 3)), bool(np.allclose(a + b, 1.0))
    (True, True)
    """
    one = np.eye(len(b))
    left = one - alpha * dt * a
    return np.linalg.solve(left, one + (1 - alpha) * dt * a), np.linalg.solve(left, dt * b)
