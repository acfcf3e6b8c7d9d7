"""attention: softmax attention; multi-head, grouped or multi-query, causal or not, with a window if asked.

    y_t = sum_s softmax_s(cap tanh(scale q_t.k_s / cap) + bias) v_s,  s of the same document, s <= t, t - s < window

source: Vaswani et al. 2017, arXiv 1706.03762; Shazeer 2019, arXiv 1911.02150; Ainslie et al. 2023, arXiv 2305.13245;
        window: Beltagy et al. 2020, arXiv 2004.05150; logit cap: Gemma 2, arXiv 2408.00118
train: 4 T S heads K a sequence beside the projections
decode: 4 S heads K a token; cache 2 S kv_heads K, S = min(window, capacity)
departs: none
catalogue: multi_query_attention
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Position, Seq, index, spoil
from ...kernels.attention import EMPTY, PAD, Tokens, attention
from ...kernels.linear import linear
from ..positions import Rope

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class Attention:
    """width D. heads: query heads, width / head_dim unless given. kv_heads: key heads, heads unless given; 1 is
    multi-query. head_dim K: width / heads unless given; with neither, one head per 64 of width. window: tokens seen,
    itself included (with causal=False on either side). cap: bound on the logits. scale: of the logits, K^-1/2 unless
    given.
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

    def __post_init__(self):
        n, g, k = self.sizes
        if self.kv_heads is not None and (self.kv_heads < 1 or n * g != self.query_heads):
            raise ValueError(f"attention: kv_heads={self.kv_heads} does not divide heads={self.query_heads}")
        if self.head_dim is None and self.width % self.query_heads:
            raise ValueError(f"attention: heads={self.query_heads} does not divide width={self.width}; give head_dim")
        for name in ("window", "cap"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"attention: {name} must be positive, not {value}")

    @property
    def query_heads(self) -> int:
        return self.heads or max(1, self.width // (self.head_dim or 64))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(key heads N, queries a key head G, head width K)."""
        n = self.kv_heads or self.query_heads
        return n, self.query_heads // n, self.head_dim or self.width // self.query_heads

    def decl(self) -> Tree:
        n, g, k = self.sizes
        stream, kv = dict(embed=self.width), dict(kv_heads=n, head_dim=k)
        grouped = dict(kv_heads=n, group=g, head_dim=k)
        return dict(
            q=param.matrix(stream, grouped), k=param.matrix(stream, kv), v=param.matrix(stream, kv),
            out=param.matrix(grouped, stream),
        )  # fmt: skip

    def cost(self, tokens: int, context: float) -> Cost:
        n, g, k = self.sizes
        seen = context if self.window is None else min(context, self.window)
        return Cost(flops=4 * tokens * seen * n * g * k, state_bytes=int(8 * seen * n * k))

    def slots(self, length: int) -> int:
        return length if self.window is None else min(self.window, length)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        if not self.causal:
            return {}
        n, _, k = self.sizes
        kv = param.cache(dict(batch=batch), dict(slot=self.slots(length), kv_heads=n, head_dim=k))
        slots = param.count(dict(batch=batch), dict(slot=self.slots(length)))
        return dict(k=kv, v=kv, position=slots, count=param.count(dict(batch=batch)))

    def _queries(self, params, x: Array, position: Array) -> Array:
        q = linear(x, params["q"])
        flat = q.reshape(*q.shape[:-3], -1, q.shape[-1])
        return self.position.rotate(flat, position).reshape(q.shape)

    def _attend(self, params, q, k, v, at: Tokens, to: Tokens, q_position, k_position) -> Array:
        n, g, dim = self.sizes
        bias = self.position.bias(q_position, k_position, n * g)
        if bias is not None:
            bias = bias.reshape(-1, n, g, *bias.shape[-2:])
        y = attention(
            q, k, v, at, to, causal=self.causal, window=self.window, cap=self.cap, bias=bias,
            scale=dim**-0.5 if self.scale is None else self.scale,
        )  # fmt: skip
        return linear(y, params["out"], c=3)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        """x [B, T, D]. Without slots (training) the plain path; with them, old slots and new tokens together."""
        doc = jnp.where(seq.mask, seq.doc, PAD)
        q = self._queries(params, x, seq.position)
        k, v = self.position.rotate(linear(x, params["k"]), seq.position), linear(x, params["v"])
        if not self.causal or not state["k"].shape[1]:  # within a call, neighbours in time are neighbours in place
            new = Tokens(doc, jnp.broadcast_to(jnp.arange(x.shape[1])[None], doc.shape))
            return self._attend(params, q, k, v, new, new, seq.position, seq.position), state, Aux()
        slots = state["k"].shape[1]
        place, count = index(state["count"], seq)
        new, old = Tokens(doc, place), slot_tokens(state["count"], slots)
        join = lambda a, b: jnp.concatenate([a.astype(b.dtype), b], 1)
        to = Tokens(*map(join, old, new))
        k_position = join(state["position"], seq.position)
        y = self._attend(params, q, join(state["k"], k), join(state["v"], v), new, to, seq.position, k_position)
        kept = keep_last(state, dict(k=k, v=v, position=seq.position), new, count)
        return spoil(y, self._overflows(place, slots) & seq.mask), kept | dict(count=count), Aux()

    def _overflows(self, place: Array, slots: int) -> Array:
        """Where a token needs keys that no slot can hold: never for a window that fits."""
        return (place >= slots) & (self.window is None or self.window > slots)

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        """x [B, D]: write the key and the value into their slot, then look at the slots."""
        if not self.causal:
            raise ValueError("attention with causal=False has no step")
        slots = state["k"].shape[1]
        place, count = index(state["count"], seq)
        k, v = self.position.rotate(linear(x, params["k"]), seq.position), linear(x, params["v"])
        row, slot = jnp.arange(x.shape[0]), jnp.where(seq.mask, place % slots, slots)
        write = lambda held, value: held.at[row, slot].set(value.astype(held.dtype), mode="drop")
        kept = dict(k=write(state["k"], k), v=write(state["v"], v), position=write(state["position"], seq.position))
        to = slot_tokens(count, slots)
        # A masked token, and one beyond the slots, must see something: the value is junk or NaN either way.
        to = to._replace(doc=jnp.where(seq.mask[:, None], to.doc, 0), place=jnp.where(seq.mask[:, None], to.place, 0))
        at = Tokens(jnp.zeros_like(place)[:, None], jnp.where(seq.mask, place, 0)[:, None])
        q = self._queries(params, x, seq.position)[:, None]
        k, v = kept["k"].astype(x.dtype), kept["v"].astype(x.dtype)
        y = self._attend(params, q, k, v, at, to, seq.position[:, None], kept["position"])[:, 0]
        return spoil(y, self._overflows(place, slots) & seq.mask), kept | dict(count=count), Aux()


def slot_tokens(count: Array, slots: int) -> Tokens:
    """What the slots hold after `count` [B] tokens of the open document: place p is in slot p mod slots."""
    last = count[:, None] - 1
    place = last - (last - jnp.arange(slots)[None]) % max(slots, 1)
    return Tokens(jnp.where(place >= 0, 0, EMPTY), place)


def keep_last(state: Tree, new: Tree, tokens: Tokens, count: Array) -> Tree:
    """Writes the last tokens of the open document into their slots. new: name -> [B, T, ...]; older ones fall out."""
    slots = state["k"].shape[1]
    open_ = tokens.doc == jnp.max(tokens.doc, 1, keepdims=True)
    wanted = open_ & (tokens.doc >= 0) & (tokens.place >= count[:, None] - slots)
    slot = jnp.where(wanted, tokens.place % slots, slots)
    row = jnp.arange(slot.shape[0])[:, None]
    return {
        name: state[name].at[row, slot].set(value.astype(state[name].dtype), mode="drop") for name, value in new.items()
    }
