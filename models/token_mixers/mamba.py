"""mamba: a diagonal state space whose step, input and output matrices depend on the token.

    u, z = W_in x;  u <- silu(conv(u));  dt = softplus(W_2 W_1 u + b);  B, C = W_B u, W_C u;  A = -exp(A_log)
    h_t = exp(dt A) h_{t-1} + (exp(dt A) - 1)/A B u_t;  y = W_out ((C.h_t + D u_t) * silu(z))

source: Gu and Dao 2023, arXiv 2312.00752
train: about 9 T C N a sequence in the scan (C = expand D), sequential over tokens
decode: the same a token; state C N + C (conv - 1) float32
departs: none with input_rule="zoh", the paper's discretisation; the authors' released kernels use dt B u for the input
         term, which is input_rule="euler"
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold
from ...kernels.linear import linear
from ...kernels.selective_scan import selective_scan, token
from ...kernels.short_conv import short_conv, short_conv_step
from ..options import check, ordered
from ._parts import dt_bias

Array = jax.Array
Tree = dict


def _a_log(key, shape, dtype):
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=jnp.float32)), shape).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Mamba:
    """width D. inner: channels C, 2 D unless given. n: state size N a channel. conv: taps. rank: of dt, D/16 rounded up
    unless given. dt_low, dt_high: range of the first time steps. input_rule: "zoh" or "euler", see the header.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {}
    width: int
    inner: int | None = None
    n: int = 16
    conv: int = 4
    rank: int | None = None
    dt_low: float = 1e-3
    dt_high: float = 0.1
    input_rule: str = "zoh"

    def __post_init__(self):
        check("mamba", self, "width inner n rank", taps="conv")
        ordered("mamba", self, "dt_low", "dt_high")
        if self.input_rule not in ("zoh", "euler"):
            raise ValueError(f'mamba: input_rule is "zoh" or "euler", not {self.input_rule!r}')

    @property
    def channels(self) -> int:
        return self.inner or 2 * self.width

    def decl(self) -> Tree:
        c, n, r = self.channels, self.n, self.rank or -(-self.width // 16)
        inner = dict(inner=c)
        return dict(
            into=param.matrix(dict(embed=self.width), dict(gate=2, inner=c)),
            conv=param.conv(dict(conv=self.conv), copies=inner),
            conv_bias=param.bias(inner=c),
            dt_down=param.matrix(inner, dict(rank=r)),
            dt_up=param.matrix(dict(rank=r), inner),
            dt_bias=param.decay(inner=c, init=dt_bias(self.dt_low, self.dt_high)),
            b=param.matrix(inner, dict(state=n)),
            c=param.matrix(inner, dict(state=n)),
            a_log=param.decay(inner=c, state=n, init=_a_log),
            skip=param.gain(inner=c),
            out=param.matrix(inner, dict(embed=self.width)),
        )

    def cost(self, tokens: int, context: float) -> Cost:
        c, n = self.channels, self.n
        return Cost(flops=tokens * c * (2 * n + 2 * self.conv), state_bytes=4 * c * (n + self.conv - 1))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        held = param.state(dict(batch=batch), dict(conv=self.conv - 1, inner=self.channels))
        return dict(conv=held, h=param.state(dict(batch=batch), dict(inner=self.channels, state=self.n)))

    def _inputs(self, params, u: Array, mask: Array) -> tuple[Array, ...]:
        """x, dt, a, b, c of the scan, float32; a masked token has dt = 0."""
        f32 = lambda v: v.astype(jnp.float32)
        dt = f32(linear(linear(u, params["dt_down"]), params["dt_up"]))
        dt = dt + along(params["dt_bias"], dt)
        dt = jnp.where(mask[..., None], jax.nn.softplus(dt), 0.0)
        return f32(u), dt, -jnp.exp(params["a_log"]), f32(linear(u, params["b"])), f32(linear(u, params["c"]))

    def _output(self, params, x: Array, u: Array, y: Array, z: Array) -> Array:
        y = (y + along(params["skip"], y) * u.astype(jnp.float32)).astype(x.dtype)
        return linear(y * jax.nn.silu(z), params["out"])

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        u, z = jnp.moveaxis(linear(x, params["into"]), -2, 0)
        u, held = short_conv(u, params["conv"], state["conv"], seq)
        u = jax.nn.silu(u + along(params["conv_bias"], u))
        start = seq.start & seq.mask
        u_, dt, a, b, c = self._inputs(params, u, seq.mask)
        y, h = selective_scan(u_, dt, a, b, c, state["h"], start, rule=self.input_rule)
        return self._output(params, x, u, y, z), dict(conv=held, h=h), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        u, z = jnp.moveaxis(linear(x, params["into"]), -2, 0)
        u, held = short_conv_step(u, params["conv"], state["conv"], seq)
        u = jax.nn.silu(u + along(params["conv_bias"], u))
        h = hold(seq.start & seq.mask, jnp.zeros_like(state["h"]), state["h"])
        u_, dt, a, b, c = self._inputs(params, u, seq.mask)
        h, y = token(h, u_, dt, a, b, c, rule=self.input_rule)
        return self._output(params, x, u, y, z), dict(conv=held, h=h), Aux()
