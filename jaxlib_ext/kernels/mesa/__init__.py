"""Ridge regression of values on keys, solved anew at every token."""

import jax

from ..choice import choose
from . import xla

Array = jax.Array
FORMS = {"xla": xla.chunked}


def mesa(q: Array, k: Array, v: Array, ridge: Array, state: Array, start: Array, *,
         implementation: str | None = None) -> tuple[Array, Array]:  # fmt: skip
    """y_t = P_t^T q_t with P_t = argmin_P sum_{s<=t} |v_s - P^T k_s|^2 + ridge |P|^2, in float32.

    q, k [B, T, H, K], v [B, T, H, V], ridge [H] > 0, state [B, H, K, K + V]: the sums of k (k, v)^T before the first
    token, start [B, T] where they are forgotten first. A token with k = 0 leaves them as they are. Returns y
    [B, T, H, V] and the last sums. Where a key comes back T times, float32 solves with a ridge above 5e-7 T |k|^2;
    below, y may be NaN.
    """
    return choose("mesa", implementation, FORMS, "xla")(q, k, v, ridge, state, start)
