"""rglru: Griffin's recurrent block, a gate beside a short convolution and a diagonal recurrence with gates of its own.

    u = conv(W_x x + b_x) + b_c;  r, i = sigmoid(A u + b) in blocks of channels;  a_t = exp(-c softplus(lambda) r_t)
    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t;  y = W_o (gelu(W_y x + b_y) * h) + b_o

source: De et al. 2024 (Griffin), arXiv 2402.19427; compared with transformers, modeling_recurrent_gemma
train: 4 T C K in the gates (C channels in blocks of K) and 2 T C (conv + 1) beside the projections
decode: the same a token; state C conv float32
departs: as in the authors' code the first token of a document enters whole, without sqrt(1 - a^2), the slope of that
         square root is at most 1000, and gelu is the tanh form
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold
from ...kernels.linear import dense, linear
from ...kernels.linear_scan import linear_scan
from ...kernels.short_conv import short_conv, short_conv_step
from ..options import check
from ._parts import convolve

Array = jax.Array
Tree = dict
STEEPEST = 1e3


@jax.custom_jvp
def _root(u: Array) -> Array:
    return jnp.sqrt(u)


@_root.defjvp
def _slope(primals, tangents):
    """Where nothing is forgotten u is 0 and the true slope is infinite."""
    (u,), (du,) = primals, tangents
    return _root(u), du * 0.5 * jax.lax.rsqrt(jnp.maximum(u, 0.25 / STEEPEST**2))


@dataclasses.dataclass(frozen=True)
class RgLru:
    """width D. inner: channels C, D unless given (the paper has about 4 D / 3). heads: blocks of the gates' matrices,
    one per 256 channels unless given. conv: taps. c: how far a gate can speed up forgetting. low, high: range of a^c,
    what a channel keeps with its gate open, at first.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"heads": 1}
    width: int
    inner: int | None = None
    heads: int | None = None
    conv: int = 4
    c: float = 8.0
    low: float = 0.9
    high: float = 0.999

    def __post_init__(self):
        check("rglru", self, "width inner heads", "c", taps="conv")
        channels, heads = self.inner or self.width, self.heads or max(1, (self.inner or self.width) // 256)
        if channels % heads:
            raise ValueError(f"rglru: heads={heads} does not divide inner={channels}")
        if not 0 < self.low < self.high < 1:
            raise ValueError(f"rglru: needs 0 < low < high < 1, not low={self.low}, high={self.high}")

    @property
    def sizes(self) -> tuple[int, int]:
        """(blocks H, channels of a block K)."""
        channels = self.inner or self.width
        heads = self.heads or max(1, channels // 256)
        return heads, channels // heads

    def _speeds(self, key, shape, dtype) -> Array:
        """lambda with softplus(lambda) = -log(a^c) / c and a^c uniform between low and high."""
        speed = -jnp.log(jax.random.uniform(key, shape, minval=self.low, maxval=self.high)) / self.c
        return (speed + jnp.log(-jnp.expm1(-speed))).astype(dtype)

    def decl(self) -> Tree:
        h, k = self.sizes
        stream, inner = dict(embed=self.width), dict(heads=h, head_dim=k)
        return dict(
            x=param.matrix(stream, inner), x_bias=param.bias(**inner),
            y=param.matrix(stream, inner), y_bias=param.bias(**inner),
            conv=param.conv(dict(conv=self.conv), copies=inner), conv_bias=param.bias(**inner),
            gates=param.matrix(dict(head_dim=k), dict(gate=2, inner=k), copies=dict(heads=h)),  # r, i
            gates_bias=param.decay(gate=2, **inner), speed=param.decay(init=self._speeds, **inner),
            out=param.matrix(inner, stream), out_bias=param.bias(**stream),
        )  # fmt: skip

    def cost(self, tokens: int, context: float) -> Cost:
        h, k = self.sizes
        return Cost(flops=2 * tokens * h * k * self.conv, state_bytes=4 * h * k * self.conv)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        h, k = self.sizes
        held = param.state(dict(batch=batch), dict(conv=self.conv - 1, heads=h, head_dim=k))
        return dict(conv=held, h=param.state(dict(batch=batch), dict(heads=h, head_dim=k)))

    def _inputs(self, params, u: Array, seq: Seq) -> tuple[Array, Array]:
        """a and what is added, float32 [..., H, K]; a masked token neither decays nor writes."""
        matrices = dense(params["gates"], u.shape[-2]).astype(u.dtype)
        gates = jnp.einsum("...hk,hkgj->g...hj", u, matrices).astype(jnp.float32)
        bias = params["gates_bias"]
        r, i = (jax.nn.sigmoid(gates[n] + along(bias[n], gates[n])) for n in (0, 1))
        log_a = -self.c * r * along(jax.nn.softplus(params["speed"]), r)
        real, first = seq.mask[..., None, None], seq.start[..., None, None]
        x = jnp.where(first, 1.0, _root(-jnp.expm1(2 * log_a))) * i * u.astype(jnp.float32)
        return jnp.where(real, jnp.exp(log_a), 1.0), jnp.where(real, x, 0.0)

    def _branch(self, params, x: Array, name: str) -> Array:
        y = linear(x, params[name])
        return y + along(params[f"{name}_bias"], y)

    def _output(self, params, x: Array, h: Array) -> Array:
        y = linear(h.astype(x.dtype) * jax.nn.gelu(self._branch(params, x, "y")), params["out"], c=2)
        return y + along(params["out_bias"], y)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        u, held = convolve(short_conv, self._branch(params, x, "x"), params["conv"], state["conv"], seq)
        a, new = self._inputs(params, u + along(params["conv_bias"], u), seq)
        h, last = linear_scan(a, new, state["h"], seq.start & seq.mask)
        return self._output(params, x, h), dict(conv=held, h=last), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        u, held = convolve(short_conv_step, self._branch(params, x, "x"), params["conv"], state["conv"], seq)
        a, new = self._inputs(params, u + along(params["conv_bias"], u), seq)
        h = a * hold(seq.start & seq.mask, jnp.zeros_like(state["h"]), state["h"]) + new
        return self._output(params, x, h), dict(conv=held, h=h), Aux()
