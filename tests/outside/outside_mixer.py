"""A token mixer that lives outside the package: what a user writes, `outside_mixer:Ema` on a command line.

s_t = a s_{t-1} + (1 - a) W_in x_t,  y_t = W_out s_t,  a = sigmoid(b) for each channel
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxlib_ext import param
from jaxlib_ext.contracts import Aux, Cost, hold
from jaxlib_ext.kernels.linear import linear


@dataclasses.dataclass(frozen=True)
class Ema:
    """Moving averages. width D. inner: channels, D unless given. low, high: range of the first a."""

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"inner": 1}
    width: int
    inner: int | None = None
    low: float = 0.5
    high: float = 0.99

    @property
    def channels(self) -> int:
        return self.inner or self.width

    def _bias(self, key, shape, dtype):
        a = jax.random.uniform(key, shape, dtype, self.low, self.high)
        return jnp.log(a) - jnp.log1p(-a)

    def decl(self):
        stream, inner = dict(embed=self.width), dict(inner=self.channels)
        bias = param.decay(**inner, init=self._bias)
        return dict(into=param.matrix(stream, inner), bias=bias, out=param.matrix(inner, stream))

    def cost(self, tokens, context):
        return Cost(state_bytes=4 * self.channels)

    def state(self, batch, length, context=0):
        return dict(s=param.state(dict(batch=batch), dict(inner=self.channels)))

    def _inputs(self, params, x, mask):
        """a and (1 - a) u, float32 [..., C]; a masked token has a = 1 and no input."""
        u = linear(x, params["into"]).astype(jnp.float32)
        a = jnp.where(mask[..., None], jax.nn.sigmoid(params["bias"]).reshape((1,) * (x.ndim - 1) + (-1,)), 1.0)
        return a, (1 - a) * u

    def scan(self, params, x, state, seq):
        a, u = self._inputs(params, x, seq.mask)
        a = jnp.where((seq.start & seq.mask)[..., None], 0.0, a)
        join = lambda left, right: (left[0] * right[0], right[0] * left[1] + right[1])
        decay, s = jax.lax.associative_scan(join, (a, u), axis=1)
        s = s + decay * state["s"][:, None]
        return linear(s.astype(x.dtype), params["out"]), dict(s=s[:, -1]), Aux()

    def step(self, params, x, state, seq):
        a, u = self._inputs(params, x, seq.mask)
        s = a * hold(seq.start & seq.mask, jnp.zeros_like(state["s"]), state["s"]) + u
        return linear(s.astype(x.dtype), params["out"]), dict(s=s), Aux()
