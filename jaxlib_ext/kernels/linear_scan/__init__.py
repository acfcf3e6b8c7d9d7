"""The diagonal linear recurrence behind gated units whose gates do not see the state."""

import jax

from ..choice import choose
from . import xla

Array = jax.Array
FORMS = {"xla": xla.chunked}


def linear_scan(
    a: Array, x: Array, h: Array, start: Array, *, implementation: str | None = None
) -> tuple[Array, Array]:
    """h_t = a_t h_{t-1} + x_t, in full float32.

    a, x [B, T, ...] (a = 1, x = 0 leaves h as it is), h [B, ...] the state before the first token, start [B, T] where
    h is forgotten first: there a counts as 0 and has no gradient. Returns every h_t [B, T, ...] and the last one.
    """
    return choose("linear_scan", implementation, FORMS, "xla")(a, x, h, start)
