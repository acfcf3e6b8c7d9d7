"""Chunked form. The sums between chunks are those of linear attention; only their inverse is new.

With R = (G + ridge)^-1 before a chunk, the keys K of the chunk and I + K R K^T = L L^T, the rows p_j of L^-1 K R are
the updates of Sherman and Morrison: R_i = R - sum_{j<=i} p_j p_j^T. So w_i = R_i q_i is linear attention of q on p.

y_i = S_i^T w_i moves with the ridge by -(R_i S_i dy_i) . w_i, and R_i S_i dy_i is the gradient of q_i. Derivatives of
the factorisations would sum to the same with most of their digits cancelled.
"""

import jax
import jax.numpy as jnp

from ..chunks import Documents, Transition, masked
from ..chunks import chunked as chunks
from ..exact import matmul

Array = jax.Array
CHUNK = 32


def _local(inputs: tuple[Array, ...], docs: Documents) -> tuple:
    """q, k [n, B, H, C, K], v [n, B, H, C, V], ridge [n, B, H, C, 1]."""
    q, k, v, ridge = inputs
    pushed = masked(docs.open, jnp.swapaxes(k, -1, -2))
    moves = (docs.through[..., None, None, None], matmul(pushed, jnp.concatenate([k, v], -1)))
    return jnp.zeros_like(jnp.concatenate([v, q], -1)), moves, (q, k, v, ridge, docs)


def _carry(s: Array, moves: tuple[Array, Array]) -> tuple[Array, Array]:
    through, added = moves
    return jnp.where(through, s, 0.0) + added, s


def _read(reads: tuple, before: Array) -> Array:
    q, k, v, ridge, docs = reads
    size, c = q.shape[-1], q.shape[-2]
    wide = lambda a: a.reshape((1,) * (q.ndim - 2) + a.shape)
    old = docs.old[:, :, None, :, None]
    ridge = ridge[..., :1, :]  # the same for all tokens of a head
    gram, sums = before[..., :size], before[..., size:]
    factor = jnp.linalg.cholesky(gram + ridge * wide(jnp.eye(size)))
    both = jnp.concatenate([k, q], -2)
    solved = jax.scipy.linalg.cho_solve((factor, True), jnp.swapaxes(both, -1, -2))
    fresh = jnp.concatenate([old, old], -2)  # documents that begin in the chunk start from ridge alone
    from_k, from_q = jnp.split(jnp.where(fresh, jnp.swapaxes(solved, -1, -2), both / ridge), 2, -2)
    same = docs.seen | jnp.swapaxes(docs.seen, -1, -2)
    cross = wide(jnp.eye(c)) + masked(same, matmul(k, jnp.swapaxes(from_k, -1, -2)))
    p = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(cross), from_k, lower=True)
    w = from_q - matmul(masked(docs.seen, matmul(q, jnp.swapaxes(p, -1, -2))), p)
    y = masked(docs.seen, w @ jnp.swapaxes(k, -1, -2)) @ v + jnp.where(old, w @ sums, 0.0)
    return jnp.concatenate([y, w], -1)


def _solved(q: Array, k: Array, v: Array, ridge: Array, state: Array, start: Array) -> tuple[Array, Array, Array]:
    """y [B, T, H, V], w [B, T, H, K] and the last sums."""
    ridge = jnp.broadcast_to(ridge.reshape(1, 1, -1, 1), (*k.shape[:-1], 1))
    chunk = min(CHUNK, start.shape[1])
    y, sums = chunks(Transition(_local, _carry, _read), (q, k, v, ridge), state, start, chunk=chunk)
    y, w = jnp.split(y, (v.shape[-1],), -1)
    return y, w, sums


@jax.custom_vjp
def chunked(q: Array, k: Array, v: Array, ridge: Array, state: Array, start: Array) -> tuple[Array, Array]:
    y, _, sums = _solved(q, k, v, ridge, state, start)
    return y, sums


def _forward(q: Array, k: Array, v: Array, ridge: Array, state: Array, start: Array) -> tuple:
    def solved(q, k, v, state):
        y, w, sums = _solved(q, k, v, ridge, state, start)
        return (y, sums), w

    out, back, w = jax.vjp(solved, q, k, v, state, has_aux=True)
    return out, (back, w)


def _backward(kept: tuple, grads: tuple) -> tuple:
    back, w = kept
    dq, dk, dv, dstate = back(grads)
    return dq, dk, dv, -jnp.sum(dq * w, (0, 1, 3)), dstate, None


chunked.defvjp(_forward, _backward)
