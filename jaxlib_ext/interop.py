"""Family members and models as Flax modules, linen and nnx, that keep their logical axis names.

A method becomes a module that runs one of its functions on parameters which Flax holds:

>>> from jaxlib_ext.models.channel_mixers import Glu
>>> x, seq = jax.numpy.ones((1, 4, 8)), contracts.whole(1, 4)
>>> module = to_linen(Glu(8, ff=12))
>>> variables = module.init(jax.random.key(0), x, seq)
>>> y, aux = module.apply(variables, x, seq)
>>> tuple(nn.get_partition_spec(variables)["params"]["down"])
('ff', 'embed')
>>> model = to_nnx(Glu(8, ff=12), rngs=nnx.Rngs(0))
>>> y, aux = model(x, seq)
>>> model.values["down"].logical
('ff', 'embed')

Arguments and results are those of the method. Leaves that nothing trains (buffers, constants) are kept apart:
in linen's collection "buffers", which `apply(..., mutable=["buffers"])` rewrites with what the call reports,
and in nnx as `Buffer`, which `module.write(aux)` rewrites. The logical names become those of a mesh by
`nn.logical_to_mesh_sharding`; nothing here places an array. This is the only file that imports Flax.
"""

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from flax import nnx
from flax.core import meta

from . import contracts, param

Tree = Any


class Buffer(nnx.Variable):
    """A leaf that changes without a gradient, or not at all."""


def _function(method: Any, function: str | None) -> str:
    """The function to run: the named one, else apply (channel mixers, norms, models) or scan (mixers)."""
    cls = type(method).__name__
    name = function or next((f for f in ("apply", "scan") if hasattr(method, f)), None)
    if name is None:
        raise ValueError(f"{cls} has neither apply nor scan; it is no module of its own")
    if not callable(getattr(method, name, None)):
        raise ValueError(f"{cls} has no function {name!r}")
    try:
        method.decl()
    except TypeError as error:
        raise ValueError(f"{cls} is no module of its own: {error}") from None
    return name


def _box(decl: Tree, values: Tree) -> Tree:
    # Not nn.Partitioned: under jax.set_mesh it takes its names for mesh axes and raises.
    return param.fold(lambda _, p, v: nn.LogicallyPartitioned(v, p.axes), decl, values)


def _kept(decl: Tree, trained: bool) -> Tree:
    """The leaves that are trained in dicts as declared, or the others without the dicts that hold none."""
    parts = {}
    for name, part in decl.items():
        if isinstance(part, dict):
            inner = _kept(part, trained)
            if inner or trained:
                parts[name] = inner
        elif part.trained == trained:
            parts[name] = part
    return parts


def _merge(a: Tree, b: Tree) -> Tree:
    """Two nested mappings as one; where both have a leaf, that of b."""
    if not isinstance(b, Mapping):
        return b
    return {k: _merge(a.get(k, {}), b[k]) if k in b else a[k] for k in (*a, *(k for k in b if k not in a))}


def _reported(result: Any) -> dict:
    """The new buffers that a call reports in its Aux."""
    parts = result if isinstance(result, tuple) else ()
    return next((part.buffers for part in parts if isinstance(part, contracts.Aux)), {})


class LinenMethod(nn.Module):
    """A method as a linen module, made by `to_linen`."""

    wraps: Any
    function: str

    @nn.compact
    def __call__(self, *args, **kwargs):
        decl = self.wraps.decl()
        params, held = {}, {}
        for name, part in _kept(decl, True).items():
            draw = lambda key, n=name, p=part: _box({n: p}, param.init({n: p}, key))[n]
            params[name] = self.param(name, draw, unbox=False)
        for name, part in _kept(decl, False).items():
            draw = lambda n=name, p=part: _box({n: p}, param.init({n: p}, self.make_rng("params")))[n]
            held[name] = self.variable("buffers", name, draw, unbox=False)
        params = _unbox(_merge(params, {name: v.value for name, v in held.items()}))
        result = getattr(self.wraps, self.function)(params, *args, **kwargs)
        if self.is_mutable_collection("buffers") and not self.is_initializing():
            for name, new in _reported(result).items():
                held[name].value = _rebox(held[name].value, new)
        return result


def _is_box(v: Any) -> bool:
    return isinstance(v, meta.AxisMetadata)


def _unbox(tree: Tree) -> Tree:
    """Plain arrays. A user's own boxes are opened too, and nothing is constrained."""
    return jax.tree.map(lambda v: v.unbox(apply_constraint=False) if _is_box(v) else v, tree, is_leaf=_is_box)


def _rebox(old: Tree, new: Tree) -> Tree:
    """New values of some of the leaves, in the boxes of the old ones where these have any."""
    if isinstance(old, Mapping):
        return {k: _rebox(v, new[k]) if k in new else v for k, v in old.items()}
    return old.replace_boxed(new) if _is_box(old) else new


def to_linen(method: Any, function: str | None = None) -> LinenMethod:
    """A linen module whose `__call__(*args)` is `method.<function>(params, *args)`.

    function: apply or, for token mixers, scan unless given ("step", "hidden", ...); modules of one method
    have the same variables. Parameters are drawn by the declaration and boxed with their axis names; plain
    ones, as `params_of` returns them, serve as well: `module.apply({"params": params}, ...)` if there are no
    buffers.
    Raises ValueError for a method that has no such function or whose declaration needs arguments.
    """
    return LinenMethod(method, _function(method, function))


class NnxMethod(nnx.Module):
    """A method as an nnx module, made by `to_nnx`. values: its variables, named as declared."""

    def __init__(self, wraps: Any, function: str, params: Tree):
        make = lambda _, p, v: (nnx.Param if p.trained else Buffer)(v, logical=p.axes)
        self.wraps, self.function = wraps, function
        self.values = nnx.data(param.fold(make, wraps.decl(), params))

    def __call__(self, *args, **kwargs):
        return getattr(self.wraps, self.function)(params_of(self), *args, **kwargs)

    def write(self, aux: contracts.Aux) -> None:
        """Takes over the buffers that a call reported."""

        def visit(held, new):
            for name, value in new.items():
                visit(held[name], value) if isinstance(value, Mapping) else held[name].set_value(value)

        visit(self.values, aux.buffers)


def to_nnx(
    method: Any, rngs: nnx.Rngs | None = None, function: str | None = None, params: Tree | None = None
) -> NnxMethod:
    """An nnx module whose `__call__(*args)` is `method.<function>(params, *args)`.

    rngs: its stream "params" gives the key of `param.init`. params: values to begin with instead. function
    and errors as in `to_linen`. Each variable carries its axis names as the metadata `logical`.
    """
    function = _function(method, function)
    if params is None:
        if rngs is None:
            raise ValueError("to_nnx needs rngs to draw parameters, or params")
        params = param.init(method.decl(), rngs.params())
    return NnxMethod(method, function, params)


def params_of(source: NnxMethod | Mapping) -> Tree:
    """The plain parameter tree behind an nnx module or behind linen variables, buffers in their places."""
    if isinstance(source, NnxMethod):
        is_variable = lambda v: isinstance(v, nnx.Variable)
        return jax.tree.map(lambda v: v.get_value(), source.values, is_leaf=is_variable)
    if "params" not in source:
        raise ValueError(f"linen variables have the collection 'params'; this has {', '.join(source)}")
    return _unbox(_merge(source["params"], source.get("buffers", {})))
