"""qrnn: gates from a convolution over a few tokens, pooled by a diagonal recurrence.

    z, f, o, i = tanh, sigmoid, sigmoid, sigmoid of W * (x_{t-k+1} .. x_t) + b
    f: y_t = c_t = f_t c_{t-1} + (1 - f_t) z_t;  fo: y_t = o_t c_t;  ifo: c_t = f_t c_{t-1} + i_t z_t, y_t = o_t c_t

source: Bradbury et al. 2016, arXiv 1611.01576; in hybrids with attention: see catalogue
train: 2 T k D^2 in each of 2, 3 or 4 convolutions and 2 T D in the scan
decode: the same a token; state D + (k - 1) D float32
departs: biases as in the authors' code; no zoneout
catalogue: qrnn_hybrid, whose pattern of blocks is the configuration's mixer="qrnn,qrnn,attention"
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold
from ...kernels.linear import linear
from ...kernels.linear_scan import linear_scan
from ...kernels.short_conv import windows, windows_step
from ..options import check

Array = jax.Array
Tree = dict
POOLS = {"f": "zf", "fo": "zfo", "ifo": "zfoi"}  # what is made of a window for each pooling


@dataclasses.dataclass(frozen=True)
class Qrnn:
    """width D, of the channels too. window: tokens k that a gate sees. pool: "f", "fo" or "ifo", see the header."""

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {}
    width: int
    window: int = 2
    pool: str = "fo"

    def __post_init__(self):
        check("qrnn", self, "width window")
        if self.pool not in POOLS:
            raise ValueError(f"qrnn: pool is one of {', '.join(POOLS)}, not {self.pool!r}")

    def decl(self) -> Tree:
        made = dict(gate=len(POOLS[self.pool]), inner=self.width)
        return dict(into=param.matrix(dict(conv=self.window, embed=self.width), made), bias=param.bias(**made))

    def cost(self, tokens: int, context: float) -> Cost:
        return Cost(state_bytes=4 * self.width * self.window)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        held = param.state(dict(batch=batch), dict(conv=self.window - 1, embed=self.width))
        return dict(conv=held, c=param.state(dict(batch=batch), dict(inner=self.width)))

    def _inputs(self, params, seen: Array, mask: Array) -> tuple[Array, Array, Array]:
        """f, what is added and the output gate, float32 [..., D], of windows [..., k, D]; a masked token changes
        nothing."""
        made = linear(seen, params["into"], c=2)
        made = (made + along(params["bias"], made)).astype(jnp.float32)
        gate = {name: made[..., n, :] for n, name in enumerate(POOLS[self.pool])}
        z, f = jnp.tanh(gate["z"]), jax.nn.sigmoid(gate["f"])
        i = jax.nn.sigmoid(gate["i"]) if "i" in gate else 1 - f
        o = jax.nn.sigmoid(gate["o"]) if "o" in gate else jnp.ones_like(f)
        real = mask[..., None]
        return jnp.where(real, f, 1.0), jnp.where(real, i * z, 0.0), o

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        seen, held = windows(x, state["conv"], seq)
        f, new, o = self._inputs(params, seen, seq.mask)
        c, last = linear_scan(f, new, state["c"], seq.start & seq.mask)
        return (o * c).astype(x.dtype), dict(conv=held, c=last), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        seen, held = windows_step(x, state["conv"], seq)
        f, new, o = self._inputs(params, seen, seq.mask)
        c = f * hold(seq.start & seq.mask, jnp.zeros_like(state["c"]), state["c"]) + new
        return (o * c).astype(x.dtype), dict(conv=held, c=c), Aux()
