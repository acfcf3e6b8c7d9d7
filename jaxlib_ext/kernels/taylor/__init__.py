"""Linear attention by the Taylor series of exp: 1 + z + z^2/2 in place of exp z, z = q.k / sqrt(K)."""

import jax

from ..choice import choose
from . import xla
from .features import features, width

__all__ = ["features", "taylor_attention", "width"]

Array = jax.Array
FORMS = {"xla": xla.chunked}


def taylor_attention(q: Array, k: Array, v: Array, state: Array, start: Array, mask: Array, *,
                     implementation: str | None = None) -> tuple[Array, Array]:  # fmt: skip
    """y_t = sum_{s <= t} f(q_t.k_s) v_s / sum_{s <= t} f(q_t.k_s), f(x) = 1 + z + z^2/2, z = x / sqrt(K); in float32.

    q, k [B, T, H, K], v [B, T, H, V]; state [B, H, F, V + 1], F = width(K): sums of features of keys times values, and
    in the last column times 1. start, mask [B, T]: where the state is forgotten first, and which tokens are real.
    Returns y [B, T, H, V], zero where nothing real has been seen, and the last state.
    """
    return choose("taylor_attention", implementation, FORMS, "xla")(q, k, v, state, start, mask)
