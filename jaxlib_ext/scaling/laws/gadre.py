"""L = E + (A M^eta + B M^-eta) C^-eta with token multiplier M = D / N and C = 6 N D, in the inputs N and D.

Since C / M = 6 N^2 and C M = 6 D^2, this is E + A (6 N^2)^-eta + B (6 D^2)^-eta: the Chinchilla law with one
exponent 2 eta, whose loss at fixed M falls with the same power of C for every M. That is what lets small
over-trained runs speak for large ones.

source: Gadre et al. 2024, arXiv 2403.08540. `downstream` goes on from the loss to a task's error.
"""

import dataclasses
import math

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Gadre:
    inputs = ("N", "D")
    linear = ("A", "B", "E")

    @property
    def params(self):
        return dict(A="positive", B="positive", E="positive", eta="real")

    def predict(self, p, z):
        term = lambda v: jnp.exp(-p["eta"] * (math.log(6) + 2 * v))
        return p["E"] + p["A"] * term(z["N"]) + p["B"] * term(z["D"])

    def units(self, p, shift):
        factor = lambda s: jnp.exp(2 * p["eta"] * s)
        return {**p, "A": p["A"] * factor(shift["N"]), "B": p["B"] * factor(shift["D"])}

    def ranges(self, z, y):
        return dict(eta=(0.05, 0.5))
