"""log y = c + sum_i s_i z_i + sum_ij q_ij z_i z_j / 2 with z_i = log x_i: a response surface in any inputs.

A description near the runs, not a law to extrapolate far with: it serves valleys such as the loss over learning rate
and batch size, whose bottom `optimum` gives at any values of the other inputs. inputs are an option.

source: Box and Wilson 1951, J. R. Stat. Soc. B 13, 1; for the loss over lr, batch, N and D: Li et al. 2026,
    arXiv 2604.22753
"""

import dataclasses

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class ResponseSurface:
    inputs: tuple[str, ...] = ("lr", "B", "N", "D")
    linear = ()

    def _pairs(self):
        return [(a, b) for i, a in enumerate(self.inputs) for b in self.inputs[i:]]

    @property
    def params(self):
        return dict.fromkeys(["c", *(f"s_{k}" for k in self.inputs), *(f"q_{a}_{b}" for a, b in self._pairs())], "real")

    def predict(self, p, z):
        log = p["c"] + sum(p[f"s_{k}"] * z[k] for k in self.inputs)
        for a, b in self._pairs():
            log = log + p[f"q_{a}_{b}"] * z[a] * z[b] * (0.5 if a == b else 1.0)
        return jnp.exp(log)

    def units(self, p, shift):
        out = {**p, "c": p["c"] - sum(p[f"s_{k}"] * shift[k] for k in self.inputs)}
        for a, b in self._pairs():
            q = p[f"q_{a}_{b}"]
            out["c"] = out["c"] + q * shift[a] * shift[b] * (0.5 if a == b else 1.0)
            out[f"s_{a}"] = out[f"s_{a}"] - q * shift[b]
            if a != b:
                out[f"s_{b}"] = out[f"s_{b}"] - q * shift[a]
        return out

    def ranges(self, z, y):
        level = float(np.median(np.log(np.abs(y))))
        small = {k: (-0.1, 0.1) for k in self.params if k != "c"}
        return dict(c=(level - 0.1, level + 0.1), **small)

    def optimum(self, p, over, at):
        """Values of the inputs named in `over` that minimise y at the other inputs' values, each [m] or scalar.

        Raises ValueError where the surface does not bend upwards in them."""
        entry = lambda a, b: p[f"q_{a}_{b}"] if f"q_{a}_{b}" in p else p[f"q_{b}_{a}"]
        bend = np.array([[entry(a, b) for b in over] for a in over])
        if np.linalg.eigvalsh(bend)[0] <= 0:
            raise ValueError(f"the surface has no minimum over {', '.join(over)}")
        slope = np.stack([p[f"s_{a}"] + sum(entry(a, k) * np.log(at[k]) for k in at) for a in over])
        return dict(zip(over, np.exp(-np.linalg.solve(bend, slope)), strict=True))
