"""mlp: two matrices with an activation between them; relu2 by default, gelu on request.

    y = W2 act(W1 x)

source: Vaswani et al. 2017, arXiv 1706.03762; squared ReLU: So et al. 2021, arXiv 2109.08668
train: 4 D F a token
decode: the same
departs: no biases unless bias=True
"""

import dataclasses
from typing import ClassVar

import jax

from ... import param
from ...contracts import Aux, Cost, Seq, along
from ...kernels.linear import linear
from ..options import check
from .activations import ACTIVATIONS, known

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Mlp:
    """width D. ff: hidden width, 4 D unless given. act: a name in activations.py."""

    pointwise: ClassVar[bool] = True
    free: ClassVar[dict[str, int]] = {"ff": 1}
    width: int
    ff: int | None = None
    act: str = "relu2"
    bias: bool = False

    def __post_init__(self):
        known(self.act)
        check("mlp", self, "width ff")

    @property
    def hidden(self) -> int:
        return self.ff or 4 * self.width

    def decl(self) -> dict:
        d, f = self.width, self.hidden
        decl = dict(up=param.matrix(dict(embed=d), dict(ff=f)), down=param.matrix(dict(ff=f), dict(embed=d)))
        return decl | (dict(up_bias=param.bias(ff=f), down_bias=param.bias(embed=d)) if self.bias else {})

    def cost(self, tokens: int) -> Cost:
        return Cost()

    def apply(self, params, x: Array, seq: Seq) -> tuple[Array, Aux]:
        h = linear(x, params["up"])
        h = ACTIVATIONS[self.act](h + along(params["up_bias"], h) if self.bias else h)
        y = linear(h, params["down"])
        return (y + along(params["down_bias"], y) if self.bias else y), Aux()
