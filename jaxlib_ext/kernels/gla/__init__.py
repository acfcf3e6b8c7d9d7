"""Gated linear attention: a matrix-valued state whose rows decay at speeds that depend on the input."""

import jax

from ..choice import choose
from . import xla

Array = jax.Array
FORMS = {"xla": xla.chunked}


def gla(q: Array, k: Array, v: Array, g: Array, state: Array, start: Array, *,
        implementation: str | None = None) -> tuple[Array, Array]:  # fmt: skip
    """S_t = diag(exp g_t) S_{t-1} + k_t v_t^T,  y_t = S_t^T q_t, in float32.

    q, k, g [B, T, H, K] with g <= 0 (a token with g = 0 and k = 0 leaves S as it is), v [B, T, H, V], state
    [B, H, K, V] before the first token, start [B, T] where S is forgotten first. Returns y [B, T, H, V] and the last S.
    No state a token is ever stored, and no exponent is ever positive, so any decay is exact.
    """
    return choose("gla", implementation, FORMS, "xla")(q, k, v, g, state, start)
