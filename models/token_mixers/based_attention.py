"""based_attention: linear attention whose feature map is the Taylor series of exp to second order.

    y_t = sum_{s <= t} f(q_t.k_s) v_s / sum_{s <= t} f(q_t.k_s),  f(x) = 1 + x / sqrt(K) + x^2 / (2 K) = phi(q).phi(k)
    S_t = S_{t-1} + phi(k_t) [v_t, 1]^T,  y_t = ratio of S_t^T phi(q_t)

source: Arora et al. 2024 (Based), arXiv 2402.18668; code HazyResearch/based
train: 2 T heads F (2 V + 2) in chunks of 64 plus in-chunk pairs, F = 1 + K + K (K + 1)/2
decode: heads F (4 V + 2) a token; state heads F (V + 1) float32
departs: one feature for each unordered pair of channels, 153 of them at K = 16 where the paper's map has 273: the same
         function with 0.56 of the state. The paper's model puts it beside attention in a small window, as the
         pattern "based_attention,attention(window=64)" does, and beside short gated convolutions, which no mixer is:
         hyena(order=1,length=4) comes nearest, whose taps a network makes and whose gate is convolved too
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, hold
from ...kernels.linear import linear
from ...kernels.taylor import features, taylor_attention, width
from ..options import check

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class BasedAttention:
    """width D. heads H: one per 64 of width unless given. key K: width of queries and keys. value V: D / H unless
    given.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"heads": 1, "value": 1}
    width: int
    heads: int | None = None
    key: int = 16
    value: int | None = None

    def __post_init__(self):
        check("based_attention", self, "width heads key value")
        h, _, _ = self.sizes
        if self.value is None and self.width % h:
            raise ValueError(f"based_attention: heads={h} does not divide width={self.width}; give value")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(heads H, key width K, value width V)."""
        h = self.heads or max(1, self.width // 64)
        return h, self.key, self.width // h if self.value is None else self.value

    def decl(self) -> Tree:
        h, k, v = self.sizes
        stream, keys, values = dict(embed=self.width), dict(heads=h, key=k), dict(heads=h, value=v)
        return dict(
            q=param.matrix(stream, keys), k=param.matrix(stream, keys), v=param.matrix(stream, values),
            out=param.matrix(values, stream),
        )  # fmt: skip

    def cost(self, tokens: int, context: float) -> Cost:
        h, k, v = self.sizes
        return Cost(flops=tokens * h * width(k) * (4 * v + 2), state_bytes=4 * h * width(k) * (v + 1))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        h, k, v = self.sizes
        return dict(
            s=param.state(dict(batch=batch, heads=h), dict(key=width(k), value=v)),
            total=param.state(dict(batch=batch, heads=h), dict(key=width(k))),
        )

    def _inputs(self, params, x: Array) -> tuple[Array, Array, Array]:
        """q, k, v, float32 [..., H, .]."""
        q, k, v = (linear(x, params[n]).astype(jnp.float32) for n in "qkv")
        return q, k, v

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        both = jnp.concatenate([state["s"], state["total"][..., None]], -1)
        y, both = taylor_attention(*self._inputs(params, x), both, seq.start & seq.mask, seq.mask)
        return linear(y.astype(x.dtype), params["out"], c=2), dict(s=both[..., :-1], total=both[..., -1]), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        q, k, v = self._inputs(params, x)
        asks, keys = features(q), features(k)
        old = hold(seq.start & seq.mask, jax.tree.map(jnp.zeros_like, state), state)
        new = dict(s=old["s"] + jnp.einsum("bhf,bhv->bhfv", keys, v), total=old["total"] + keys)
        new = hold(seq.mask, new, old)
        sums, total = jnp.einsum("bhf,bhfv->bhv", asks, new["s"]), jnp.einsum("bhf,bhf->bh", asks, new["total"])
        y = sums / jnp.where(seq.mask[:, None], total, 1.0)[..., None]
        return linear(y.astype(x.dtype), params["out"], c=2), new, Aux()
