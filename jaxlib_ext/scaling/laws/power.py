"""y = A x^-alpha in one input: the loss against N, D or C where no floor shows, or an optimum against scale.

alpha > 0 falls with x, alpha < 0 rises. The input's name is an option, "N" by default.

source: Kaplan et al. 2020, arXiv 2001.08361, equations 1.1 to 1.3.
"""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Power:
    input: str = "N"
    linear = ("A",)

    @property
    def inputs(self):
        return (self.input,)

    @property
    def params(self):
        return dict(A="positive", alpha="real")

    def predict(self, p, z):
        return p["A"] * jnp.exp(-p["alpha"] * z[self.input])

    def units(self, p, shift):
        return {**p, "A": p["A"] * jnp.exp(p["alpha"] * shift[self.input])}

    def ranges(self, z, y):
        return dict(alpha=(-1.0, 1.0))
