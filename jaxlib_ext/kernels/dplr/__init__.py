"""Diagonal plus low rank: a decay a key channel and a write of what another key recalls. RWKV-7."""

import jax

from ..choice import choose
from . import xla

Array = jax.Array
FORMS = {"xla": xla.chunked}


def dplr(q: Array, k: Array, v: Array, a: Array, b: Array, g: Array, state: Array, start: Array, *,
         implementation: str | None = None) -> tuple[Array, Array]:  # fmt: skip
    """S_t = (diag(exp g_t) + b_t a_t^T) S_{t-1} + k_t v_t^T,  y_t = S_t^T q_t, in float32.

    q, k, a, b, g [B, T, H, K] with g <= 0 (a token with g, k and b of 0 leaves S as it is), v [B, T, H, V], state
    [B, H, K, V] before the first token, start [B, T] where S is forgotten first. Returns y [B, T, H, V] and the last S.
    No exponent is ever positive, so any decay is exact.
    """
    return choose("dplr", implementation, FORMS, "xla")(q, k, v, a, b, g, state, start)
