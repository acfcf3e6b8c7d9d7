"""cross_attention: queries from the stream, keys and values from a memory that `bind` writes into the state.

    y_t = sum_s softmax_s(scale q(x_t).k(m_s)) v(m_s),  over the memory's document of the same number

source: Vaswani et al. 2017, arXiv 1706.03762
train: 4 T S heads K a sequence beside the projections
decode: 4 S heads K a token; keys and values of the memory are computed once
departs: no position scheme between stream and memory, and a document without a memory reads zeros
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq
from ...kernels.attention import EMPTY, Tokens, attention
from ...kernels.linear import linear
from ..options import check
from .attention import Attention

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class CrossAttention:
    """width D of the stream. heads, kv_heads, head_dim as in attention. memory_width: of the memory, D unless given."""

    causal: ClassVar[bool] = True  # y at t depends on x at t alone
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"kv_heads": 1, "group": 1}
    width: int
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    memory_width: int | None = None
    scale: float | None = None

    def __post_init__(self):
        check("cross_attention", self, "memory_width", "scale")
        self._shape  # noqa: B018  raises what attention raises

    @property
    def _shape(self) -> Attention:
        return Attention(self.width, self.heads, self.kv_heads, self.head_dim)

    def decl(self) -> Tree:
        d = self._shape.decl()
        memory = (("embed", self.memory_width or self.width),)
        kv = {name: dataclasses.replace(d[name], contracts=memory) for name in "kv"}
        return d | kv

    def cost(self, tokens: int, context: float) -> Cost:
        n, g, k = self._shape.sizes
        return Cost(flops=4 * tokens * context * n * g * k, state_bytes=int(8 * context * n * k))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        n, _, k = self._shape.sizes
        kv = param.cache(dict(batch=batch), dict(context=context, kv_heads=n, head_dim=k))
        doc = param.count(dict(batch=batch), dict(context=context))
        return dict(k=kv, v=kv, doc=doc, open=param.count(dict(batch=batch)))

    def bind(self, params, memory: Array, state: Tree, seq: Seq) -> Tree:
        """memory [B, S, memory_width], seq the memory's: document k of it is read by document k of the stream."""
        if memory.shape[1] != state["k"].shape[1]:
            raise ValueError(
                f"cross_attention: the memory has {memory.shape[1]} tokens, the state {state['k'].shape[1]}"
            )
        return dict(
            k=linear(memory, params["k"]).astype(state["k"].dtype),
            v=linear(memory, params["v"]).astype(state["v"].dtype),
            doc=jnp.where(seq.mask, seq.doc, 0),  # 0: nobody's
            open=jnp.zeros_like(state["open"]),
        )

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        doc = state["open"][:, None] + seq.doc
        y = self._read(params, x, state, jnp.where(seq.mask, doc, 0))
        return y, state | dict(open=doc[:, -1]), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        doc = state["open"] + (seq.start & seq.mask)
        y = self._read(params, x[:, None], state, jnp.where(seq.mask, doc, 0)[:, None])[:, 0]
        return y, state | dict(open=doc), Aux()

    def _read(self, params, x: Array, state: Tree, doc: Array) -> Array:
        """x [B, T, D], doc [B, T] -> [B, T, D]. One slot of zeros is added, seen by those whom no memory answers."""
        k, v = (jnp.pad(state[n].astype(x.dtype), ((0, 0), (0, 1), (0, 0), (0, 0))) for n in "kv")
        answered = (doc[:, :, None] == state["doc"][:, None, :]).any(-1) & (doc > 0)
        at = Tokens(jnp.where(answered, doc, 0), jnp.zeros_like(doc))
        to_doc = jnp.pad(jnp.where(state["doc"] > 0, state["doc"], EMPTY), ((0, 0), (0, 1)))
        scale = self._shape.sizes[2] ** -0.5 if self.scale is None else self.scale
        q = linear(x, params["q"])
        to = Tokens(to_doc, jnp.zeros_like(to_doc))
        y = attention(q, k, v, at, to, causal=False, scale=scale)
        return linear(y, params["out"], c=3)
