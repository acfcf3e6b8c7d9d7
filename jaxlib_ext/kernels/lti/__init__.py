"""Linear time-invariant recurrences, one system a channel: their matrices do not depend on the token."""

import jax

from ..choice import choose
from . import xla
from .legs import legs, legs_matrices, legs_step
from .systems import System, gbt, krylov, matrices, modal, powers

__all__ = ["System", "gbt", "krylov", "legs", "legs_matrices", "legs_step", "lti", "matrices", "modal", "powers"]

Array = jax.Array
FORMS = {"xla": xla.chunked}


def lti(u: Array, state: Array, start: Array, mask: Array, system: System, *,
        implementation: str | None = None) -> tuple[Array, Array]:  # fmt: skip
    """s_t = A s_{t-1} + B u_t and y_t = C s_t + D u_t for every channel, in full float32; `modal` reads s_{t-1}.

    u [B, T, C] with zeros at masked tokens, state [B, C, S], start [B, T] where the state is forgotten first, mask
    [B, T] with False for tokens that neither write nor decay, system as `modal` or `matrices` make it. Returns y
    [B, T, C], of masked tokens anything finite, and the last state.
    """
    return choose("lti", implementation, FORMS, "xla")(u, state, start, mask, system)
