"""prenorm: the mixer reads a normed stream, the stream itself is only added to.

    z <- z + scale f(norm(z));  out = norm(z)

source: Xiong et al. 2020, arXiv 2002.04745
train: one norm a site
decode: the same
departs: none
"""

import dataclasses

import jax

from ...contracts import Norm, Seq

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PreNorm:
    """norm: read before every site and once at the end. scale: factor on every mixer's output."""

    norm: Norm
    scale: float = 1.0

    def decl(self, sites: int) -> dict:
        return {"site": self.norm.decl(), "ends": self.norm.decl()}

    def open(self, ends, x: Array, seq: Seq) -> Array:
        return x

    def read(self, params, z: Array, i: Array, seq: Seq) -> Array:
        return self.norm.apply(params, z, seq)[0]

    def write(self, params, z: Array, y: Array, i: Array, seq: Seq) -> Array:
        return z + (y if self.scale == 1.0 else y * self.scale)

    def close(self, ends, z: Array, seq: Seq) -> Array:
        return self.norm.apply(ends, z, seq)[0]
