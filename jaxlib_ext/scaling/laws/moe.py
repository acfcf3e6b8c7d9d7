"""Mixtures of experts: three laws.

moe_fine    L = c + (g / G^gamma + a) / N^alpha + b / D^beta: granularity G (how much finer experts are than a
            feed-forward layer), N all parameters, D tokens. Krajewski et al. 2024, arXiv 2402.07871, equation
            9.
moe_routed  L = c + A N^-alpha X^-beta: N parameters of the dense model, X experts; the interaction-free form,
which
            extrapolates better than richer ones on routed models.
moe_clark   log L = d + a log N + b log X' + c log N log X', where X' saturates: 1 / X' = 1 / (X - 1 + 1 / (1
/ X_start -
            1 / X_max)) + 1 / X_max. Clark et al. 2022, arXiv 2202.01169. X keeps its unit.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class MoeFine:
    inputs = ("N", "D", "G")
    linear = ("a", "b", "c", "g")

    @property
    def params(self):
        return dict(a="positive", b="positive", c="positive", g="positive", alpha="real", beta="real", gamma="real")

    def predict(self, p, z):
        width = p["g"] * jnp.exp(-p["gamma"] * z["G"]) + p["a"]
        return p["c"] + width * jnp.exp(-p["alpha"] * z["N"]) + p["b"] * jnp.exp(-p["beta"] * z["D"])

    def units(self, p, shift):
        n, d = jnp.exp(p["alpha"] * shift["N"]), jnp.exp(p["beta"] * shift["D"])
        g = p["g"] * n * jnp.exp(p["gamma"] * shift["G"])
        return {**p, "a": p["a"] * n, "b": p["b"] * d, "g": g}

    def ranges(self, z, y):
        return dict(alpha=(0.05, 0.6), beta=(0.05, 0.6), gamma=(0.2, 1.5))


@dataclasses.dataclass(frozen=True)
class MoeRouted:
    inputs = ("N", "X")
    linear = ("A", "c")

    @property
    def params(self):
        return dict(A="positive", c="positive", alpha="real", beta="real")

    def predict(self, p, z):
        return p["c"] + p["A"] * jnp.exp(-p["alpha"] * z["N"] - p["beta"] * z["X"])

    def units(self, p, shift):
        return {**p, "A": p["A"] * jnp.exp(p["alpha"] * shift["N"] + p["beta"] * shift["X"])}

    def ranges(self, z, y):
        return dict(alpha=(0.05, 0.6), beta=(0.0, 0.4))


@dataclasses.dataclass(frozen=True)
class MoeClark:
    inputs = ("N", "X")
    linear = ()
    keep = ("X",)

    @property
    def params(self):
        return dict(a="real", b="real", c="real", d="real", X_start=(1.0, 8.0), over="positive")

    def _experts(self, p, x):
        top = p["X_start"] * (1 + p["over"])
        start = 1 / (1 / p["X_start"] - 1 / top)
        return -jnp.log(1 / (jnp.expm1(x) + start) + 1 / top)

    def predict(self, p, z):
        x = self._experts(p, z["X"])
        return jnp.exp(p["d"] + p["a"] * z["N"] + p["b"] * x + p["c"] * z["N"] * x)

    def units(self, p, shift):
        s = shift["N"]
        return {**p, "d": p["d"] - p["a"] * s, "b": p["b"] - p["c"] * s}

    def ranges(self, z, y):
        level = float(np.median(np.log(y)))
        wide = (level - 0.3, level + 0.3)
        return dict(a=(-0.3, 0.0), b=(-0.2, 0.0), c=(-0.01, 0.03), d=wide, X_start=(1.1, 4.0), over=(10.0, 1e3))

    def experts_max(self, p):
        """X_max, where further experts stop helping: X_start (1 + over)."""
        return p["X_start"] * (1 + p["over"])
