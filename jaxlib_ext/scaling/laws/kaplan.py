"""L(N, D) = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D, with A = N_c^alpha_N and B = D_c^alpha_D
fitted.

A and B are in units of the loss: L = A N^-alpha_N with plenty of data, B D^-alpha_D with plenty of
parameters; `scales` gives N_c and D_c. The one-input forms L(N), L(D) and L(C) are the law `power`.

source: Kaplan et al. 2020, arXiv 2001.08361, equation 1.5.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Kaplan:
    inputs = ("N", "D")
    linear = ()

    @property
    def params(self):
        return dict(A="positive", B="positive", alpha_N="positive", alpha_D="positive")

    def predict(self, p, z):
        by_n = (jnp.log(p["A"]) - p["alpha_N"] * z["N"]) / p["alpha_D"]
        by_d = (jnp.log(p["B"]) - p["alpha_D"] * z["D"]) / p["alpha_D"]
        return jnp.exp(p["alpha_D"] * jnp.logaddexp(by_n, by_d))

    def units(self, p, shift):
        a, b = jnp.exp(p["alpha_N"] * shift["N"]), jnp.exp(p["alpha_D"] * shift["D"])
        return {**p, "A": p["A"] * a, "B": p["B"] * b}

    def ranges(self, z, y):
        level = (0.4 * np.median(y), 1.0 * np.median(y))
        return dict(A=level, B=level, alpha_N=(0.03, 0.5), alpha_D=(0.03, 0.5))

    def scales(self, p):
        """N_c and D_c, in the units of N and D."""
        return dict(N_c=p["A"] ** (1 / p["alpha_N"]), D_c=p["B"] ** (1 / p["alpha_D"]))
