"""An operator that stands where a weight stood and reports the size of what is made with it, in any model.

found = []
jax.jit(lambda p: model.apply(tapped(decl, p, lambda path, rms: found.append((path, rms))), tokens, seq))(params)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ... import param
from . import linear, take, unembed

Array = jax.Array
Tree = Any
WEIGHTS = ("matrix", "embed", "head")  # the kinds that reach activations through this package


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["path", "keep"])
@dataclasses.dataclass(frozen=True)
class Tapped:
    """value with a callback: keep(path, root mean square) at every run, in the order of the computation."""

    value: Any
    path: str
    keep: Callable[[str, float], None]

    def astype(self, dtype: Any) -> "Tapped":
        return dataclasses.replace(self, value=self.value.astype(dtype))

    def linear(self, x: Array, c: int = 1) -> Array:
        return self._kept(linear(x, self.value, c))

    def take_rows(self, ids: Array) -> Array:
        return self._kept(take(self.value, ids))

    def unembed(self, x: Array) -> Array:
        return self._kept(unembed(x, self.value))

    def _kept(self, y: Array) -> Array:
        rms = jnp.sqrt(jnp.mean(jnp.square(y.astype(jnp.float32))))
        jax.debug.callback(lambda v: self.keep(self.path, float(v)), rms, ordered=True)
        return y


def tapped(decl: Tree, params: Tree, keep: Callable[[str, float], None]) -> Tree:
    """params with every matrix, embedding and head tapped. keep is called once for every use: for stacked layers in
    the order of depth. Wait with `jax.effects_barrier()` before reading what it kept."""
    return param.fold(lambda path, p, v: Tapped(v, path, keep) if p.kind in WEIGHTS else v, decl, params)
