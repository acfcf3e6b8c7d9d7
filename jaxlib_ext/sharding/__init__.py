"""Where arrays lie: meshes by name, one table of rules, constraints on activations, a report.

>>> import jax
>>> from jaxlib_ext import param, sharding
>>> mesh = sharding.make_mesh("fsdp=1", jax.devices()[:1])
>>> decl = dict(up=param.matrix(dict(embed=8), dict(ff=16)))
>>> params = param.init(decl, jax.random.key(0), sharding.shardings(decl, mesh))
>>> params["up"].shape, params["up"].sharding == sharding.shardings(decl, mesh)["up"]
((8, 16), True)
"""

from .constrain import constrain
from .mesh import MESH_AXES, layout, make_mesh, parse_mesh, sizes, write_mesh
from .report import batch_sharding, check, report, shardings
from .rules import RULES, Rules, spec, ways

__all__ = [
    "MESH_AXES", "RULES", "Rules", "batch_sharding", "check", "constrain", "layout", "make_mesh",
    "parse_mesh", "report", "shardings", "sizes", "spec", "ways", "write_mesh",
]  # fmt: skip
