"""rwkv7: a state with a decay a channel that removes along one key and writes along another, at learned rates.

    x_n = x + mu_n (x_{t-1} - x), n = r, w, k, v, a, g;  r, k, v = W_n x_n
    w = exp(-e^(-1/2) sigmoid(b_w + tanh(x_w W1) W2));  a = sigmoid(b_a + x_a A1 A2);  g = sigmoid(x_g G1) G2
    h = unit(k * kappa);  k <- k (1 + (a - 1) alpha)
    S_t = diag(w_t) S_{t-1} - (a_t h_t) (S_{t-1}^T h_t)^T + k_t v_t^T
    y = W_o ((groupnorm(S_t^T r_t) + (r_t . rho k_t) v_t) * g_t)

source: Peng et al. 2025, arXiv 2503.14456 (section 4)
train: 2 T H (5 C K + 4 C V + 4 K V) in chunks of C = 32, and the inverse of one triangle C x C a chunk
decode: 8 H K V a token; state H K V + D float32
departs: starts that the authors make of channel and layer are the same in all: mu 1/2, b_w from -6 to 1 in each head
         (theirs -6.5 to -1.5 over all channels); matrices start by their fan-in (theirs: W_o, W1, A1 and G1 at 0, W_k
         small). Mixes values with the first layer's (residual=True) as the paper does where an rwkv7 before gives them
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold, tail
from ...kernels.dplr import dplr
from ...kernels.linear import linear
from ..options import check

Array = jax.Array
Tree = dict
Inputs = tuple[Array, Array, Array, Array, Array, Array]


@dataclasses.dataclass(frozen=True)
class Rwkv7:
    """width D. heads H: one per 64 of width unless given; K = V = D/H. residual: read the values that the first layer
    gave ("v_first") instead of giving them. decay_rank, rate_rank, value_rank, gate_rank: bottlenecks of w, a, the
    value residual and g, the paper's functions of D unless given. eps: of the group norm.
    """

    causal: ClassVar[bool] = True
    align: ClassVar[int] = 1
    width: int
    heads: int | None = None
    residual: bool = False
    decay_rank: int | None = None
    rate_rank: int | None = None
    value_rank: int | None = None
    gate_rank: int | None = None
    eps: float = 64e-5

    def __post_init__(self):
        check("rwkv7", self, "width heads decay_rank rate_rank value_rank gate_rank", "eps")
        if self.value_rank is not None and not self.residual:
            raise ValueError(f"rwkv7: value_rank={self.value_rank} needs residual=True")
        if self.width % self.n:
            raise ValueError(f"rwkv7: heads={self.n} does not divide width={self.width}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("v_first",) if self.residual else ()

    @property
    def gives(self) -> tuple[str, ...]:
        return () if self.residual else ("v_first",)

    @property
    def free(self) -> dict[str, int]:
        """With the first layer's values their heads too would have to be cut."""
        return {} if self.residual else {"heads": 1}

    @property
    def n(self) -> int:
        return self.heads or max(1, self.width // 64)

    @property
    def ranks(self) -> dict[str, int]:
        """Bottleneck of each small two-layer map."""
        near = lambda x: max(32, 32 * round(x / 32))
        ranks = dict(
            w=self.decay_rank or near(1.8 * self.width**0.5),
            a=self.rate_rank or near(1.8 * self.width**0.5),
            g=self.gate_rank or near(0.6 * self.width**0.8),
        )
        return ranks | (dict(v=self.value_rank or near(1.3 * self.width**0.5)) if self.residual else {})

    def decl(self) -> Tree:
        h, k = self.n, self.width // self.n
        stream, keys, values = dict(embed=self.width), dict(heads=h, key=k), dict(heads=h, value=k)
        ends = dict(w=keys, a=keys, g=values, v=values)
        constant = lambda value: lambda key, shape, dtype: jnp.full(shape, value, dtype)
        slow = lambda key, shape, dtype: jnp.broadcast_to(jnp.linspace(-6.0, 1.0, shape[-1]), shape).astype(dtype)
        small = {f"{n}_down": param.matrix(stream, dict(rank=r)) for n, r in self.ranks.items()}
        small |= {f"{n}_up": param.matrix(dict(rank=r), ends[n], init=0.1 * r**-0.5) for n, r in self.ranks.items()}
        small |= {f"{n}_bias": param.bias(**ends[n], init="ones") for n in self.ranks if n == "v"}
        return small | dict(
            mix=param.gain(gate=6, embed=self.width, init=constant(0.5)),
            r=param.matrix(stream, keys),
            k=param.matrix(stream, keys),
            v=param.matrix(stream, values),
            w_bias=param.decay(**keys, init=slow),
            a_bias=param.decay(**keys),
            kappa=param.gain(**keys, init=constant(0.85)),
            alpha=param.gain(**keys),
            rho=param.gain(**keys, init="zeros"),
            norm=param.gain(**values),
            norm_bias=param.bias(**values),
            out=param.matrix(values, stream),
        )

    def cost(self, tokens: int, context: float) -> Cost:
        k = self.width // self.n
        return Cost(flops=8 * tokens * self.width * k, state_bytes=4 * self.width * (k + 1))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        h, k = self.n, self.width // self.n
        s = param.state(dict(batch=batch, heads=h), dict(key=k, value=k))
        return dict(before=param.state(dict(batch=batch), dict(conv=1, embed=self.width)), s=s)

    def _small(self, params, name: str, x: Array, inner) -> Array:
        """The two-layer map `name` of x [..., D], float32."""
        return linear(inner(linear(x, params[f"{name}_down"])), params[f"{name}_up"]).astype(jnp.float32)

    def _inputs(self, params, x: Array, before: Array, seq: Seq) -> tuple[Inputs, Array, Array]:
        """(r, k, v, what is read, what is written of it, log decay), float32 [..., H, K]; v as it came; the gate g.
        A masked token has k, what it writes and its log decay 0."""
        f32 = lambda v: v.astype(jnp.float32)
        mixed = lambda i: x + (before - x) * along(params["mix"][i].astype(x.dtype), x)
        xr, xw, xk, xv, xa, xg = map(mixed, range(6))
        r, k, v = (f32(linear(xn, params[n])) for n, xn in (("r", xr), ("k", xk), ("v", xv)))
        own = v
        if self.residual:
            share = self._small(params, "v", xv, lambda u: u)
            v = v + (f32(seq.side["v_first"]) - v) * jax.nn.sigmoid(share + along(params["v_bias"], share))
        w = self._small(params, "w", xw, jnp.tanh)
        g = -jnp.exp(-0.5) * jax.nn.sigmoid(w + along(params["w_bias"], w))
        a = self._small(params, "a", xa, lambda u: u)
        a = jax.nn.sigmoid(a + along(params["a_bias"], a))
        h = k * along(params["kappa"], k)
        h = h * jax.lax.rsqrt(jnp.maximum(jnp.sum(h * h, -1, keepdims=True), 1e-24))
        k = k * (1 + (a - 1) * along(params["alpha"], a))
        keep = lambda u: jnp.where(seq.mask[..., None, None], u, 0.0)
        return (r, keep(k), v, -h, keep(a * h), keep(g)), own, self._small(params, "g", xg, jax.nn.sigmoid)

    def _output(self, params, x: Array, y: Array, r: Array, k: Array, v: Array, gate: Array) -> Array:
        y = y - jnp.mean(y, -1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        y = y * along(params["norm"], y) + along(params["norm_bias"], y)
        y = y + jnp.sum(r * k * along(params["rho"], k), -1, keepdims=True) * v
        return linear((y * gate).astype(x.dtype), params["out"], c=2)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        start = seq.start & seq.mask
        before = jnp.concatenate([state["before"].astype(x.dtype), x[:, :-1]], 1)
        before = jnp.where(start[..., None], 0, before)
        inputs, own, gate = self._inputs(params, x, before, seq)
        y, s = dplr(*inputs, state["s"], start)
        r, k, v = inputs[:3]
        held = tail(state["before"], x.astype(state["before"].dtype), seq)
        return self._output(params, x, y, r, k, v, gate), dict(before=held, s=s), self._aux(own, x)

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        old = hold(seq.start & seq.mask, jax.tree.map(jnp.zeros_like, state), state)
        inputs, own, gate = self._inputs(params, x, old["before"][:, 0].astype(x.dtype), seq)
        r, k, v, h, b, g = inputs
        s = jnp.exp(g)[..., None] * old["s"] + jnp.einsum("bhk,bhv->bhkv", k, v)
        s = s + jnp.einsum("bhk,bhv->bhkv", b, jnp.einsum("bhk,bhkv->bhv", h, old["s"]))
        y = self._output(params, x, jnp.einsum("bhk,bhkv->bhv", r, s), r, k, v, gate)
        held = hold(seq.mask, x[:, None].astype(old["before"].dtype), old["before"])
        return y, dict(before=held, s=s), self._aux(own, x)

    def _aux(self, own: Array, x: Array) -> Aux:
        return Aux() if self.residual else Aux(gives=dict(v_first=own.astype(x.dtype)))
