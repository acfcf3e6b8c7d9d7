"""plain: every depth has weights of its own.

    unit(layer) = layer

source: none
train: nothing
decode: nothing
departs: none
"""

import dataclasses

from ... import param


@dataclasses.dataclass(frozen=True)
class Plain:
    """All leaves stacked over depth."""

    def decl(self, unit: dict, n: int) -> dict:
        return {"shared": {}, "layers": param.stack(unit, layers=n)}

    def write(self, unit: dict, n: int, dense: dict) -> dict:
        return {"shared": {}, "layers": dense}

    def unit(self, shared: dict, layer: dict) -> dict:
        return layer
