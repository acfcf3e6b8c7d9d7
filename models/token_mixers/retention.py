"""retention: linear attention whose heads forget at fixed speeds of their own, with rotated queries and keys.

    S_t = gamma_h S_{t-1} + k_t v_t^T,  gamma_h = 1 - 2^(-first - h);  y = W_o (groupnorm(S_t^T q_t) * silu(W_r x_t))

source: Sun et al. 2023, arXiv 2307.08621
train: 2 T H (C (K + V) + 2 K V) in chunks of C = 64
decode: 4 H K V a token; state H K V float32
departs: none; the authors' later code has a root mean square for the group norm
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Position, Seq, hold
from ...kernels.linear import linear
from ...kernels.ssd import ssd
from ..options import check, without_bias
from ..positions import Rope

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class Retention:
    """width D. heads H: one per 256 of width unless given. key, value: widths of a head, D/H and 2D/H unless given.
    first: head h keeps 1 - 2^(-first - h) a token. position: how queries and keys turn; it may have no bias. eps: of
    the norm on each head's output.
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
    first: float = 5.0
    position: Position = Rope()
    eps: float = 1e-5

    def __post_init__(self):
        check("retention", self, "width heads key value", "first eps")
        if (self.key is None or self.value is None) and self.width % self.n:
            raise ValueError(f"retention: heads={self.n} does not divide width={self.width}; give key and value")
        without_bias("retention", self.position)

    @property
    def n(self) -> int:
        return self.heads or max(1, self.width // 256)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(heads H, key width K, value width V)."""
        return self.n, self.key or self.width // self.n, self.value or 2 * self.width // self.n

    def decl(self) -> Tree:
        h, k, v = self.sizes
        stream, keys, values = dict(embed=self.width), dict(heads=h, key=k), dict(heads=h, value=v)
        return dict(
            q=param.matrix(stream, keys), k=param.matrix(stream, keys), v=param.matrix(stream, values),
            read=param.matrix(stream, values), out=param.matrix(values, stream),
        )  # fmt: skip

    def cost(self, tokens: int, context: float) -> Cost:
        h, k, v = self.sizes
        return Cost(flops=4 * tokens * h * k * v, state_bytes=4 * h * k * v)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        h, k, v = self.sizes
        return dict(s=param.state(dict(batch=batch, heads=h), dict(key=k, value=v)))

    def _inputs(self, params, x: Array, seq: Seq) -> tuple[Array, Array, Array, Array]:
        """q, k, v and log decay [..., H], float32; a masked token neither writes nor decays."""
        q, k = (self.position.rotate(linear(x, params[n]).astype(jnp.float32), seq.position) for n in "qk")
        v = linear(x, params["v"]).astype(jnp.float32)
        g = jnp.log1p(-(2.0 ** (-self.first - jnp.arange(q.shape[-2]))))
        k = jnp.where(seq.mask[..., None, None], k * k.shape[-1] ** -0.5, 0.0)
        return q, k, v, jnp.where(seq.mask[..., None], g.reshape((1,) * (q.ndim - 2) + (-1,)), 0.0)

    def _output(self, params, x: Array, y: Array) -> Array:
        y = y - jnp.mean(y, -1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        return linear(y.astype(x.dtype) * jax.nn.silu(linear(x, params["read"])), params["out"], c=2)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        y, s = ssd(*self._inputs(params, x, seq), state["s"], seq.start & seq.mask)
        return self._output(params, x, y), dict(s=s), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        q, k, v, g = self._inputs(params, x, seq)
        old = hold(seq.start & seq.mask, jnp.zeros_like(state["s"]), state["s"])
        s = jnp.exp(g)[..., None, None] * old + jnp.einsum("bhk,bhv->bhkv", k, v)
        return self._output(params, x, jnp.einsum("bhk,bhkv->bhv", q, s)), dict(s=s), Aux()
