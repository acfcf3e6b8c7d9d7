"""What a parameterisation says of one parameter, as plain data that `init`, models and optimizers take.

>>> from jaxlib_ext import param
>>> decl = dict(up=param.matrix(dict(embed=4), dict(ff=8)), norm=param.gain(embed=4))
>>> scales = dict(up=Scale(init=0.5, lr=0.25), norm=None)
>>> values, halved = param.init(decl, jax.random.key(0)), param.init(decl, jax.random.key(0), scales=scales)
>>> bool(jnp.allclose(halved["up"], 0.5 * values["up"])), bool((halved["norm"] == values["norm"]).all())
(True, True)
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Tree = Any


@dataclasses.dataclass(frozen=True)
class Scale:
    """Factors on what the declaration and the optimizer do with one parameter; without unit. Like Param no pytree
    node: `jax.tree.map` stops at it unaided.

    init: on the declared initial value. forward: on the parameter wherever the model uses it. lr: on the learning
    rate. decay: on the product of unscaled learning rate and weight decay, so that 1 shrinks every parameter alike.
    eps: on the optimizer's eps, where it has one.
    """

    init: float = 1.0
    forward: float = 1.0
    lr: float = 1.0
    decay: float = 1.0
    eps: float = 1.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"Scale: {field.name} must be finite and not negative, not {value!r}")


ONE = Scale()


def scale_of(path: str, entry: Any) -> Scale:
    """An entry of a tree of scales: a Scale, a number (a factor on the learning rate), or None for all ones."""
    if entry is None:
        return ONE
    if isinstance(entry, Scale):
        return entry
    try:
        return Scale(lr=float(entry))
    except (TypeError, ValueError):
        raise ValueError(f"{path}: a scale is a Scale, a number for the learning rate or None, not {entry!r}") from None


def beside(decl: Tree, scales: Tree) -> dict[str, Scale]:
    """path -> Scale, for trees of one structure; a leaf that only one of them has raises ValueError by its path."""
    leaves = lambda tree: {_path(k): v for k, v in jax.tree.leaves_with_path(tree, is_leaf=lambda v: v is None)}
    declared, given = leaves(decl), leaves(scales)
    if odd := sorted(set(declared) ^ set(given)):
        said = "the scales have no entry for this parameter" if odd[0] in declared else "a scale without a parameter"
        raise ValueError(f"{odd[0]}: {said}")
    return {path: scale_of(path, v) for path, v in given.items()}


def _path(keys) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def multiplied(decl: Tree, params: Tree, scales: Tree) -> Tree:
    """The parameters as the model is to see them: each times its `forward`. Differentiate through it, and the stored
    ones are what is trained: `loss(model, param.multiplied(decl, params, scales), batch, key)`."""
    known = beside(decl, scales)

    def times(keys, _, value):
        factor = known[_path(keys)].forward
        return value if factor == 1.0 else value * jnp.asarray(factor, value.dtype)

    return jax.tree.map_with_path(times, decl, params)
