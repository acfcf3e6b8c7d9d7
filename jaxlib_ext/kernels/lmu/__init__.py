"""Legendre memory: a fixed linear recurrence whose state holds the last theta inputs as Legendre coefficients."""

import jax

from ..choice import choose
from . import xla
from .legendre import continuous, discrete

__all__ = ["continuous", "discrete", "memory"]

Array = jax.Array
FORMS = {"xla": xla.chunked}


def memory(u: Array, state: Array, start: Array, mask: Array, *, theta: float,
           implementation: str | None = None) -> tuple[Array, Array]:  # fmt: skip
    """m_t = A m_{t-1} + B u_t for every channel, (A, B) = discrete(Q, theta); in full float32.

    u [B, T, C], state [B, C, Q], start [B, T] where the state is forgotten first, mask [B, T] with False for tokens
    that neither write nor decay. Returns m [B, T, C, Q], of masked tokens anything finite, and the last state.
    """
    return choose("lmu", implementation, FORMS, "xla")(u, state, start, mask, theta)
