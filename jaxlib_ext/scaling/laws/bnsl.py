"""y = a + b x^-c0 prod_i (1 + (x / d_i)^(1 / f_i))^(-c_i f_i): a power law whose exponent changes at each
break d_i.

After break i the exponent has grown by c_i; f_i is the width of the change in log x. The input's name and the
number of breaks are options; with no break it is power_offset. d_i have the unit of x, the rest but b has
none.

source: Caballero et al. 2022, arXiv 2210.14891.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Bnsl:
    breaks: int = 1
    input: str = "D"
    linear = ("a", "b")

    @property
    def inputs(self):
        return (self.input,)

    @property
    def params(self):
        out = dict(a="positive", b="positive", c0="real")
        for i in range(1, self.breaks + 1):
            out |= {f"c{i}": "real", f"d{i}": "positive", f"f{i}": "positive"}
        return out

    def predict(self, p, z):
        x = z[self.input]
        log = -p["c0"] * x
        for i in range(1, self.breaks + 1):
            f = p[f"f{i}"]
            log = log - p[f"c{i}"] * f * jax.nn.softplus((x - jnp.log(p[f"d{i}"])) / f)
        return p["a"] + p["b"] * jnp.exp(log)

    def units(self, p, shift):
        s = jnp.exp(shift[self.input])
        moved = {f"d{i}": p[f"d{i}"] * s for i in range(1, self.breaks + 1)}
        return {**p, **moved, "b": p["b"] * s ** p["c0"]}

    def ranges(self, z, y):
        x = z[self.input]
        edges = np.linspace(x.min(), x.max(), self.breaks + 1)  # one break in each part, so that none changes places
        out = dict(c0=(0.0, 1.0))
        for i in range(self.breaks):
            out |= {f"c{i + 1}": (-1.0, 5.0), f"f{i + 1}": (0.05, 1.0)}
            out[f"d{i + 1}"] = (float(np.exp(edges[i])), float(np.exp(edges[i + 1])))
        return out
