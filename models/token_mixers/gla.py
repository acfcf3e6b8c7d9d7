"""gla: gated linear attention, a matrix-valued state whose rows decay at learned, input-dependent speeds.

    S_t = diag(a_t) S_{t-1} + k_t v_t^T,  y_t = W_o (rms(S_t^T q_t / sqrt(K)) * silu(W_r x_t))
    a_t = sigmoid(W_2 W_1 x_t + b)^(1/tau)

source: Yang et al. 2023, arXiv 2312.06635
train: 2 T H (C (K + V) + 2 K V) in chunks of C = 32
decode: 4 H K V a token; state H K V float32
departs: rms and a read gate without bias, as in the authors' code, where the paper writes a layer norm and a bias;
         K = width/2 over all heads, V = width, rank 16 and tau 16 are the paper's
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold
from ...kernels.gla import gla
from ...kernels.linear import linear
from ..options import check
from ._parts import rms

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class Gla:
    """width D. heads H: one per 128 of width unless given. key, value: widths of a head, D/2H and D/H unless given.
    rank: bottleneck of the gates. tau: larger forgets slower. scale: of queries, K^-1/2 unless given. eps: of the norm
    on each head's output.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"heads": 1}
    width: int
    heads: int | None = None
    key: int | None = None
    value: int | None = None
    rank: int = 16
    tau: float = 16.0
    scale: float | None = None
    eps: float = 1e-5

    def __post_init__(self):
        check("gla", self, "width heads key value rank", "tau scale eps")
        for option, parts in (("key", 2 * self.n), ("value", self.n)):
            if getattr(self, option) is None and self.width % parts:
                raise ValueError(f"gla: heads={self.n} makes {parts} parts of width={self.width}; give {option}")

    @property
    def n(self) -> int:
        return self.heads or max(1, self.width // 128)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(heads H, key width K, value width V)."""
        return self.n, self.key or self.width // (2 * self.n), self.value or self.width // self.n

    def decl(self) -> Tree:
        h, k, v = self.sizes
        stream, keys, values = dict(embed=self.width), dict(heads=h, key=k), dict(heads=h, value=v)
        return dict(
            q=param.matrix(stream, keys),
            k=param.matrix(stream, keys),
            v=param.matrix(stream, values),
            gate_down=param.matrix(stream, dict(rank=self.rank)),
            gate_up=param.matrix(dict(rank=self.rank), keys),
            gate_bias=param.decay(**keys),
            norm=param.gain(value=v),
            read=param.matrix(stream, values),
            out=param.matrix(values, stream),
        )

    def cost(self, tokens: int, context: float) -> Cost:
        h, k, v = self.sizes
        return Cost(flops=4 * tokens * h * k * v, state_bytes=4 * h * k * v)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        h, k, v = self.sizes
        return dict(s=param.state(dict(batch=batch, heads=h), dict(key=k, value=v)))

    def _inputs(self, params, x: Array, mask: Array) -> tuple[Array, Array, Array, Array]:
        """q, k, v and log decay, float32 [..., H, .]; a masked token neither writes nor decays."""
        real = mask[..., None, None]
        q, k, v = (linear(x, params[n]).astype(jnp.float32) for n in "qkv")
        gate = linear(linear(x, params["gate_down"]), params["gate_up"]).astype(jnp.float32)
        gate = gate + along(params["gate_bias"], gate)
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        return q * scale, jnp.where(real, k, 0.0), v, jnp.where(real, jax.nn.log_sigmoid(gate) / self.tau, 0.0)

    def _output(self, params, x: Array, y: Array) -> Array:
        y = rms(y, params["norm"], self.eps)
        return linear(y.astype(x.dtype) * jax.nn.silu(linear(x, params["read"])), params["out"], c=2)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        y, s = gla(*self._inputs(params, x, seq.mask), state["s"], seq.start & seq.mask)
        return self._output(params, x, y), dict(s=s), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        q, k, v, g = self._inputs(params, x, seq.mask)
        old = hold(seq.start & seq.mask, jnp.zeros_like(state["s"]), state["s"])
        s = jnp.exp(g)[..., None] * old + jnp.einsum("bhk,bhv->bhkv", k, v)
        return self._output(params, x, jnp.einsum("bhk,bhkv->bhv", q, s)), dict(s=s), Aux()
