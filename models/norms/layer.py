"""layer: takes off the mean, divides by the standard deviation.

    y = (x - mean(x)) / sqrt(var(x) + eps) * gain + bias

source: Ba, Kiros and Hinton 2016, arXiv 1607.06450
train: O(T D)
decode: O(D) a token
departs: none
catalogue: layer_norm
"""

import dataclasses

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Seq, along

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Layer:
    """width: the normalised axis. eps: added to the variance. bias: whether there is one."""

    width: int
    eps: float = 1e-5
    bias: bool = True

    def decl(self) -> dict:
        gain = {"gain": param.gain(embed=self.width)}
        return gain | ({"bias": param.bias(embed=self.width)} if self.bias else {})

    def apply(self, params, x: Array, seq: Seq) -> tuple[Array, Aux]:
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, -1, keepdims=True)
        y = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.eps) * along(params["gain"], wide)
        if self.bias:
            y = y + along(params["bias"].astype(jnp.float32), y)
        return y.astype(x.dtype), Aux()
