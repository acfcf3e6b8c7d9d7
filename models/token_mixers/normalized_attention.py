"""normalized_attention: logits are shifted and scaled to a learned mean and deviation instead of made a distribution.

    z_ts = q_t.k_s;  A_ts = g_h (z_ts - mean_s z_ts) / (deviation_s z_ts + eps) + b_h,  s as in attention
    y_t = W_o gelu(layernorm(concat_h sum_s A_ts v_s))

source: Richter and Wattenhofer 2020, arXiv 2005.09561; code OliverRichter/normalized-attention
train: 4 T S heads K a sequence beside the projections
decode: 4 S heads K a token; cache 2 S kv_heads K, S = min(window + sinks, capacity)
departs: causal unless causal=False, where a query's first key alone has deviation 0 and weight b_h; the projections
         have no biases; gelu is its tanh form; the norm that the paper puts on the block's output is left to the
         residual scheme
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import along
from ...kernels.attention import Weigh, normalized
from ...kernels.linear import linear
from ..options import check
from .attention import Attention

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class NormalizedAttention(Attention):
    """As attention, with scale 1 unless given; None is K^-1/2. eps: of the deviation and of the norm over all heads."""

    sink_logit: ClassVar[bool] = False
    free: ClassVar[dict[str, int]] = {}
    scale: float | None = 1.0
    eps: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        check("normalized_attention", self, positive="eps")

    def decl(self) -> Tree:
        n, g, k = self.sizes
        heads, all_ = dict(kv_heads=n, group=g), dict(kv_heads=n, group=g, head_dim=k)
        return super().decl() | dict(
            gain=param.gain(**heads), bias=param.bias(**heads), norm=param.gain(**all_), norm_bias=param.bias(**all_)
        )

    def _weigh(self, params) -> Weigh:
        return normalized(params["gain"], params["bias"], self.eps)

    def _output(self, params, y: Array) -> Array:
        h, axes = y.astype(jnp.float32), (-3, -2, -1)
        h = h - jnp.mean(h, axes, keepdims=True)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, axes, keepdims=True) + self.eps)
        h = h * along(params["norm"], h) + along(params["norm_bias"].astype(jnp.float32), h)
        return linear(jax.nn.gelu(h).astype(y.dtype), params["out"], c=3)
