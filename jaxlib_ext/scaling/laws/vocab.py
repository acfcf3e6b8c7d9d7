"""L_u = -E + A_1 N^-alpha_1 + A_2 V^-alpha_2 + B D^-beta for the loss normalised by a unigram model, below
zero.

N parameters without the vocabulary's, V the vocabulary's parameters (or its size), D training characters. L_u
compares vocabularies, which the loss per token does not. Negative, so fit it with a loss in raw space.

source: Tao et al. 2024, arXiv 2407.13623.
"""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Vocab:
    inputs = ("N", "V", "D")
    linear = ("A_1", "A_2", "B", "E")

    @property
    def params(self):
        amplitudes = dict(A_1="positive", A_2="positive", B="positive", E="real")
        return amplitudes | dict(alpha_1="real", alpha_2="real", beta="real")

    def predict(self, p, z):
        by_n = p["A_1"] * jnp.exp(-p["alpha_1"] * z["N"]) + p["A_2"] * jnp.exp(-p["alpha_2"] * z["V"])
        return by_n + p["B"] * jnp.exp(-p["beta"] * z["D"]) - p["E"]

    def units(self, p, shift):
        factor = lambda k, x: jnp.exp(p[k] * shift[x])
        moved = dict(A_1=p["A_1"] * factor("alpha_1", "N"), A_2=p["A_2"] * factor("alpha_2", "V"))
        return {**p, **moved, "B": p["B"] * factor("beta", "D")}

    def ranges(self, z, y):
        return dict(alpha_1=(0.1, 1.0), alpha_2=(0.1, 1.0), beta=(0.1, 1.0))
