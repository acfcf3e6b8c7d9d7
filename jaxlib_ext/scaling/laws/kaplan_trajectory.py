"""L = (N_c / N)^alpha_N + (S_c / S_min)^alpha_S, S_min = S / (1 + B_crit / B), B_crit = B_star / L^(1 /
alpha_B).

N parameters, S optimizer steps, B batch size: the whole loss curve of a run at any batch size. The loss
stands on both sides; log L - log of the right side rises in log L with a slope of at least 1, so Newton's
method finds the one root. Fitted are A = N_c^alpha_N and K = S_c^alpha_S, in units of the loss. B_star has
the unit of B.

source: Kaplan et al. 2020, arXiv 2001.08361, section 5; Su et al. 2024, arXiv 2403.06563.
catalogue: kaplan_trajectory_law
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class KaplanTrajectory:
    inputs = ("N", "S", "B")
    linear = ()

    @property
    def params(self):
        return dict.fromkeys(("A", "K", "alpha_N", "alpha_S", "B_star", "alpha_B"), "positive")

    def predict(self, p, z):
        floor = p["A"] * jnp.exp(-p["alpha_N"] * z["N"])
        fall = p["K"] * jnp.exp(-p["alpha_S"] * z["S"])
        ratio = jnp.log(p["B_star"]) - z["B"]

        def step(_, log_l):
            share = ratio - log_l / p["alpha_B"]  # log of B_crit / B
            part = fall * jnp.exp(p["alpha_S"] * jax.nn.softplus(share))
            value = floor + part
            slope = 1 + part / value * p["alpha_S"] / p["alpha_B"] * jax.nn.sigmoid(share)
            return log_l - (log_l - jnp.log(value)) / slope

        root = jax.lax.stop_gradient(jax.lax.fori_loop(0, 25, step, jnp.log(floor + fall)))
        return jnp.exp(step(0, step(0, root)))  # two more steps make first and second derivatives those of the root

    def units(self, p, shift):
        a, k = jnp.exp(p["alpha_N"] * shift["N"]), jnp.exp(p["alpha_S"] * shift["S"])
        return {**p, "A": p["A"] * a, "K": p["K"] * k, "B_star": p["B_star"] * jnp.exp(shift["B"])}

    def ranges(self, z, y):
        m = float(np.median(y))
        return dict(
            A=(0.4 * m, m), K=(0.1 * m, 0.6 * m), alpha_N=(0.03, 0.3), alpha_S=(0.2, 1.0), B_star=(0.1, 1e3),
            alpha_B=(0.1, 0.6),
        )  # fmt: skip

    def critical_batch(self, p, loss):
        """B_crit at a loss, in the unit of B: there steps and tokens are both twice their least."""
        return p["B_star"] / loss ** (1 / p["alpha_B"])
