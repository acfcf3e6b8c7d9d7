"""learned: one trained vector a place, added to the embedding.

    embed(x, p) = x + W[p];  p >= length gives NaN

source: Gehring et al. 2017, arXiv 1705.03122; Vaswani et al. 2017, arXiv 1706.03762
train: T D additions
decode: D additions a token
departs: none
"""

import dataclasses
from typing import ClassVar

import jax

from ... import param
from ...kernels.linear import take
from .none import NoPosition

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Learned(NoPosition):
    """length: number of places; a position beyond gives NaN. scale: standard deviation of the initial vectors."""

    absolute: ClassVar[bool] = True
    length: int = 2048
    scale: float = 0.02

    def __post_init__(self):
        if self.length < 1:
            raise ValueError(f"learned positions need length >= 1, not {self.length}")

    def decl(self, width: int) -> dict:
        return {"table": param.table(init=self.scale, position=self.length, embed=width)}

    def embed(self, params, x: Array, position: Array) -> Array:
        return x + take(params["table"], position)
