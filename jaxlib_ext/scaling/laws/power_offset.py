"""y = A x^-alpha + E in one input, with a floor E > 0. The input's name is an option, "N" by default.

The same law is L(C) on a compute frontier, and muScaling: the loss against width or parameters under muP,
where models of all widths share their hyperparameters (Yao and Wang 2023, arXiv 2304.06875, L = a N^b + c).

source: Henighan et al. 2020, arXiv 2010.14701, equation 1.1.
"""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class PowerOffset:
    input: str = "N"
    linear = ("A", "E")

    @property
    def inputs(self):
        return (self.input,)

    @property
    def params(self):
        return dict(A="positive", E="positive", alpha="real")

    def predict(self, p, z):
        return p["A"] * jnp.exp(-p["alpha"] * z[self.input]) + p["E"]

    def units(self, p, shift):
        return {**p, "A": p["A"] * jnp.exp(p["alpha"] * shift[self.input])}

    def ranges(self, z, y):
        return dict(alpha=(0.1, 1.0))
