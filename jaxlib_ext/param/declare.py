"""One declaration per parameter; everything else is a fold over it.

A declaration is a nested dict whose leaves are `Param`: plain data that says what an array is, never the array.
Initial values, abstract shapes, sharding specs, decay masks, counts and bytes are folds over that tree, so a fact is
written once. Values stay bare `jax.Array`s in a dict of the same structure. `folds.py` has the folds; this file has
the vocabulary and the constructors, which are the only way that methods write declarations.

>>> decl = dict(q=matrix(contracts=dict(embed=8), produces=dict(heads=2, head_dim=4)), scale=gain(embed=8))
>>> decl["q"].shape, decl["q"].axes, decl["q"].fan_in
((8, 2, 4), ('embed', 'heads', 'head_dim'), 8)

The path of a leaf ("unit/0/token/q") is its identity: its random numbers and its checkpoint key come from it, so
renaming a leaf is a breaking change that needs a migration.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Tree = Any

KINDS = {
    "matrix": "contracted with activations through kernels.linear; decayed",
    "embed": "a table of token vectors, gathered through kernels.linear.take",
    "head": "the matrix that makes logits; decayed",
    "gain": "a factor, usually one per channel; kept in float32",
    "bias": "an offset",
    "decay": "sets the speed of a recurrence (log decays, time steps); kept in float32, never decayed",
    "conv": "taps of a short convolution; decayed",
    "table": "a gathered table that is not the token embedding, such as learned positions",
    "buffer": "changed without a gradient: running statistics, routing bias; no optimizer sees it",
    "const": "fixed numbers that are stored with the parameters",
    "cache": "decoding state that grows with the context: keys, values",
    "state": "decoding state of fixed size: recurrences, convolution taps; kept in float32",
    "count": "integer decoding state",
}
TRAINED = ("matrix", "embed", "head", "gain", "bias", "decay", "conv", "table")
DECAYED = ("matrix", "head", "conv")
COMPUTE = ("matrix", "embed", "head", "bias", "conv", "table")  # cast to the compute dtype; the rest stays float32

AXES = {
    "embed": "width of the residual stream",
    "heads": "query heads, or heads of a recurrence",
    "kv_heads": "key and value heads",
    "group": "query heads that share one key head",
    "head_dim": "width of a head",
    "key": "key width of a matrix-valued state",
    "value": "value width of a matrix-valued state",
    "ff": "hidden width of a channel mixer",
    "gate": "stacked projections of a gated unit",
    "inner": "hidden width of a token mixer",
    "state": "width of a recurrent state",
    "rank": "a low-rank bottleneck",
    "conv": "taps of a convolution",
    "vocab": "token ids",
    "position": "places in a sequence",
    "layers": "independent copies over depth",
    "expert": "independent copies over experts",
    "batch": "independent sequences",
    "time": "tokens",
    "context": "tokens of a memory",
    "slot": "places of a cache",
}


@dataclasses.dataclass(frozen=True)
class Param:
    """What one array is. Not a pytree node, so `jax.tree.map` stops at it unaided.

    Storage order is always copies + contracts + produces. Axes are ((name, size), ...).
    """

    kind: str
    copies: tuple = ()  # independent: layers, experts, batch; no reduction ever crosses them
    contracts: tuple = ()  # what the einsum contracts -> fan_in
    produces: tuple = ()  # what the einsum produces -> fan_out
    init: Any = "fan_in"  # "fan_in" | "zeros" | "ones" | standard deviation | f(key, shape, dtype)
    dtype: Any = jnp.float32
    uses: float = 1  # how often a token passes through it: n when shared over depth, top/experts, 0 for gathers
    train: bool = True  # False: stored, not differentiated
    extra_axes: tuple = ()  # names outside AXES that a user's method brings
    stacked: int = 0  # leading copies added by folds.stack; init sees one copy

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; kinds are {', '.join(KINDS)}")
        known = {*AXES, *self.extra_axes}
        for name, size in self.dims:
            if name not in known:
                raise ValueError(f"unknown axis {name!r}; name it in extra_axes= or use one of {', '.join(AXES)}")
            if not isinstance(size, int) or size < 0:
                raise ValueError(f"axis {name!r} needs a size that is a whole number, not {size!r}")
        if len(set(self.axes)) != len(self.axes):
            raise ValueError(f"an axis is named twice: {self.axes}")
        if isinstance(self.init, str) and self.init not in ("fan_in", "zeros", "ones"):
            raise ValueError(f'init is "fan_in", "zeros", "ones", a number or a function, not {self.init!r}')

    @property
    def dims(self) -> tuple:
        """((name, size), ...) in storage order."""
        return self.copies + self.contracts + self.produces

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.dims)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.dims)

    @property
    def size(self) -> int:
        """Number of scalars, all copies together."""
        return math.prod(self.shape)

    @property
    def fan_in(self) -> int:
        return math.prod(size for _, size in self.contracts)

    @property
    def fan_out(self) -> int:
        return math.prod(size for _, size in self.produces)

    @property
    def trained(self) -> bool:
        return self.train and self.kind in TRAINED


def _param(kind: str, copies=None, contracts=None, produces=None, **fields) -> Param:
    roles = (tuple((axes or {}).items()) for axes in (copies, contracts, produces))
    return Param(kind, *roles, **fields)


Axes = Mapping[str, int]


def matrix(contracts: Axes, produces: Axes, copies: Axes | None = None, **fields) -> Param:
    """A weight that `kernels.linear.linear` contracts. Drawn from N(0, 1/fan_in) unless `init` says otherwise."""
    return _param("matrix", copies, contracts, produces, **fields)


def head(contracts: Axes, produces: Axes, **fields) -> Param:
    """The matrix from the stream to logits."""
    return _param("head", None, contracts, produces, **fields)


def embed(*, init: Any = 1.0, dtype: Any = jnp.float32, uses: float = 0, **axes: int) -> Param:
    """A token table: the first axis is indexed, the rest is what a row holds. `uses=1` when it is the head too."""
    return _gathered("embed", axes, init=init, dtype=dtype, uses=uses)


def table(*, init: Any = 1.0, dtype: Any = jnp.float32, extra_axes: tuple = (), **axes: int) -> Param:
    """Any other gathered table, for instance learned positions: `table(position=T, embed=D)`."""
    return _gathered("table", axes, init=init, dtype=dtype, uses=0, extra_axes=extra_axes)


def _gathered(kind, axes, **fields) -> Param:
    (index, rows), *rest = axes.items()
    return _param(kind, None, {index: rows}, dict(rest), **fields)


def conv(contracts: Axes, copies: Axes | None = None, produces: Axes | None = None, **fields) -> Param:
    """Taps of a short convolution; depthwise: `conv(contracts=dict(conv=4), copies=dict(inner=C))`."""
    return _param("conv", copies, contracts, produces, **fields)


def _vector(kind: str, default: Any) -> Callable[..., Param]:
    def make(*, init: Any = default, dtype: Any = jnp.float32, copies: Axes | None = None, train: bool = True,
             extra_axes: tuple = (), **axes: int) -> Param:  # fmt: skip
        return _param(kind, copies, None, axes, init=init, dtype=dtype, train=train, extra_axes=extra_axes)

    make.__name__ = make.__qualname__ = kind
    make.__doc__ = f"{kind}(embed=D): {KINDS[kind]}. Starts as {default!r}."
    return make


gain = _vector("gain", "ones")
bias = _vector("bias", "zeros")
decay = _vector("decay", "zeros")
buffer = _vector("buffer", "zeros")
const = _vector("const", "zeros")


def _held(kind: str, dtype: Any) -> Callable[..., Param]:
    def make(copies: Axes, produces: Axes | None = None, *, dtype: Any = dtype, extra_axes: tuple = ()) -> Param:
        return _param(kind, copies, None, produces, init="zeros", dtype=dtype, extra_axes=extra_axes)

    make.__name__ = make.__qualname__ = kind
    make.__doc__ = f"{kind}(copies=dict(batch=B), produces=...): {KINDS[kind]}. Empty is all zeros."
    return make


state = _held("state", jnp.float32)
cache = _held("cache", jnp.float32)
count = _held("count", jnp.int32)
