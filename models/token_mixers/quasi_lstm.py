"""quasi_lstm: an LSTM whose gates see the token and not the last output, so that all tokens are made side by side.

    f = sigmoid(W_f x + b_f + 1);  i, o = sigmoid(W x + b);  z = tanh(W_z x + b_z)
    c_t = f_t c_{t-1} + i_t z_t;  y_t = W_o (o_t tanh(c_t)) + b_o

source: Stanić et al. 2023 (The Languini Kitchen), arXiv 2309.11197; code languini-kitchen/languini-kitchen
train: 10 T D C in the projections and 2 T C in the scan, C channels
decode: the same a token; state C float32
departs: none; the authors' heads are a way to lay channels out and change nothing, so there are none
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold
from ...kernels.linear import linear
from ...kernels.linear_scan import linear_scan
from ..options import check

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class QuasiLstm:
    """width D. inner: channels C, D unless given. forget: what is added to the forget gate before its sigmoid."""

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"inner": 1}
    width: int
    inner: int | None = None
    forget: float = 1.0

    def __post_init__(self):
        check("quasi_lstm", self, "width inner")

    @property
    def channels(self) -> int:
        return self.inner or self.width

    def decl(self) -> Tree:
        stream, inner = dict(embed=self.width), dict(inner=self.channels)
        return dict(
            into=param.matrix(stream, dict(gate=4, **inner)), bias=param.bias(gate=4, **inner),  # z, i, f, o
            out=param.matrix(inner, stream), out_bias=param.bias(**stream),
        )  # fmt: skip

    def cost(self, tokens: int, context: float) -> Cost:
        return Cost(state_bytes=4 * self.channels)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        return dict(c=param.state(dict(batch=batch), dict(inner=self.channels)))

    def _inputs(self, params, x: Array, mask: Array) -> tuple[Array, Array, Array]:
        """f, what is added and the output gate, float32 [..., C]; a masked token neither forgets nor writes."""
        gates = linear(x, params["into"])
        gates = (gates + along(params["bias"], gates)).astype(jnp.float32)
        z, i, f, o = (gates[..., n, :] for n in range(4))
        f = jnp.where(mask[..., None], jax.nn.sigmoid(f + self.forget), 1.0)
        return f, jnp.where(mask[..., None], jax.nn.sigmoid(i) * jnp.tanh(z), 0.0), jax.nn.sigmoid(o)

    def _output(self, params, x: Array, c: Array, o: Array) -> Array:
        y = linear((o * jnp.tanh(c)).astype(x.dtype), params["out"])
        return y + along(params["out_bias"], y)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        f, new, o = self._inputs(params, x, seq.mask)
        c, last = linear_scan(f, new, state["c"], seq.start & seq.mask)
        return self._output(params, x, c, o), dict(c=last), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        f, new, o = self._inputs(params, x, seq.mask)
        c = f * hold(seq.start & seq.mask, jnp.zeros_like(state["c"]), state["c"]) + new
        return self._output(params, x, c, o), dict(c=c), Aux()
