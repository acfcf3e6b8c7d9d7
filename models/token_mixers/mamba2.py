"""mamba2: a state space with one decay a head, which is linear attention under a mask of decays (SSD).

    z, x, B, C, dt = projections of the stream;  x, B, C <- silu(conv(.));  dt = softplus(dt + b);  A = -exp(A_log)
    S_t = exp(dt A) S_{t-1} + B_t (dt x_t)^T;  y = W_out rms((S_t^T C_t + D x_t) * silu(z)), rms over a group's heads

source: Dao and Gu 2024, arXiv 2405.21060
train: 2 T H (C + 2 N) P in chunks of C = 64, and 2 T G C N for the scores that G groups of heads share
decode: 4 H N P a token; state H N P + (conv - 1) (H P + 2 G N) float32
departs: none; one matrix a projection where the authors' code fuses them
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold
from ...kernels.linear import linear
from ...kernels.short_conv import short_conv, short_conv_step
from ...kernels.ssd import ssd
from ..options import check, ordered
from ._parts import convolve, dt_bias, log_of_uniform, rms

Array = jax.Array
Tree = dict
Inputs = tuple[Array, Array, Array, Array]


@dataclasses.dataclass(frozen=True)
class Mamba2:
    """width D. inner: 2 D unless given. head_dim P: inner/P heads H; 64, or inner where that is less. n: state size N.
    groups G: heads H/G share their B and C. conv: taps. dt_low, dt_high: range of the first time steps. a_high: decays
    start uniform in [1, a_high]. eps: of the norm on the output.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {}
    width: int
    inner: int | None = None
    head_dim: int | None = None
    n: int = 128
    groups: int = 1
    conv: int = 4
    dt_low: float = 1e-3
    dt_high: float = 0.1
    a_high: float = 16.0
    eps: float = 1e-5

    def __post_init__(self):
        check("mamba2", self, "width inner head_dim n groups", "eps", taps="conv")
        ordered("mamba2", self, "dt_low", "dt_high")
        inner, h, p = (self.inner or 2 * self.width), *self.sizes
        if h * p != inner:
            raise ValueError(f"mamba2: head_dim={p} does not divide inner={inner}")
        if h % self.groups:
            raise ValueError(f"mamba2: groups={self.groups} does not divide {h} heads")
        if not 1 <= self.a_high < math.inf:
            raise ValueError(f"mamba2: a_high must be at least 1, not {self.a_high}")

    @property
    def sizes(self) -> tuple[int, int]:
        """(heads H, width of a head P)."""
        inner = self.inner or 2 * self.width
        p = self.head_dim or min(64, inner)
        return inner // p, p

    def decl(self) -> Tree:
        h, p = self.sizes
        stream, heads = dict(embed=self.width), dict(heads=h, value=p)
        shared = dict(gate=2, kv_heads=self.groups, key=self.n)
        return dict(
            into=param.matrix(stream, dict(gate=2, **heads)),
            bc=param.matrix(stream, shared),
            dt=param.matrix(stream, dict(heads=h)),
            conv=param.conv(dict(conv=self.conv), copies=heads),
            conv_bias=param.bias(**heads),
            bc_conv=param.conv(dict(conv=self.conv), copies=shared),
            bc_bias=param.bias(**shared),
            dt_bias=param.decay(heads=h, init=dt_bias(self.dt_low, self.dt_high)),
            a_log=param.decay(heads=h, init=log_of_uniform(1.0, self.a_high)),
            skip=param.gain(heads=h),
            norm=param.gain(**heads),
            out=param.matrix(heads, stream),
        )

    def cost(self, tokens: int, context: float) -> Cost:
        h, p = self.sizes
        channels = h * p + 2 * self.groups * self.n
        flops = tokens * (4 * h * p * self.n + 2 * self.conv * channels)
        return Cost(flops=flops, state_bytes=4 * (h * p * self.n + (self.conv - 1) * channels))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        h, p = self.sizes
        rows, w = dict(batch=batch), self.conv - 1
        return dict(
            conv=param.state(rows, dict(conv=w, heads=h, value=p)),
            bc=param.state(rows, dict(conv=w, gate=2, kv_heads=self.groups, key=self.n)),
            s=param.state(dict(batch=batch, heads=h), dict(key=self.n, value=p)),
        )

    def _inputs(self, run, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Array, Inputs, Tree]:
        """z, u, (C, B, dt u, dt A) in float32, new convolution states. A masked token has dt = 0."""
        f32 = lambda v: v.astype(jnp.float32)
        z, u = jnp.moveaxis(linear(x, params["into"]), -3, 0)
        u, conv = convolve(run, u, params["conv"], state["conv"], seq)
        bc, held = convolve(run, linear(x, params["bc"]), params["bc_conv"], state["bc"], seq)
        u = jax.nn.silu(u + along(params["conv_bias"], u))
        b, c = jnp.moveaxis(f32(jax.nn.silu(bc + along(params["bc_bias"], bc))), -3, 0)
        dt = f32(linear(x, params["dt"]))
        dt = jnp.where(seq.mask[..., None], jax.nn.softplus(dt + along(params["dt_bias"], dt)), 0.0)
        g = dt * along(-jnp.exp(params["a_log"]), dt)
        return z, u, (c, b, dt[..., None] * f32(u), g), dict(conv=conv, bc=held)

    def _output(self, params, u: Array, y: Array, z: Array) -> Array:
        y = y + params["skip"][:, None].reshape((1,) * (y.ndim - 2) + (-1, 1)) * u.astype(jnp.float32)
        y = y * jax.nn.silu(z.astype(jnp.float32))
        in_groups = rms(y.reshape(*y.shape[:-2], self.groups, -1), params["norm"].reshape(self.groups, -1), self.eps)
        return linear(in_groups.reshape(y.shape).astype(u.dtype), params["out"], c=2)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        z, u, inputs, held = self._inputs(short_conv, params, x, state, seq)
        y, s = ssd(*inputs, state["s"], seq.start & seq.mask)
        return self._output(params, u, y, z), held | dict(s=s), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        z, u, (c, b, v, g), held = self._inputs(short_conv_step, params, x, state, seq)
        old = hold(seq.start & seq.mask, jnp.zeros_like(state["s"]), state["s"])
        c, b = (jnp.repeat(a, v.shape[1] // self.groups, axis=1) for a in (c, b))
        s = jnp.exp(g)[..., None, None] * old + jnp.einsum("bhn,bhp->bhnp", b, v)
        return self._output(params, u, jnp.einsum("bhn,bhnp->bhp", c, s), z), held | dict(s=s), Aux()
