"""L(N, D) = exp(s N^q + S) + exp(B N^b + Q) D^(-exp(A N^a + E)): the exponent of the data term depends on the
size.

Each of the three functions of N is fitted as v + t (N^q - 1) / q, its value and slope at N = 1 (in the unit
of the fit) and its bend q, which stays well-behaved where q goes to 0 and s and S run to infinity against
each other: floor_v, floor_t, floor_q for the first, data_... for the amplitude and power_... for the
exponent. `constants` gives the published nine. Wants 30 runs or more. The family is not closed under a change
of the unit of D, which keeps its own.

source: Li et al. 2025 (Farseer), arXiv 2506.10972.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

PARTS = ("floor", "data", "power")


def _bent(n, q):
    """(e^(q n) - 1) / q, and n at q = 0."""
    x = q * n
    small = jnp.abs(x) < 1e-3
    safe = jnp.where(small, 1.0, x)
    return n * jnp.where(small, 1 + x / 2 * (1 + x / 3 * (1 + x / 4)), jnp.expm1(safe) / safe)


@dataclasses.dataclass(frozen=True)
class Farseer:
    inputs = ("N", "D")
    linear = ()
    keep = ("D",)

    @property
    def params(self):
        return {f"{part}_{k}": "real" for part in PARTS for k in "vtq"}

    def predict(self, p, z):
        floor, data, power = (p[f"{k}_v"] + p[f"{k}_t"] * _bent(z["N"], p[f"{k}_q"]) for k in PARTS)
        return jnp.exp(floor) + jnp.exp(data - jnp.exp(power) * z["D"])

    def units(self, p, shift):
        out = {}
        for k in PARTS:
            v, t, q = p[f"{k}_v"], p[f"{k}_t"], p[f"{k}_q"]
            out |= {
                f"{k}_v": v + t * _bent(-shift["N"], q),
                f"{k}_t": t * jnp.exp(-q * shift["N"]),
                f"{k}_q": q,
            }
        return out

    def ranges(self, z, y):
        # In the middle of the sizes the exponent is about 0.15 to 0.6 and the data term a part of the loss.
        level, tokens = float(np.log(np.median(y))), float(np.median(z["D"]))
        return dict(
            floor_v=(level - 0.7, level), floor_t=(-0.2, 0.0), floor_q=(-0.2, 0.3),
            data_v=(level - 2 + 0.2 * tokens, level - 1 + 0.5 * tokens),
            data_t=(-1.5, 0.0), data_q=(-0.2, 0.1),
            power_v=(-1.7, -0.6), power_t=(-0.3, 0.0), power_q=(-0.1, 0.2),
        )  # fmt: skip

    def constants(self, p):
        """The nine constants as published: s, q, S, B, b, Q, A, a, E; infinite where a bend is 0."""
        out = {}
        for k, (slope, bend, level) in zip(PARTS, ("sqS", "BbQ", "AaE"), strict=True):
            ratio = p[f"{k}_t"] / p[f"{k}_q"]
            out |= {slope: ratio, bend: p[f"{k}_q"], level: p[f"{k}_v"] - ratio}
        return out
