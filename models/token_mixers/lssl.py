"""lssl: linear state spaces, one a feature, that hold its past in Legendre polynomials at a time scale that it learns.

    x_t = (1 - a dt A)^-1 ((1 + (1 - a) dt A) x_{t-1} + dt B u_t);  y = W_o gelu(C x + D u) + b
    A_ij = -sqrt((2 i + 1) (2 j + 1)) if j < i, -(i + 1) if j = i, else 0;  B_i = sqrt(2 i + 1)

source: Gu et al. 2021, arXiv 2110.13985; HiPPO: Gu et al. 2020, arXiv 2008.07669; code state-spaces/s4
train: 2 T D (C + 3 N) in chunks of C = 64, N numbers a feature, and about 2 D N^2 (7 N + 2 C) for the chunks' tables
decode: 2 D N a token for the output and about 12 D N sums and products for the state, no matrices; state D N float32
departs: A stays HiPPO's while dt and C learn; one output a feature; chunks in place of one convolution by FFT, so that
         documents end where they end
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold
from ...kernels.exact import einsum
from ...kernels.linear import linear
from ...kernels.lti import legs_matrices, legs_step, lti, matrices
from ..options import check, ordered
from ._parts import log_uniform

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class Lssl:
    """width D. n: numbers of state N a feature. low, high: range of the steps dt at first; a feature holds about 1 / dt
    tokens. alpha: of the generalised bilinear transform, 1/2 the bilinear one, 0 Euler's method, 1 the backward one.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {}
    width: int
    n: int = 32
    low: float = 1e-3
    high: float = 1e-1
    alpha: float = 0.5

    def __post_init__(self):
        check("lssl", self, "width n")
        ordered("lssl", self, "low", "high")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"lssl: alpha must be in [0, 1], not {self.alpha}")
        if (1 - 2 * self.alpha) * self.high * self.n > 2:  # A has eigenvalues down to -n
            said = f"alpha={self.alpha}, high={self.high}, n={self.n}"
            raise ValueError(f"lssl: unstable, (1 - 2 alpha) high n must be at most 2; {said}")

    def decl(self) -> Tree:
        d, n = self.width, self.n
        reads = lambda key, shape, dtype: n**-0.5 * jax.random.normal(key, shape, dtype)
        return dict(
            log_dt=param.decay(inner=d, init=log_uniform(self.low, self.high)),
            c=param.gain(inner=d, state=n, init=reads), skip=param.gain(inner=d),
            out=param.matrix(dict(inner=d), dict(embed=d)), bias=param.bias(embed=d),
        )  # fmt: skip

    def cost(self, tokens: int, context: float) -> Cost:
        size = self.width * self.n
        return Cost(flops=2 * tokens * size, state_bytes=4 * size)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        return dict(x=param.state(dict(batch=batch), dict(inner=self.width, state=self.n)))

    def _output(self, params, y: Array, dtype) -> Array:
        y = linear(jax.nn.gelu(y, approximate=False).astype(dtype), params["out"])
        return y + along(params["bias"], y)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        u = jnp.where(seq.mask[..., None], x, 0).astype(jnp.float32)
        made = legs_matrices(jnp.exp(params["log_dt"]), self.n, self.alpha)
        system = matrices(*made, params["c"], params["skip"])
        y, last = lti(u, state["x"], seq.start & seq.mask, seq.mask, system)
        return self._output(params, y, x.dtype), dict(x=last), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        u = x.astype(jnp.float32)
        old = hold(seq.start & seq.mask, jnp.zeros_like(state["x"]), state["x"])
        new = hold(seq.mask, legs_step(old, u, jnp.exp(params["log_dt"]), self.alpha), old)
        y = einsum("bdn,dn->bd", new, params["c"]) + along(params["skip"], u) * u
        return self._output(params, y, x.dtype), dict(x=new), Aux()
