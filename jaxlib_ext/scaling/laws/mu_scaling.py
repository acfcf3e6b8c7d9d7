"""L(width) = A width^-alpha + E for models of one family that share their hyperparameters under muP.

The input may be the width or the number of parameters: mu_scaling(input='N').

source: Yao and Wang 2023, arXiv 2304.06875, section 3 (a x^b + c there).
"""

import dataclasses

from .power_offset import PowerOffset


@dataclasses.dataclass(frozen=True)
class MuScaling(PowerOffset):
    input: str = "width"
