"""L(N, D) = exp(s N^q + S) + exp(B N^b + Q) D^(-exp(A N^a + E)): the exponent of the data term depends on the
size.

Nine parameters; wants 30 runs or more. The family is not closed under a change of the unit of D, which keeps
its own.

source: Li et al. 2025 (Farseer), arXiv 2506.10972.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Farseer:
    inputs = ("N", "D")
    linear = ()
    keep = ("D",)

    @property
    def params(self):
        return dict.fromkeys(("s", "q", "S", "B", "b", "Q", "A", "a", "E"), "real")

    def predict(self, p, z):
        n = z["N"]
        power = jnp.exp(p["A"] * jnp.exp(p["a"] * n) + p["E"])
        data = jnp.exp(p["B"] * jnp.exp(p["b"] * n) + p["Q"] - power * z["D"])
        return jnp.exp(p["s"] * jnp.exp(p["q"] * n) + p["S"]) + data

    def units(self, p, shift):
        moved = lambda k, power: p[k] * jnp.exp(-p[power] * shift["N"])
        return {**p, "s": moved("s", "q"), "B": moved("B", "b"), "A": moved("A", "a")}

    def ranges(self, z, y):
        # At the middle of the sizes the exponent is about 0.1 to 0.7 and the data term a part of the loss.
        level = float(np.log(np.median(y)))
        return dict(
            s=(-1.0, 0.5), q=(0.05, 0.4), S=(level - 0.7, level + 0.3), B=(4.0, 14.0), b=(-0.2, -0.03), Q=(-8.0, 0.0),
            A=(-2.5, -0.3), a=(0.05, 0.3), E=(-0.5, 1.0),
        )  # fmt: skip
