"""glu: a gated unit; SwiGLU by default, act="gelu" is GeGLU, act="sigmoid" the original.

    y = W3 (act(W1 x) * W2 x)

source: Shazeer 2020, arXiv 2002.05202
train: 6 D F a token
decode: the same
departs: no biases
"""

import dataclasses
from typing import ClassVar

import jax

from ... import param
from ...contracts import Aux, Cost, Seq
from ...kernels.linear import linear
from ..options import check
from .activations import ACTIVATIONS, known

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Glu:
    """width D. ff: hidden width, 8/3 D rounded up to a multiple of 8 unless given. act: a name in activations.py."""

    pointwise: ClassVar[bool] = True
    free: ClassVar[dict[str, int]] = {"ff": 1}
    width: int
    ff: int | None = None
    act: str = "silu"

    def __post_init__(self):
        known(self.act)
        check("glu", self, "width ff")

    @property
    def hidden(self) -> int:
        return self.ff or -(-8 * self.width // 24) * 8

    def decl(self) -> dict:
        d, f = self.width, self.hidden
        return dict(
            up=param.matrix(dict(embed=d), dict(gate=2, ff=f)),
            down=param.matrix(dict(ff=f), dict(embed=d)),
        )

    def cost(self, tokens: int) -> Cost:
        return Cost()

    def apply(self, params, x: Array, seq: Seq) -> tuple[Array, Aux]:
        h = linear(x, params["up"])  # [..., 2, F]
        return linear(ACTIVATIONS[self.act](h[..., 0, :]) * h[..., 1, :], params["down"]), Aux()
