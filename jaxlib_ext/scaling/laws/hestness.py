"""error(D) = A D^-alpha + E: a learning curve over the number of training samples D, with irreducible error
E.

The power-law region of a learning curve; leave out the smallest sets, where the error is that of a guess, or
fit `bnsl`.

source: Hestness et al. 2017, arXiv 1712.00409 (alpha here is -beta_g there).
catalogue: power_law_learning_curve
"""

import dataclasses

from .power_offset import PowerOffset


@dataclasses.dataclass(frozen=True)
class Hestness(PowerOffset):
    input: str = "D"
