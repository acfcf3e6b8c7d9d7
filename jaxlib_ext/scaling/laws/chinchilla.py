"""L(N, D) = A / N^alpha + B / D^beta + E.

N parameters, D tokens, L nats a token. tied=True shares one exponent. N and D each need at least two values,
and E, A and alpha move together: quote intervals from joint draws.

source: Hoffmann et al. 2022, arXiv 2203.15556, approach 3.
"""

import dataclasses

import jax.numpy as jnp

_EXPONENT = (0.1, 1.0)


@dataclasses.dataclass(frozen=True)
class Chinchilla:
    tied: bool = False
    inputs = ("N", "D")
    linear = ("A", "B", "E")

    @property
    def params(self):
        exponents = dict(alpha="real") if self.tied else dict(alpha="real", beta="real")
        return dict(A="positive", B="positive", E="positive", **exponents)

    def _beta(self, p):
        return p["alpha" if self.tied else "beta"]

    def predict(self, p, z):
        return p["A"] * jnp.exp(-p["alpha"] * z["N"]) + p["B"] * jnp.exp(-self._beta(p) * z["D"]) + p["E"]

    def units(self, p, shift):
        a, b = jnp.exp(p["alpha"] * shift["N"]), jnp.exp(self._beta(p) * shift["D"])
        return {**p, "A": p["A"] * a, "B": p["B"] * b}

    def ranges(self, z, y):
        return dict(alpha=_EXPONENT) if self.tied else dict(alpha=_EXPONENT, beta=_EXPONENT)
