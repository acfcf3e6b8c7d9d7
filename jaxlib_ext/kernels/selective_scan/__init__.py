"""The selective state-space recurrence of Mamba: diagonal, input-dependent, with a zero-order hold."""

import jax

from ..choice import choose
from . import xla

Array = jax.Array
FORMS = {"xla": xla.chunked}


def selective_scan(x: Array, dt: Array, a: Array, b: Array, c: Array, h: Array, start: Array, *,
                   rule: str = "zoh", implementation: str | None = None) -> tuple[Array, Array]:  # fmt: skip
    """h_t = exp(dt_t a) h_{t-1} + (exp(dt_t a) - 1)/a b_t x_t,  y_t = c_t . h_t, in float32.

    x, dt [B, T, C] with dt >= 0 (0 leaves h as it is), a [C, N] < 0, b, c [B, T, N], h [B, C, N] the state before the
    first token, start [B, T] where h is forgotten first. rule="euler": dt_t b_t x_t as the input term.
    Returns y [B, T, C] and the last h.
    """
    return choose("selective_scan", implementation, FORMS, "xla")(x, dt, a, b, c, h, start, rule=rule)


token = xla.token
