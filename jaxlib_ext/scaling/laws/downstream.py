"""error = epsilon - k exp(-gamma L): the average error of downstream tasks against the loss L.

epsilon is the error of a model that knows nothing. L is the input, in nats; errors in any unit.

source: Gadre et al. 2024, arXiv 2403.08540.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Downstream:
    inputs = ("L",)
    linear = ("epsilon", "k")

    @property
    def params(self):
        return dict(epsilon="positive", k="positive", gamma="positive")

    def predict(self, p, z):
        return p["epsilon"] - p["k"] * jnp.exp(-p["gamma"] * jnp.exp(z["L"]))

    def units(self, p, shift):
        return {**p, "gamma": p["gamma"] * jnp.exp(-shift["L"])}

    def ranges(self, z, y):
        reach = float(np.ptp(np.exp(z["L"]))) + 1e-9
        return dict(gamma=(0.2 / reach, 10.0 / reach))
