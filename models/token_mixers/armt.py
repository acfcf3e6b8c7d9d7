"""armt: attention within segments, and between them an associative memory that is written by the delta rule.

    r_t = A^T phi(W_r x_t) / z.phi(W_r x_t);  y_t = r_t + W_o attention of x_t + r_t over the segment up to t
    after a segment, with m_i = W_o attention of a learned q_i over all of it, p_i = phi(W_k' m_i):
    A += sum_i sigmoid(w_b m_i) p_i (W_v' m_i - A^T p_i / z.p_i)^T,  z += sum_i clip(1 - z.p_i / |p_i|^2, 0, 1) p_i
    phi(x) = unit of [u roll(u, 1), .., u roll(u, 3)],  u = relu([x, -x])

source: Rodkin et al. 2024, arXiv 2407.04841; code RodkinIvan/associative-recurrent-memory-transformer; phi (DPFP):
        Schlag et al. 2021, arXiv 2102.11174
train: 4 T S heads K and 2 T P D, S tokens a segment and P = 6 key; 4 M (S heads K + P D) a segment of M memory tokens;
       segments one after the other
decode: the same a token; state P (D + 1) float32 and a cache of 2 S heads K
departs: memory tokens live in one layer, where they are learned queries, and are not tokens of the stream that pass
         through all layers; a divisor is at least `floor`, or what is hardly stored would be recalled as loudly
         as what is, and rounded as coarsely
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Position, Seq, hold, index, spoil
from ...kernels.attention import EMPTY, PAD, Tokens, attention
from ...kernels.linear import linear
from ..options import check, without_bias
from ..positions import Rope
from ._parts import unit

Array = jax.Array
Tree = dict
ROLLS = 3  # nu of DPFP


def dpfp(x: Array) -> Array:
    """phi of x [..., K]: [..., 2 ROLLS K], not negative and of length 1."""
    r = jax.nn.relu(jnp.concatenate([x, -x], -1))
    return unit(jnp.concatenate([r * jnp.roll(r, n, -1) for n in range(1, ROLLS + 1)], -1), 1e-12)


def recall(a: Array, z: Array, phi: Array, floor: float) -> Array:
    """What a memory a [B, P, V], z [B, P] holds for phi [B, N, P]: [B, N, V]; zeros where nothing was written."""
    return jnp.einsum("bpv,bnp->bnv", a, phi) / jnp.maximum(jnp.einsum("bp,bnp->bn", z, phi), floor)[..., None]


def store(a: Array, z: Array, phi: Array, v: Array, beta: Array, floor: float) -> tuple[Array, Array]:
    """The memory after values v [B, N, V] were stored under phi [B, N, P] with strengths beta [B, N], side by side."""
    moved = beta[..., None] * (v - recall(a, z, phi, floor))
    held = jnp.einsum("bp,bnp->bn", z, phi) / jnp.maximum(jnp.sum(phi * phi, -1), 1e-12)
    gamma = jax.lax.stop_gradient(jnp.clip(1 - held, 0, 1))
    return a + jnp.einsum("bnp,bnv->bpv", phi, moved), z + jnp.sum(gamma[..., None] * phi, 1)


class Row(NamedTuple):
    """Some tokens side by side; everything [B, C, ...] but what says otherwise."""

    x: Array
    mask: Array
    doc: Array
    segment: Array  # numbered in the call; 0 is the one that was open
    place: Array  # in the segment
    position: Array
    doc_before: Array  # [B]: of the token before
    segment_before: Array  # [B]
    filled: Array  # [B]: tokens of that segment before these


class Memory(NamedTuple):
    """What goes from token to token: keys and values of the open segment by place [B, S, H, K], and the memory."""

    k: Array
    v: Array
    a: Array
    z: Array


@dataclasses.dataclass(frozen=True)
class Armt:
    """width D. heads: D / 64 unless given. segment S: tokens. memories M: memory tokens a segment. key K: width of the
    memory's keys before phi. position: how queries and keys turn, without a bias; memory queries stand
    where their segment ends. floor: least share of what is recalled that must be stored for it to be recalled in full.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"heads": 1}
    width: int
    heads: int | None = None
    segment: int = 128
    memories: int = 8
    key: int = 16
    floor: float = 0.1
    position: Position = Rope()

    def __post_init__(self):
        check("armt", self, "width heads segment memories key", "floor")
        h, _ = self.sizes
        if self.width % h:
            raise ValueError(f"armt: heads={h} does not divide width={self.width}")
        without_bias("armt", self.position)

    @property
    def sizes(self) -> tuple[int, int]:
        """(heads H, head width)."""
        h = max(1, self.width // 64) if self.heads is None else self.heads
        return h, self.width // max(h, 1)

    @property
    def features(self) -> int:
        """P, of phi."""
        return 2 * ROLLS * self.key

    def decl(self) -> Tree:
        (h, k), d = self.sizes, self.width
        stream, heads = dict(embed=d), dict(heads=h, head_dim=k)
        once = lambda **made: param.matrix(stream, made, uses=0)  # a segment, and not a token
        return dict(
            q=param.matrix(stream, heads), k=param.matrix(stream, heads), v=param.matrix(stream, heads),
            out=param.matrix(heads, stream), read=param.matrix(stream, dict(key=self.key)),
            queries=param.table(slot=self.memories, **heads), write_k=once(key=self.key), write_v=once(value=d),
            write_b=once(gate=1),
        )  # fmt: skip

    def cost(self, tokens: int, context: float) -> Cost:
        (h, k), d, p, m = self.sizes, self.width, self.features, self.memories
        seen = min(self.segment, context)
        token = 4 * seen * h * k + 2 * p * (d + 1)
        write = m * (4 * seen * h * k + 2 * h * k * d + 2 * d * (self.key + d + 1) + 4 * p * d + 4 * p)
        segments = -(-tokens // self.segment)  # at most
        return Cost(flops=tokens * token + segments * write, state_bytes=int(4 * (p * (d + 1) + 2 * seen * h * k)))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        (h, k), rows = self.sizes, dict(batch=batch)
        kv = param.cache(rows, dict(slot=min(self.segment, length), heads=h, head_dim=k))
        return dict(
            k=kv, v=kv, a=param.state(rows, dict(key=self.features, value=self.width)),
            z=param.state(rows, dict(key=self.features)), count=param.count(rows),
        )  # fmt: skip

    def _recalled(self, params, memory: tuple[Array, Array], x: Array, where: Array) -> Array:
        """What x [B, N, D] recalls, where [B, N] says so."""
        phi = dpfp(linear(x, params["read"]).astype(jnp.float32))
        return jnp.where(where[..., None], recall(*memory, phi, self.floor), 0).astype(x.dtype)

    def _keys(self, params, x: Array, position: Array) -> tuple[Array, Array]:
        return self.position.rotate(linear(x, params["k"]), position), linear(x, params["v"])

    def _attend(self, params, x: Array, position: Array, kv: tuple[Array, Array], at: Tokens, to: Tokens) -> Array:
        """x [B, N, D] over keys and values [B, S, H, K] -> [B, N, D]."""
        k, v = (a.astype(x.dtype) for a in kv)
        q = self.position.rotate(linear(x, params["q"]), position)
        y = attention(q[:, :, :, None], k, v, at, to, scale=self.sizes[1] ** -0.5)
        return linear(y[:, :, :, 0], params["out"], c=2)

    def _written(self, params, old: Memory, position: Array, dtype) -> tuple[Array, Array]:
        """The memory after a segment whose keys and values are all there and whose last token has position [B]."""
        k, v = old.k.astype(dtype), old.v.astype(dtype)
        q = jnp.broadcast_to(params["queries"][None], (len(position), *params["queries"].shape))
        q = self.position.rotate(q, jnp.broadcast_to(position[:, None], q.shape[:2]))
        logits = jnp.einsum("bmhk,bshk->bhms", q, k, preferred_element_type=jnp.float32) * self.sizes[1] ** -0.5
        o = jnp.einsum("bhms,bshk->bmhk", jax.nn.softmax(logits, -1).astype(dtype), v)
        m = linear(o, params["out"], c=2)
        k, v, b = (linear(m, params[f"write_{n}"]).astype(jnp.float32) for n in "kvb")
        return store(old.a, old.z, dpfp(k), v, jax.nn.sigmoid(b[..., 0]), self.floor)

    def _rows(self, params, old: Memory, row: Row) -> tuple[Memory, Array]:
        """Tokens side by side, of which one at most ends a segment, since there are no more than a segment has."""
        b, c, s = *row.mask.shape, self.segment
        ends = row.mask & (row.place == s - 1)
        any_end, end = jnp.any(ends, 1), jnp.argmax(ends, 1)
        pick = lambda a: jnp.take_along_axis(a, end[:, None], 1)
        old_doc, end_doc = row.doc_before[:, None], pick(row.doc)
        # First as if no segment ended here: right up to the end of one.
        r = self._recalled(params, (old.a, old.z), row.x, row.doc == old_doc)
        k, v = self._keys(params, row.x + r, row.position)
        full = _put((old.k, old.v), (k, v), row.place, row.mask & any_end[:, None] & (row.segment == pick(row.segment)))
        zeros = jax.tree.map(jnp.zeros_like, (old.a, old.z))
        a, z = hold((end_doc == old_doc)[:, 0], (old.a, old.z), zeros)
        new = self._written(params, Memory(*full, a, z), pick(row.position)[:, 0], row.x.dtype)
        late = any_end[:, None] & (jnp.arange(c)[None] > end[:, None]) & (row.doc == end_doc)
        r = jnp.where(late[..., None], self._recalled(params, new, row.x, late), r)
        k, v = self._keys(params, row.x + r, row.position)
        at = Tokens(jnp.where(row.mask, row.segment, PAD), row.place)
        slot = jnp.arange(s)[None]
        there = jnp.where(slot < row.filled[:, None], row.segment_before[:, None], EMPTY)
        join = lambda one, two: jnp.concatenate([one.astype(two.dtype), two], 1)
        to = Tokens(join(there, at.doc), join(jnp.broadcast_to(slot, (b, s)), at.place))
        y = r + self._attend(params, row.x + r, row.position, (join(old.k, k), join(old.v, v)), at, to)
        last = row.segment[:, -1:]
        kept = _put(full, (k, v), row.place, row.mask & (row.segment == last))
        doc = row.doc[:, -1]
        memory = hold(doc == row.doc_before, (old.a, old.z), zeros)
        memory = hold(any_end & (doc == end_doc[:, 0]), new, memory)
        return Memory(*kept, *memory), y

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        (b, t), s, slots = x.shape[:2], self.segment, state["k"].shape[1]
        c = min(s, t)
        n = -(-t // c)
        place, count = index(state["count"], seq)
        segment = jnp.cumsum((seq.mask & (place % s == 0)).astype(jnp.int32), 1)
        wide = lambda a: jnp.pad(a, ((0, 0), (0, n * c - t)) + ((0, 0),) * (a.ndim - 2), mode="edge")
        cut = lambda a: jnp.moveaxis(wide(a).reshape(b, n, c, *a.shape[2:]), 1, 0)
        mask, doc, segment, within = (cut(a) for a in (seq.mask, seq.doc, segment, place % s))
        mask &= (jnp.arange(n * c) < t).reshape(n, 1, c)
        before = lambda a, first: jnp.concatenate([first[None], a[:-1, :, -1]])
        none = jnp.zeros(b, jnp.int32)
        rows = Row(
            cut(x), mask, doc, segment, within, cut(seq.position),
            before(doc, none), before(segment, none), before(within + 1, state["count"] % s),
        )  # fmt: skip
        grown = lambda a: jnp.pad(a.astype(jnp.float32), ((0, 0), (0, s - slots), (0, 0), (0, 0)))
        body = jax.checkpoint(lambda memory, row: self._rows(params, memory, row), prevent_cse=False)
        memory, y = jax.lax.scan(body, Memory(grown(state["k"]), grown(state["v"]), state["a"], state["z"]), rows)
        y = jnp.moveaxis(y, 0, 1).reshape(b, n * c, -1)[:, :t]
        kept = dict(k=memory.k[:, :slots], v=memory.v[:, :slots], a=memory.a, z=memory.z, count=count)
        over = (place >= slots) & (0 < slots < s) & seq.mask
        return spoil(y, over), kept, Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        s, slots = self.segment, state["k"].shape[1]
        first = seq.start & seq.mask
        place, count = index(state["count"], seq)
        here = jnp.where(seq.mask, place % s, 0)
        memory = hold(first, jax.tree.map(jnp.zeros_like, (state["a"], state["z"])), (state["a"], state["z"]))
        position, where = seq.position[:, None], (here[:, None], seq.mask[:, None])
        r = self._recalled(params, memory, x[:, None], seq.mask[:, None])
        seen = x[:, None] + r
        k, v = _put((state["k"], state["v"]), self._keys(params, seen, position), *where)
        slot = jnp.arange(slots)[None]
        # A masked token sees whatever is there.
        to = Tokens(jnp.where((slot <= here[:, None]) | ~seq.mask[:, None], 0, EMPTY), jnp.minimum(slot, here[:, None]))
        at = Tokens(jnp.zeros_like(position), here[:, None])
        y = (r + self._attend(params, seen, position, (k, v), at, to))[:, 0]
        ends = seq.mask & (here == s - 1)
        write = lambda: hold(ends, self._written(params, Memory(k, v, *memory), seq.position, x.dtype), memory)
        a, z = jax.lax.cond(jnp.any(ends), write, lambda: memory)
        over = (place >= slots) & (slots < s) & seq.mask
        return spoil(y, over), dict(k=k, v=v, a=a, z=z, count=count), Aux()


def _put(old: tuple[Array, Array], new: tuple[Array, Array], place: Array, where: Array) -> tuple[Array, Array]:
    """Tokens [B, C, ...] written into [B, S, ...] at their places, where [B, C] says so."""
    row, slot = jnp.arange(place.shape[0])[:, None], jnp.where(where, place, old[0].shape[1])
    put = lambda a, b: a.at[row, slot].set(b.astype(a.dtype), mode="drop")
    return put(old[0], new[0]), put(old[1], new[1])
