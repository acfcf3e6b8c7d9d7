"""delta_net: linear attention that replaces what a key recalls with its new value, by a learned share.

    q, k = unit(silu(conv(W x)));  v = silu(conv(W_v x));  beta = beta_max sigmoid(W_b x)
    S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T;  y = W_o rms(S_t^T q_t / sqrt(K))

source: Yang et al. 2024, arXiv 2406.06484
train: 2 T H (3 C K + 2 C V + 3 K V) in chunks of C = 64, and the inverse of one triangle C x C a chunk
decode: 6 H K V a token; state H K V + (conv - 1) H (2 K + V) float32
departs: none; beta_max = 2 is Grazzi et al. 2024, arXiv 2411.12537
"""

import dataclasses

import jax
import jax.numpy as jnp

from ...kernels.linear import linear
from ._delta import DeltaRule
from ._parts import rms

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class DeltaNet(DeltaRule):
    """width D. heads H: one per 128 of width unless given. key, value: widths of a head, D/H unless given. conv: taps.
    beta_max: at most 2, see the header. eps: of the norm on each head's output.
    """

    name = "delta_net"

    def __post_init__(self):
        super().__post_init__()
        if None in (self.key, self.value) and self.width % self.n:
            raise ValueError(f"delta_net: heads={self.n} does not divide width={self.width}; give key and value")

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.n, self.key or self.width // self.n, self.value or self.width // self.n

    def _log_decay(self, params, x: Array, beta: Array) -> Array:
        return jnp.zeros_like(beta)

    def _output(self, params, x: Array, y: Array) -> Array:
        return linear(rms(y, params["norm"], self.eps).astype(x.dtype), params["out"], c=2)
