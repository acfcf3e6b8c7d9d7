"""gated_deltanet: the delta rule on a state that forgets, one decay a head and token.

    q, k = unit(silu(conv(W x)));  v = silu(conv(W_v x));  beta = beta_max sigmoid(W_b x)
    a_t = exp(-exp(A_log) softplus(W_a x + b));  S_t = a_t S_{t-1} + beta_t k_t (v_t - a_t S_{t-1}^T k_t)^T
    y = W_o (rms(S_t^T q_t / sqrt(K)) * silu(W_r x))

source: Yang et al. 2024, arXiv 2412.06464
train: as delta_net
decode: 6 H K V a token; state H K V + (conv - 1) H (2 K + V) float32
departs: none; 3/4 D keys and 3/2 D values over all heads and A uniform in [0, 16] at first are the authors';
         beta_max = 2 is arXiv 2411.12537
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import along
from ...kernels.linear import linear
from ..options import ordered
from ._delta import DeltaRule
from ._parts import dt_bias, log_of_uniform, rms

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class GatedDeltaNet(DeltaRule):
    """width D. heads H: one per 128 of width unless given. key, value: widths of a head, 3D/4H and 3D/2H unless given.
    conv: taps. beta_max: at most 2, see the header. dt_low, dt_high: range of the first time steps. a_low, a_high: of
    the first decays exp(A_log). eps: of the norm on each head's output.
    """

    name = "gated_deltanet"
    dt_low: float = 1e-3
    dt_high: float = 0.1
    a_low: float = 0.0
    a_high: float = 16.0

    def __post_init__(self):
        super().__post_init__()
        ordered(self.name, self, "dt_low", "dt_high")
        if None in (self.key, self.value) and 3 * self.width % (4 * self.n):
            raise ValueError(
                f"gated_deltanet: heads={self.n} does not divide 3/4 of width={self.width}; give key and value"
            )
        if not 0 <= self.a_low < self.a_high < math.inf:
            raise ValueError(f"gated_deltanet: needs 0 <= a_low < a_high, not a_low={self.a_low}, a_high={self.a_high}")

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.n, self.key or 3 * self.width // (4 * self.n), self.value or 3 * self.width // (2 * self.n)

    def decl(self) -> Tree:
        h, _, v = self.sizes
        stream, start = dict(embed=self.width), dt_bias(self.dt_low, self.dt_high)
        return super().decl() | dict(
            decay=param.matrix(stream, dict(heads=h)),
            dt_bias=param.decay(heads=h, init=start),
            a_log=param.decay(heads=h, init=log_of_uniform(self.a_low, self.a_high)),
            read=param.matrix(stream, dict(heads=h, value=v)),
        )

    def _log_decay(self, params, x: Array, beta: Array) -> Array:
        dt = linear(x, params["decay"]).astype(jnp.float32)
        dt = jax.nn.softplus(dt + along(params["dt_bias"], dt))
        return -dt * along(jnp.exp(params["a_log"]), dt)

    def _output(self, params, x: Array, y: Array) -> Array:
        y = rms(y, params["norm"], self.eps) * jax.nn.silu(linear(x, params["read"]).astype(jnp.float32))
        return linear(y.astype(x.dtype), params["out"], c=2)
