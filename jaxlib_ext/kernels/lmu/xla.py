"""Chunked form: inside a chunk the impulse response as a matrix, what came before by powers of A."""

import jax
import jax.numpy as jnp
import numpy as np

from ..exact import einsum
from .legendre import powers

Array = jax.Array
NUMBERS = 1 << 19  # that the powers of A may hold: longer chunks for shorter memories


def chunked(u: Array, state: Array, start: Array, mask: Array, theta: float) -> tuple[Array, Array]:
    (b, t, c), order = u.shape, state.shape[-1]
    length = max(1, min(32, NUMBERS // order**2, t))
    n = -(-t // length)
    kept, left = powers(order, theta, length)
    lag = np.arange(length)[:, None] - np.arange(length)[None]
    response = np.where((lag >= 0)[..., None], left[np.maximum(lag, 0)], np.float32(0))  # [i, j, Q]

    def cut(a):  # [B, T, ...] -> [n, B, length, ...]
        a = jnp.pad(a, ((0, 0), (0, n * length - t)) + ((0, 0),) * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(b, n, length, *a.shape[2:]), 1, 0)

    @jax.checkpoint
    def chunk(state, rows):
        u, start, mask = rows
        # Real tokens of a document are neighbours, so that lags count tokens.
        doc = jnp.cumsum(start.astype(jnp.int32), 1)
        seen = (doc[:, :, None] == doc[:, None, :]) & mask[:, None, :]
        # In full float32: the state is multiplied once a chunk, and would lose digits each time.
        m = einsum("bij,bjc,ijq->bicq", seen.astype(u.dtype), u, jnp.asarray(response))
        before = einsum("bcr,iqr->bicq", state, jnp.asarray(kept))
        m = m + jnp.where((doc == 0)[:, :, None, None], before, 0.0)
        last = jnp.max(jnp.where(mask, jnp.arange(length)[None], -1), 1)
        end = jax.vmap(lambda m, i: m[i])(m, jnp.maximum(last, 0))
        return jnp.where((last >= 0)[:, None, None], end, state), m

    state, m = jax.lax.scan(chunk, state, (cut(u), cut(start), cut(mask)))
    return jnp.moveaxis(m, 0, 1).reshape(b, n * length, c, order)[:, :t], state
