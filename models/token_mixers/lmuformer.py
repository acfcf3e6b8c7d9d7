"""lmuformer: a Legendre memory of one or a few signals made from the stream, read beside the stream itself.

    u_t = relu(W_u x_t + b_u);  m_t = A m_{t-1} + B u_t;  y_t = W_o relu(W_m m_t + W_x x_t + b_h)
    A, B: zero-order hold over steps of 1 of  A_ij = (2 i + 1)/theta (-1 if i < j else (-1)^(i-j+1)),
    B_i = (2 i + 1)(-1)^i / theta

source: Liu et al. 2024, arXiv 2402.04882; code zeyuliu1037/LMUFormer; memory: Voelker et al. 2019 (NeurIPS), in
        parallel: Chilkuri and Eliasmith 2021, arXiv 2102.11417
train: 2 T C Q (Q + chunk) in chunks of 32, C signals, Q coefficients each
decode: 2 C Q^2 a token; state C Q float32, multiplied in full float32 on every device
departs: the token mixer alone: no batch norm after W_o, no convolutional patch embedding, no spiking neurons; signals
         may be more than the authors' one; chunks in place of one FFT, so that documents end where they end
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold
from ...kernels.exact import einsum
from ...kernels.linear import linear
from ...kernels.lmu import discrete, memory
from ..options import check

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class LmuFormer:
    """width D. order Q: coefficients of a signal's memory, D unless given. theta: tokens that it spans. signals C.
    hidden: width between the memory and the output, D unless given.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"inner": 1, "ff": 1}
    width: int
    order: int | None = None
    theta: float = 128.0
    signals: int = 1
    hidden: int | None = None

    def __post_init__(self):
        check("lmuformer", self, "width signals order hidden", "theta")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(signals C, order Q, hidden width)."""
        of = lambda given: self.width if given is None else given
        return self.signals, of(self.order), of(self.hidden)

    def decl(self) -> Tree:
        c, q, h = self.sizes
        stream, hidden = dict(embed=self.width), dict(ff=h)
        return dict(
            u=param.matrix(stream, dict(inner=c)), u_bias=param.bias(inner=c),
            m=param.matrix(dict(inner=c, state=q), hidden), x=param.matrix(stream, hidden), bias=param.bias(ff=h),
            out=param.matrix(hidden, stream),
        )  # fmt: skip

    def cost(self, tokens: int, context: float) -> Cost:
        c, q, _ = self.sizes
        return Cost(flops=2 * tokens * c * q * q, state_bytes=4 * c * q)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        c, q, _ = self.sizes
        return dict(m=param.state(dict(batch=batch), dict(inner=c, state=q)))

    def _signals(self, params, x: Array) -> Array:
        """float32 [..., C]."""
        u = linear(x, params["u"])
        return jax.nn.relu(u + along(params["u_bias"], u)).astype(jnp.float32)

    def _output(self, params, x: Array, m: Array) -> Array:
        h = linear(m.astype(x.dtype), params["m"], c=2) + linear(x, params["x"])
        return linear(jax.nn.relu(h + along(params["bias"], h)), params["out"])

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        m, last = memory(self._signals(params, x), state["m"], seq.start & seq.mask, seq.mask, theta=self.theta)
        return self._output(params, x, m), dict(m=last), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        a, b = (jnp.asarray(v, jnp.float32) for v in discrete(state["m"].shape[-1], self.theta))
        old = hold(seq.start & seq.mask, jnp.zeros_like(state["m"]), state["m"])
        u = self._signals(params, x)
        m = einsum("bcr,qr->bcq", old, a) + u[..., None] * along(b, old)
        m = hold(seq.mask, m, old)
        return self._output(params, x, m), dict(m=m), Aux()
