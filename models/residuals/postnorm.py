"""postnorm: the sum is normed, so the stream has unit scale everywhere.

    z <- norm(z + f(z));  out = z

source: Vaswani et al. 2017, arXiv 1706.03762
train: one norm a site
decode: the same
departs: none
"""

import dataclasses

import jax

from ...contracts import Norm, Seq

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PostNorm:
    """norm: applied to the stream after every site. scale: factor on the stream before the sum (DeepNorm's alpha)."""

    norm: Norm
    scale: float = 1.0

    def decl(self, sites: int) -> dict:
        return {"site": self.norm.decl(), "ends": {}}

    def open(self, ends, x: Array, seq: Seq) -> Array:
        return x

    def read(self, params, z: Array, i: Array, seq: Seq) -> Array:
        return z

    def write(self, params, z: Array, y: Array, i: Array, seq: Seq) -> Array:
        return self.norm.apply(params, (z if self.scale == 1.0 else z * self.scale) + y, seq)[0]

    def close(self, ends, z: Array, seq: Seq) -> Array:
        return z
