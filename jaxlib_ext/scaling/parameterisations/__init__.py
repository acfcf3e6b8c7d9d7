"""Parameterisations: what a model of another size is to start from and to be trained with, as `param.Scale`s.

scales = mup(model.decl(), base.decl(), "adamw")
params = param.init(model.decl(), key, scales=scales)
tx = optim.adamw(rate_of_base, decl=model.decl(), scales=scales)
"""

from .abc import ABC, Exponents, absorbed, exponents, feature_exponent, moved, param_scaling
from .arch_aware import Edge, arch_init, arch_rate, path_depths
from .criticality import Critical, criticality, kernel, susceptibilities
from .depth import branch, depth_mup
from .mup import mup
from .umup import u_mup

__all__ = [
    "ABC",
    "Critical",
    "Edge",
    "Exponents",
    "absorbed",
    "arch_init",
    "arch_rate",
    "branch",
    "criticality",
    "depth_mup",
    "exponents",
    "feature_exponent",
    "kernel",
    "moved",
    "mup",
    "param_scaling",
    "path_depths",
    "susceptibilities",
    "u_mup",
]
