"""nope_head_scale: attention without positions whose softmax has a learned temperature a head, for longer contexts.

    y_t = sum_s softmax_s(lambda_h q_t.k_s / sqrt(K)) v_s,  lambda_h = max(focus_h, low),  s as in attention

source: Wang et al. 2024, arXiv 2404.12224; code AntNLP/nope_head_scale
train: 4 T S heads K a sequence beside the projections
decode: 4 S heads K a token; cache 2 S kv_heads K, S = min(window + sinks, capacity)
departs: the bound lambda >= low is part of the mixer, with a gradient as if it were not there, where the authors clip
         the parameter after each update. That everything but focus is frozen while it is tuned is the optimizer's
         business: focus is the one leaf of that name. start = lambda of all heads with no training is UniformScale
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Position, along
from ..options import ordered
from ..positions import NoPosition
from .attention import Attention

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class NopeHeadScale(Attention):
    """As attention, without a position scheme. start: lambda before training. low: least lambda."""

    position: ClassVar[Position] = NoPosition()
    start: float = 1.0
    low: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        ordered("nope_head_scale", self, "low", "start")

    def decl(self) -> Tree:
        n, g, _ = self.sizes
        start = lambda key, shape, dtype: jnp.full(shape, self.start, dtype)
        return super().decl() | dict(focus=param.gain(kv_heads=n, group=g, init=start))

    def _queries(self, params, x: Array, position: Array) -> Array:
        q, focus = super()._queries(params, x, position), params["focus"]
        scale = focus + jax.lax.stop_gradient(jnp.maximum(focus, self.low) - focus)
        return (q * along(scale[..., None], q)).astype(q.dtype)
