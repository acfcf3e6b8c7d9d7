"""rms: divides by the root mean square.

    y = x / sqrt(mean(x^2) + eps) * gain

source: Zhang and Sennrich 2019, arXiv 1910.07467
train: O(T D)
decode: O(D) a token
departs: none
"""

import dataclasses

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Seq, along

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Rms:
    """width: the normalised axis. eps: added to the mean square."""

    width: int
    eps: float = 1e-6

    def decl(self) -> dict:
        return {"gain": param.gain(embed=self.width)}

    def apply(self, params, x: Array, seq: Seq) -> tuple[Array, Aux]:
        wide = x.astype(jnp.float32)
        y = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.eps)
        return (y * along(params["gain"], y)).astype(x.dtype), Aux()
