"""The gated delta rule: what a key recalls is replaced, by a share, with a new value. DeltaNet and Gated DeltaNet."""

import jax

from ..choice import choose
from . import xla

Array = jax.Array
FORMS = {"xla": xla.chunked}


def delta_rule(q: Array, k: Array, v: Array, beta: Array, g: Array, state: Array, start: Array, *,
               implementation: str | None = None) -> tuple[Array, Array]:  # fmt: skip
    """S_t = exp(g_t) S_{t-1} + beta_t k_t (v_t - exp(g_t) S_{t-1}^T k_t)^T,  y_t = S_t^T q_t, in float32.

    q, k [B, T, G, K] (H/G neighbouring heads share them), v [B, T, H, V], beta and g <= 0 [B, T, H] (a token with
    g = 0 and beta = 0 leaves S as it is), state [B, H, K, V] before the first token, start [B, T] where S is forgotten
    first. Stable for beta |k|^2 <= 2. Returns y [B, T, H, V] and the last S. No exponent is ever positive.
    """
    if v.shape[2] % q.shape[2]:
        raise ValueError(f"delta_rule: {q.shape[2]} groups of queries do not divide {v.shape[2]} heads")
    return choose("delta_rule", implementation, FORMS, "xla")(q, k, v, beta, g, state, start)
