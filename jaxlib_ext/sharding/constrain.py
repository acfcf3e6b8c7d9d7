"""The one sharding call that methods make."""

from collections.abc import Mapping

import jax
from jax.sharding import AxisType

from .rules import RULES, spec


def constrain(x: jax.Array, names: str, rules: Mapping = RULES) -> jax.Array:
    """x, held in the layout that its axis names have in the rules on the mesh of `jax.set_mesh`.

    names: one axis name a dimension, as in `constrain(x, "batch time embed")`. Dimensions that a vmap adds
    stay free. Without a mesh, or on one device, this is x itself, but the names are checked all the same.
    Mesh axes that an enclosing shard_map has made manual are passed over: x is a part along these already.

    Raises ValueError, with the names, for a wrong number of names, a name without a row, a size that does not
    divide, and a mesh with Explicit axes (`sharding.make_mesh` makes Auto ones).
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    explicit = [name for name, kind in kinds.items() if kind == AxisType.Explicit]
    if explicit:
        raise ValueError(f"constrain {names!r} needs a mesh with Auto axes, {explicit[0]!r} is Explicit")
    auto = {name: size for name, size in mesh.shape.items() if kinds[name] == AxisType.Auto}
    layout = spec(names, x.shape, auto, rules)
    if mesh.empty or mesh.size == 1 or not auto:
        return x
    return jax.lax.with_sharding_constraint(x, layout)
