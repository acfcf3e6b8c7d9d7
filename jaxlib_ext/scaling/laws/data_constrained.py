"""L = A / N'^alpha + B / D'^beta + E for D tokens of which only U are unique, so that epochs repeat.

D' = U (1 + R_D (1 - exp(-(D / U - 1) / R_D))): repeated tokens are worth less and less, about R_D epochs in
all. N' = N_u (1 + R_N (1 - exp(-(N / N_u - 1) / R_N))) with N_u the smaller of N and the size that is
compute-optimal for U tokens: parameters beyond what the unique tokens call for lose value in the same way. D
and U share their unit. With D <= U it is the Chinchilla law but for the excess parameters.

source: Muennighoff et al. 2023, arXiv 2305.16264.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class DataConstrained:
    inputs = ("N", "D", "U")
    linear = ("E",)
    same_unit = (("D", "U"),)

    @property
    def params(self):
        return dict.fromkeys(("A", "B", "E", "alpha", "beta", "R_D", "R_N"), "positive")

    def predict(self, p, z):
        def worth(unique, log_ratio, r):  # log of the effective amount; log_ratio = log(all / unique) >= 0
            extra = jnp.maximum(jnp.exp(log_ratio) - 1, 0.0)
            return unique + jnp.log1p(-r * jnp.expm1(-extra / r))

        used = jnp.minimum(z["D"], z["U"])
        d = worth(used, z["D"] - used, p["R_D"])
        best = (jnp.log(p["alpha"] * p["A"] / (p["beta"] * p["B"])) + p["beta"] * used) / p["alpha"]
        n_used = jnp.minimum(z["N"], best)
        n = worth(n_used, z["N"] - n_used, p["R_N"])
        return p["A"] * jnp.exp(-p["alpha"] * n) + p["B"] * jnp.exp(-p["beta"] * d) + p["E"]

    def units(self, p, shift):
        a, b = jnp.exp(p["alpha"] * shift["N"]), jnp.exp(p["beta"] * shift["D"])
        return {**p, "A": p["A"] * a, "B": p["B"] * b}

    def ranges(self, z, y):
        part = (0.05 * float(np.median(y)), 0.5 * float(np.median(y)))
        return dict(A=part, B=part, alpha=(0.15, 0.7), beta=(0.15, 0.7), R_D=(2.0, 40.0), R_N=(2.0, 40.0))
