"""L = A (N (k log P + 1))^-alpha + E: P parallel streams of one model count like more parameters.

N parameters, P streams, which keep their unit: P = 1 is the plain model. k says how much a doubling of P is
worth.

source: Chen et al. 2025 (ParScale), arXiv 2505.10475.
"""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Parallel:
    inputs = ("N", "P")
    linear = ("A", "E")
    keep = ("P",)

    @property
    def params(self):
        return dict(A="positive", E="positive", alpha="real", k="positive")

    def predict(self, p, z):
        return p["A"] * jnp.exp(-p["alpha"] * (z["N"] + jnp.log1p(p["k"] * z["P"]))) + p["E"]

    def units(self, p, shift):
        return {**p, "A": p["A"] * jnp.exp(p["alpha"] * shift["N"])}

    def ranges(self, z, y):
        return dict(alpha=(0.05, 0.8), k=(0.05, 2.0))
