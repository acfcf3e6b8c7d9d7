"""none: no positions; a causal mixer still knows the order.

    embed(x, p) = x,  rotate(q, p) = q,  bias = 0

source: Kazemnejad et al. 2023, arXiv 2305.19466
train: nothing
decode: nothing
departs: none
"""

import dataclasses
from typing import ClassVar

import jax

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class NoPosition:
    """The identity in all three hooks; the base of the other schemes."""

    absolute: ClassVar[bool] = False

    def decl(self, width: int) -> dict:
        return {}

    def embed(self, params, x: Array, position: Array) -> Array:
        return x

    def rotate(self, x: Array, position: Array) -> Array:
        return x

    def bias(self, q_position: Array, k_position: Array, heads: int) -> Array | None:
        return None
