"""shared: one copy of the weights serves every depth.

    unit(layer) = shared

source: Dehghani et al. 2018, arXiv 1807.03819; Lan et al. 2019, arXiv 1909.11942
train: the same FLOPs, 1/n of the parameters
decode: states stay one a depth
departs: none
"""

import dataclasses

import jax
import numpy as np

from ... import param


@dataclasses.dataclass(frozen=True)
class Shared:
    """One copy, norms included; a token passes each leaf n times (`uses`)."""

    def decl(self, unit: dict, n: int) -> dict:
        return {"shared": param.fold(lambda _, p: dataclasses.replace(p, uses=p.uses * n), unit), "layers": {}}

    def write(self, unit: dict, n: int, dense: dict) -> dict:
        def first(path, _, values):
            values = np.asarray(values)
            if (values != values[:1]).any():
                raise ValueError(f"{path}: depths differ, so one shared copy cannot hold them")
            return jax.numpy.asarray(values[0])

        return {"shared": param.fold(first, unit, dense), "layers": {}}

    def unit(self, shared: dict, layer: dict) -> dict:
        return shared
