"""L = A N_eff^-alpha + B D^-beta + E, N_eff = N prod_i (1 - exp(-P_i / gamma_i)), for training in low
precision.

P_i are bits of weights, activations and cache: the inputs named in `parts`, each with its gamma. post=True
adds the damage of quantising after training to P_post bits: C D^gamma_D / N_eff^gamma_N exp(-P_post /
gamma_post), which grows with the tokens seen. Bits keep their unit.

source: Kumar et al. 2024, arXiv 2411.04330.
"""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Precision:
    parts: tuple[str, ...] = ("Pw",)
    post: bool = False

    @property
    def inputs(self):
        return ("N", "D", *self.parts, *(("P_post",) if self.post else ()))

    @property
    def keep(self):
        return (*self.parts, "P_post")

    @property
    def linear(self):
        return ("A", "B", "E", "C") if self.post else ("A", "B", "E")

    @property
    def params(self):
        out = dict(A="positive", B="positive", E="positive", alpha="real", beta="real")
        out |= {f"gamma_{k}": "positive" for k in self.parts}
        return out | (dict(C="positive", gamma_D="real", gamma_N="real", gamma_post="positive") if self.post else {})

    def predict(self, p, z):
        n = z["N"] + sum(jnp.log(-jnp.expm1(-jnp.exp(z[k]) / p[f"gamma_{k}"])) for k in self.parts)
        y = p["A"] * jnp.exp(-p["alpha"] * n) + p["B"] * jnp.exp(-p["beta"] * z["D"]) + p["E"]
        if self.post:
            log = p["gamma_D"] * z["D"] - p["gamma_N"] * n - jnp.exp(z["P_post"]) / p["gamma_post"]
            y = y + p["C"] * jnp.exp(log)
        return y

    def units(self, p, shift):
        n, d = shift["N"], shift["D"]
        moved = dict(A=p["A"] * jnp.exp(p["alpha"] * n), B=p["B"] * jnp.exp(p["beta"] * d))
        if self.post:
            moved["C"] = p["C"] * jnp.exp(p["gamma_N"] * n - p["gamma_D"] * d)
        return {**p, **moved}

    def ranges(self, z, y):
        out = dict(alpha=(0.1, 0.8), beta=(0.1, 0.8), **{f"gamma_{k}": (0.5, 6.0) for k in self.parts})
        return out | (dict(gamma_D=(0.1, 1.0), gamma_N=(0.1, 1.0), gamma_post=(0.3, 2.0)) if self.post else {})
