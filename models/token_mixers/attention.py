"""attention: softmax attention; multi-head, grouped or multi-query, causal or not, with a window and sinks if asked.

    y_t = sum_s softmax_s(cap tanh(scale q_t.k_s / cap) + bias) v_s,  s of the same document, s <= t,
          and t - s < window or s among the first `sinks` tokens; with sink_logit, one more key of logit z_h and value 0

source: Vaswani et al. 2017, arXiv 1706.03762; Shazeer 2019, arXiv 1911.02150; Ainslie et al. 2023, arXiv 2305.13245;
        window: Beltagy et al. 2020, arXiv 2004.05150; logit cap: Gemma 2, arXiv 2408.00118;
        sinks: Xiao et al. 2023, arXiv 2309.17453; sink_logit: gpt-oss, arXiv 2508.10925
train: 4 T S heads K a sequence beside the projections, S = T, or 2 window where a window runs as a band: causal,
       without sinks and bias, T at least 4 window
decode: 4 S heads K a token; cache 2 S kv_heads K, S = min(window + sinks, capacity)
departs: sinks keep the positions they have in the document, where the paper counts positions within the cache
catalogue: multi_query_attention
"""

import dataclasses
from typing import ClassVar

import jax

from ... import param
from ...contracts import Aux, Cost, Position, Seq, spoil
from ...kernels.attention import Tokens, Weigh, attention, softmax, sunk
from ...kernels.linear import linear
from ..options import check
from ..positions import Rope
from . import _slots

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class Attention:
    """width D. heads: query heads, width / head_dim unless given. kv_heads: key heads, heads unless given; 1 is
    multi-query. head_dim K: width / heads unless given; with neither, one head per 64 of width. window: tokens seen,
    itself included (with causal=False on either side). cap: bound on the logits. scale: of the logits, K^-1/2 unless
    given. sinks: first tokens of a document that stay in sight of a window. sink_logit: a learned logit a head for
    looking at nothing.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"kv_heads": 1, "group": 1}
    width: int
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    causal: bool = True
    window: int | None = None
    cap: float | None = None
    scale: float | None = None
    position: Position = Rope()
    sinks: int = 0
    sink_logit: bool = False

    def __post_init__(self):
        check("attention", self, "width heads kv_heads head_dim window", "cap scale")
        n, g, k = self.sizes
        if n * g != self.query_heads:
            raise ValueError(f"attention: kv_heads={self.kv_heads} does not divide heads={self.query_heads}")
        if self.head_dim is None and self.width % self.query_heads:
            raise ValueError(f"attention: heads={self.query_heads} does not divide width={self.width}; give head_dim")
        if self.sinks < 0 or (self.sinks and (self.window is None or not self.causal)):
            raise ValueError(f"attention: sinks={self.sinks} needs sinks >= 0, and a causal window that they stay in")

    @property
    def query_heads(self) -> int:
        return self.heads or max(1, self.width // (self.head_dim or 64))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(key heads N, queries a key head G, head width K)."""
        n = self.kv_heads or self.query_heads
        return n, self.query_heads // n, self.head_dim or self.width // self.query_heads

    @property
    def layout(self) -> _slots.Layout:
        return _slots.Ring(self.sinks)

    def slots(self, length: float) -> float:
        """Of the cache, for documents of `length` tokens."""
        return length if self.window is None else min(length, self.window + self.sinks)

    def decl(self) -> Tree:
        n, g, k = self.sizes
        stream, kv = dict(embed=self.width), dict(kv_heads=n, head_dim=k)
        grouped = dict(kv_heads=n, group=g, head_dim=k)
        decl = dict(
            q=param.matrix(stream, grouped), k=param.matrix(stream, kv), v=param.matrix(stream, kv),
            out=param.matrix(grouped, stream),
        )  # fmt: skip
        return decl | (dict(sink=param.bias(kv_heads=n, group=g)) if self.sink_logit else {})

    def cost(self, tokens: int, context: float) -> Cost:
        n, g, k = self.sizes
        if not self.causal:  # a window on either side, and no state
            seen = context if self.window is None else min(context, 2 * self.window - 1)
            return Cost(flops=4 * tokens * seen * n * g * k)
        seen = self.slots(context)
        return Cost(flops=4 * tokens * seen * n * g * k, state_bytes=int(8 * seen * n * k))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        if not self.causal:
            return {}
        n, _, k = self.sizes
        rows, slots = dict(batch=batch), int(self.slots(length))
        kv = param.cache(rows, dict(slot=slots, kv_heads=n, head_dim=k))
        return dict(k=kv, v=kv, position=param.count(rows, dict(slot=slots)), count=param.count(rows))

    def _queries(self, params, x: Array, position: Array) -> Array:
        q = linear(x, params["q"])
        flat = q.reshape(*q.shape[:-3], -1, q.shape[-1])
        return self.position.rotate(flat, position).reshape(q.shape)

    def _sight(self) -> Tree:
        """window and pattern of the kernel: which keys a query sees by places."""
        if self.window is None or not self.sinks:
            return dict(window=self.window)
        window, sinks = self.window, self.sinks
        return dict(pattern=lambda q_place, k_place: (q_place - k_place < window) | (k_place < sinks))

    def _own(self, seq: Seq) -> Tokens:
        """A call's own tokens, where no other are looked at; `_sight` may look at differences of places alone."""
        return _slots.placed(seq) if self.sinks else _slots.neighbours(seq)

    def _weigh(self, params) -> Weigh:
        return sunk(params["sink"]) if self.sink_logit else softmax

    def _output(self, params, y: Array) -> Array:
        """y [..., N, G, K] -> [..., D]."""
        return linear(y, params["out"], c=3)

    def _attend(self, params, q, k, v, at: Tokens, to: Tokens, q_position, k_position) -> Array:
        n, g, dim = self.sizes
        bias = self.position.bias(q_position, k_position, n * g)
        if bias is not None:
            bias = bias.reshape(-1, n, g, *bias.shape[-2:])
        y = attention(
            q, k, v, at, to, causal=self.causal, cap=self.cap, bias=bias, weigh=self._weigh(params), **self._sight(),
            scale=dim**-0.5 if self.scale is None else self.scale,
        )  # fmt: skip
        return self._output(params, y)

    def _new(self, params, x: Array, position: Array) -> Tree:
        """What is kept of tokens x [..., D]."""
        k = self.position.rotate(linear(x, params["k"]), position)
        return dict(k=k, v=linear(x, params["v"]), position=position)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        """x [B, T, D]. Without slots (training) the plain path; with them, old slots and new tokens together."""
        q, new = self._queries(params, x, seq.position), self._new(params, x, seq.position)
        if not self.causal or not state["k"].shape[1]:
            at = self._own(seq)
            return self._attend(params, q, new["k"], new["v"], at, at, seq.position, seq.position), state, Aux()
        view = _slots.extend(state, new, seq, self.layout)
        k, v, k_position = (view.seen[name] for name in ("k", "v", "position"))
        y = self._attend(params, q, k, v, view.at, view.to, seq.position, k_position)
        return spoil(y, self._overflows(view.place, state["k"].shape[1]) & seq.mask), view.kept, Aux()

    def _overflows(self, place: Array, slots: int) -> Array:
        """Where a token needs keys that no slot can hold: never for a window that fits."""
        return (place >= slots) & (self.slots(float("inf")) > slots)

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        """x [B, D]: write the key and the value into their slot, then look at the slots."""
        if not self.causal:
            raise ValueError("attention with causal=False has no step")
        view = _slots.write(state, self._new(params, x, seq.position), seq, self.layout)
        q = self._queries(params, x, seq.position)[:, None]
        k, v, k_position = (view.seen[name] for name in ("k", "v", "position"))
        y = self._attend(params, q, k.astype(x.dtype), v.astype(x.dtype), view.at, view.to, seq.position[:, None],
                         k_position)[:, 0]  # fmt: skip
        return spoil(y, self._overflows(view.place, state["k"].shape[1]) & seq.mask), view.kept, Aux()
