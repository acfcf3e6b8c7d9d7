"""native_sparse_attention: compressed blocks, a few chosen blocks in full and a window, joined by gates.

    y_t = W_o concat_h sum_c g_t,h^c softmax(q_t,h.k^c / sqrt(K)) v^c,  g = sigmoid(W_g x_t),  c one of
    compressed:  k_i = mlp(k_{i d}, .., k_{i d + l - 1}) with a vector a place, of blocks that end at or before t
    chosen:      keys of the top blocks of l' by I_j = sum over a group's heads and i of p_t,i |strides in i and j|
    window:      the last w tokens; each branch has keys and values of its own

source: Yuan et al. 2025, arXiv 2502.11089; compared with fla-org/native-sparse-attention
train: 4 T (T/d + top l' + 2 w) heads K a sequence beside the projections, with T in place of top l' where
       T <= 2 top l' and in place of 2 w where T < 4 w, and the choice, (l + l')/d products a block of l', token and key
       head
decode: 4 (S/d + top l' + w) heads K and the mlp, 4 (l + 1) kv_heads K hidden, a token;
        cache 2 (S + S/d + w + l) kv_heads K
departs: the importance counts overlap, index j l'/d + m - n, where the paper prints - m - n; a group's own block, the
         one before and the first are always chosen, in that order if top is less than 3; queries and keys of the
         compressed branch have no position scheme; the gate is one matrix, and the compressing mlp, of whose widths the
         paper says nothing, serves all key heads
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Position, Seq, spoil, tail
from ...kernels.attention import EMPTY, Tokens, attention
from ...kernels.linear import linear
from ..options import check, without_bias
from ..positions import Rope
from . import _nsa, _slots
from .attention import Attention

Array = jax.Array
Tree = dict
BRANCHES = ("compressed", "chosen", "window")


@dataclasses.dataclass(frozen=True)
class NativeSparseAttention:
    """width D. heads, kv_heads, head_dim K: as in attention. block l: tokens of a compressed block. stride d: between
    their starts, divides block and select. select l': tokens of a block to choose. top: blocks chosen, the three that
    always are included. window w: tokens seen in full, itself included. hidden: width of the compressing mlp, K unless
    given.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"kv_heads": 1}
    width: int
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    block: int = 32
    stride: int = 16
    select: int = 64
    top: int = 16
    window: int = 512
    hidden: int | None = None
    scale: float | None = None
    position: Position = Rope()

    def __post_init__(self):
        check("native_sparse_attention", self, "block stride select top window hidden", "scale")
        for name in ("block", "select"):
            if getattr(self, name) % self.stride:
                said = f"stride={self.stride} does not divide {name}={getattr(self, name)}"
                raise ValueError(f"native_sparse_attention: {said}")
        self._shape  # noqa: B018  raises what attention raises
        without_bias("native_sparse_attention", self.position)

    @property
    def _shape(self) -> Attention:
        return Attention(self.width, self.heads, self.kv_heads, self.head_dim)

    @property
    def _sizes(self) -> _nsa.Sizes:
        return _nsa.Sizes(self.block, self.stride, self.select, self.top)

    def decl(self) -> Tree:
        n, g, k = self._shape.sizes
        decl, uses, hidden = self._shape.decl(), n / self.stride, dict(ff=self.hidden or k)
        gate = param.matrix(dict(embed=self.width), dict(gate=3, kv_heads=n, group=g))
        decl = dict(q=decl["q"], out=decl["out"], gate=gate)
        for name in "kv":
            rows = dict(position=self.block, head_dim=k)
            decl |= {f"{name}_{branch}": self._shape.decl()[name] for branch in BRANCHES} | {
                f"{name}_place": param.bias(**rows, init=0.02),
                f"{name}_up": param.matrix(rows, hidden, uses=uses),
                f"{name}_down": param.matrix(hidden, dict(head_dim=k), uses=uses),
            }
        return decl

    def _slots(self, length: float) -> tuple[int, int, int]:
        """Slots of the compressed, chosen and window branches for documents of `length` tokens."""
        chosen = -int(-length // self.select) * self.select
        # The window fills as many slots as the blocks do: what one branch has kept, all have.
        return max(self._sizes.blocks(chosen), 1) if chosen else 0, chosen, min(self.window, chosen)

    def cost(self, tokens: int, context: float) -> Cost:
        """What the branches need; scan multiplies more where it masks, see the header. Tokens that are no more than
        context are those of a step, one a row: it compresses a block whether or not it is whole, for rows may differ in
        that.
        """
        n, g, k = self._shape.sizes
        few, chosen, window = self._slots(context)
        fetched = min(self.top * self.select, chosen)
        flops = tokens * 4 * n * g * k * (few + fetched + window)
        if tokens <= context:
            mlp = (self.hidden or k) * (self.block * k + k)
            flops += tokens * 4 * n * mlp * (1 - 1 / self.stride)
        return Cost(flops, 8 * n * k * (self.block - 1 + few + chosen + window))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        n, _, k = self._shape.sizes
        few, chosen, window = self._slots(length)
        rows, head = dict(batch=batch), dict(kv_heads=n, head_dim=k)
        kv = lambda slots: {name: param.cache(rows, dict(slot=slots) | head) for name in "kv"}
        last = {name: param.state(rows, dict(conv=self.block - 1) | head) for name in "kv"}
        return dict(
            last=last, compressed=kv(few), chosen=kv(chosen), window=kv(window), count=param.count(rows),
        )  # fmt: skip

    @property
    def _scale(self) -> float:
        return self._shape.sizes[2] ** -0.5 if self.scale is None else self.scale

    def _queries(self, params, x: Array, position: Array) -> tuple[Array, Array]:
        """[..., N, G, K] without and with positions."""
        q = linear(x, params["q"])
        flat = q.reshape(*q.shape[:-3], -1, q.shape[-1])
        return q, self.position.rotate(flat, position).reshape(q.shape)

    def _new(self, params, x: Array, position: Array) -> dict[str, dict[str, Array]]:
        """Branch -> keys and values of tokens x [..., D]."""
        new = {b: {name: linear(x, params[f"{name}_{b}"]) for name in "kv"} for b in BRANCHES}
        for b in BRANCHES[1:]:
            new[b]["k"] = self.position.rotate(new[b]["k"], position)
        return new

    def _join(self, params, x: Array, parts: tuple[Array, Array, Array]) -> Array:
        gates = jax.nn.sigmoid(linear(x, params["gate"]).astype(jnp.float32))[..., None]
        gated = [gates[..., i, :, :, :] * part.astype(jnp.float32) for i, part in enumerate(parts)]
        y = gated[0] + gated[1] + gated[2]
        return linear(y.astype(x.dtype), params["out"], c=3)

    def _compressed(self, params, new: Tree, last: Tree, at: Tokens) -> tuple[Tree, Tokens]:
        """Blocks that a call completes: keys and values [B, C, N, K], and where their last tokens stand."""
        row, to = _nsa.ends(at, self._sizes)
        found = {}
        for name in "kv":
            all_ = jnp.concatenate([last[name].astype(new[name].dtype), new[name]], 1)
            row_ = jnp.minimum(row, new[name].shape[1] - 1)[..., None] + jnp.arange(self.block)[None, None]
            found[name] = _nsa.compress(params, name, jax.vmap(lambda a, i: a[i])(all_, row_))
        return found, to

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        plain, q = self._queries(params, x, seq.position)
        new, slots = self._new(params, x, seq.position), state["chosen"]["k"].shape[1]
        at = _slots.placed(seq)
        if not slots:
            blocks, to = self._compressed(params, new["compressed"], state["last"], at)
            return self._join(params, x, self._train(plain, q, blocks, to, new, at)), state, Aux()
        with_count = lambda b: state[b] | dict(count=state["count"])
        chosen = _slots.extend(with_count("chosen"), new["chosen"], seq, _slots.Ring())
        window = _slots.extend(with_count("window"), new["window"], seq, _slots.Ring())
        at = chosen.at
        blocks, to = self._compressed(params, new["compressed"], state["last"], at)
        few = state["compressed"]["k"].shape[1]
        old = self._whole_blocks(few, state["count"])
        kept = self._keep_blocks(state["compressed"], blocks, to, at, chosen.kept["count"])
        join = lambda a, b: jnp.concatenate([a.astype(b.dtype), b], 1)
        blocks = {name: join(state["compressed"][name], blocks[name]) for name in "kv"}
        blocks, to = _nsa.packed(blocks, Tokens(*map(join, old, to)))
        y, p = _nsa.look(plain, blocks["k"], blocks["v"], at, to, self._scale)
        size = -(-(slots + x.shape[1]) // self.select)
        picked, counts = _nsa.choose(p, at, to, size, self._sizes)
        k, v = chosen.seen["k"], chosen.seen["v"]
        y_chosen = _nsa.masked(q, k, v, at, chosen.to, picked, counts, size, self._scale, self._sizes)
        k, v = window.seen["k"], window.seen["v"]
        y_window = attention(q, k, v, window.at, window.to, window=self.window, scale=self._scale)
        last = {name: tail(state["last"][name], new["compressed"][name].astype(jnp.float32), seq) for name in "kv"}
        count = dict(count=chosen.kept["count"])
        held = {b: {name: view.kept[name] for name in "kv"} for b, view in (("chosen", chosen), ("window", window))}
        y = spoil(self._join(params, x, (y, y_chosen, y_window)), (chosen.place >= slots) & seq.mask)
        return y, held | count | dict(compressed=kept, last=last), Aux()

    def _train(self, plain, q, blocks: Tree, to: Tokens, new, at: Tokens) -> tuple[Array, Array, Array]:
        """The three branches over a call's own tokens: keys are fetched where the chosen ones are few."""
        y, p = _nsa.look(plain, blocks["k"], blocks["v"], at, to, self._scale)
        time = q.shape[1]
        size = -(-time // self.select)
        picked, counts = _nsa.choose(p, at, to, size, self._sizes)
        k, v = new["chosen"]["k"], new["chosen"]["v"]
        if 2 * self.top * self.select < time:
            y_chosen = _nsa.gathered(q, k, v, at, picked, counts, self._scale, self._sizes)
        else:
            y_chosen = _nsa.masked(q, k, v, at, at, picked, counts, size, self._scale, self._sizes)
        k, v = new["window"]["k"], new["window"]["v"]
        return y, y_chosen, attention(q, k, v, at, at, window=self.window, scale=self._scale)

    def _whole_blocks(self, few: int, count: Array) -> Tokens:
        """Where the compressed blocks in the slots stand after count [B] tokens of the open document."""
        place = jnp.arange(few)[None] * self.stride + self.block - 1
        return Tokens(jnp.where(place < count[:, None], 0, EMPTY), jnp.broadcast_to(place, (count.shape[0], few)))

    def _keep_blocks(self, old: Tree, new: Tree, to: Tokens, at: Tokens, count: Array) -> Tree:
        """Writes the blocks that the open document has completed in a call."""
        open_ = (to.doc == jnp.max(at.doc, 1, keepdims=True)) & (to.doc >= 0)
        few, row = old["k"].shape[1], jnp.arange(count.shape[0])[:, None]
        slot = jnp.where(open_, (to.place + 1 - self.block) // self.stride, few)
        return {n: old[n].at[row, slot].set(new[n].astype(old[n].dtype), mode="drop") for n in "kv"}

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        plain, q = (a[:, None] for a in self._queries(params, x, seq.position))
        new, slots = self._new(params, x, seq.position), state["chosen"]["k"].shape[1]
        with_count = lambda b: state[b] | dict(count=state["count"])
        chosen = _slots.write(with_count("chosen"), new["chosen"], seq, _slots.Ring())
        window = _slots.write(with_count("window"), new["window"], seq, _slots.Ring())
        place, at = chosen.place, chosen.at
        few, row = state["compressed"]["k"].shape[1], jnp.arange(place.shape[0])
        whole = seq.mask & (place + 1 >= self.block) & ((place + 1 - self.block) % self.stride == 0)
        slot = jnp.where(whole, (place + 1 - self.block) // self.stride, few)
        kept, last = {}, {}
        for n in "kv":
            rows = jnp.concatenate([state["last"][n], new["compressed"][n][:, None].astype(jnp.float32)], 1)
            block = _nsa.compress(params, n, rows.astype(x.dtype))
            kept[n] = state["compressed"][n].at[row, slot].set(block.astype(state["compressed"][n].dtype), mode="drop")
            last[n] = jnp.where(seq.mask[:, None, None, None], rows[:, 1:], state["last"][n])
        to = self._whole_blocks(few, chosen.kept["count"])
        k, v = (kept[n].astype(x.dtype) for n in "kv")
        y, p = _nsa.look(plain, k, v, at, to, self._scale)
        picked, counts = _nsa.choose(p, at, to, slots // self.select, self._sizes)
        y_chosen = self._fetch(q, chosen.seen, picked[:, :, 0], counts[:, :, 0], at.place[:, 0])
        k, v = (window.seen[n].astype(x.dtype) for n in "kv")
        y_window = attention(q, k, v, window.at, window.to, window=self.window, scale=self._scale)
        y = self._join(params, x, (y[:, 0], y_chosen[:, 0], y_window[:, 0]))
        held = {b: {n: view.kept[n] for n in "kv"} for b, view in (("chosen", chosen), ("window", window))}
        new_state = held | dict(compressed=kept, last=last, count=chosen.kept["count"])
        return spoil(y, (place >= slots) & seq.mask), new_state, Aux()

    def _fetch(self, q: Array, seen: Tree, picked: Array, counts: Array, place: Array) -> Array:
        """A step's attention to chosen blocks [B, N, top] of the slots."""
        blocks = lambda a: a.reshape(a.shape[0], -1, self.select, *a.shape[2:])
        fetch = jax.vmap(jax.vmap(lambda a, i: a[i], (2, 0)))  # over batch and heads
        k, v = (fetch(blocks(seen[n]), picked).astype(q.dtype) for n in "kv")  # [B, N, top, select, K]
        inside = picked[..., None] * self.select + jnp.arange(self.select)[None, None, None]
        visible = counts[..., None] & (inside <= place[:, None, None, None])
        flat = lambda a: a.reshape(*a.shape[:2], -1, *a.shape[4:])[:, None]
        return _nsa.pick(q, flat(k), flat(v), flat(visible), self._scale)
