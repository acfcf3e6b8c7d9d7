"""State space duality: a matrix-valued state with one decay a head and token. Mamba-2 and retention."""

import jax

from ..choice import choose
from . import xla

Array = jax.Array
FORMS = {"xla": xla.chunked}


def ssd(q: Array, k: Array, v: Array, g: Array, state: Array, start: Array, *,
        implementation: str | None = None) -> tuple[Array, Array]:  # fmt: skip
    """S_t = exp(g_t) S_{t-1} + k_t v_t^T,  y_t = S_t^T q_t, in float32.

    q, k [B, T, G, K] (H/G neighbouring heads share them), v [B, T, H, V], g [B, T, H] <= 0 (a token with g = 0 and
    k = 0 leaves S as it is), state [B, H, K, V] before the first token, start [B, T] where S is forgotten first.
    Returns y [B, T, H, V] and the last S. No exponent is ever positive, so any decay is exact.
    """
    if v.shape[2] % q.shape[2]:
        raise ValueError(f"ssd: {q.shape[2]} groups of queries do not divide {v.shape[2]} heads")
    return choose("ssd", implementation, FORMS, "xla")(q, k, v, g, state, start)
