"""The parts of native sparse attention: compressed blocks, which blocks are chosen, attention to those alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ...contracts import along
from ...kernels.attention import EMPTY, Tokens, attention
from ...kernels.attention.weigh import HIDDEN, any_seen
from ...kernels.linear import linear

Array = jax.Array
QUERIES = 128  # that gather their blocks at once


@dataclasses.dataclass(frozen=True)
class Sizes:
    """block l: tokens of a compressed block, one every stride d. select: tokens of a block to choose, top of them."""

    block: int
    stride: int
    select: int
    top: int

    def blocks(self, tokens: int) -> int:
        """Whole compressed blocks of so many tokens of a document."""
        return max(0, (tokens - self.block) // self.stride + 1)


def compress(params, name: str, rows: Array) -> Array:
    """rows [..., l, N, K] of one block -> [..., N, K], by an MLP over tokens and channels of a head."""
    rows = jnp.moveaxis(rows + along(params[f"{name}_place"][:, None], rows).astype(rows.dtype), -2, -3)
    return linear(jax.nn.gelu(linear(rows, params[f"{name}_up"], c=2)), params[f"{name}_down"])


def look(q: Array, k: Array, v: Array, at: Tokens, to: Tokens, scale: float) -> tuple[Array, Array]:
    """Attention to compressed blocks, whose place is that of their last token, zero where none is whole yet.

    q [B, T, N, G, K], k, v [B, C, N, K] -> [B, T, N, G, K] and the probabilities of a group together [B, N, T, C].
    """
    logits = jnp.einsum("btngk,bsnk->bngts", q * jnp.asarray(scale, q.dtype), k, preferred_element_type=jnp.float32)
    seen = (at.doc[:, :, None] == to.doc[:, None]) & (at.place[:, :, None] >= to.place[:, None])
    weights, total = any_seen(logits, seen[:, None, None])
    p = weights / total[..., None]
    y = jnp.einsum("bngts,bsnk->btngk", p.astype(v.dtype), v)
    return y, jnp.sum(p, 2)


def packed(blocks: dict[str, Array], to: Tokens) -> tuple[dict[str, Array], Tokens]:
    """Blocks [B, C, ...] with the empty slots last: those of a document are then neighbours, in order."""
    order = jnp.argsort(to.doc < 0, axis=1, stable=True)
    take = lambda a: jax.vmap(lambda rows, i: rows[i])(a, order)
    return jax.tree.map(take, blocks), Tokens(*map(take, to))


def importance(p: Array, at: Tokens, to: Tokens, blocks: int, sizes: Sizes) -> Array:
    """Probabilities summed over the strides that compressed blocks share with blocks to choose: [B, N, T, blocks].

    p [B, N, T, C], of packed blocks: a block to choose meets few of them, neighbours, and those of other documents have
    probability 0.
    """
    p = jax.lax.stop_gradient(p)
    over, inside = sizes.block // sizes.stride, sizes.select // sizes.stride
    shared = np.convolve(np.ones(over), np.ones(inside))
    before = jnp.sum((to.doc >= 0)[:, None] & (to.doc[:, None] < at.doc[..., None]), -1)  # of earlier documents
    first = before[:, None, :, None] + inside * jnp.arange(blocks)[None, None, None] - (over - 1)
    fetch = lambda slot: jnp.take_along_axis(p, jnp.where(slot < 0, p.shape[-1], slot), -1, mode="fill", fill_value=0.0)
    terms = [float(strides) * fetch(first + i) for i, strides in enumerate(shared)]
    return sum(terms[1:], terms[0])


def choose(p: Array, at: Tokens, to: Tokens, blocks: int, sizes: Sizes) -> tuple[Array, Array]:
    """The blocks that a group of heads looks at: its own, the one before, the first, and then the most important.

    p [B, N, T, C] of packed blocks -> their numbers in the document, int32 [B, N, T, top], and which count.
    """
    score = importance(p, at, to, blocks, sizes)
    own, number = (at.place // sizes.select)[:, None, :, None], jnp.arange(blocks)[None, None, None]
    for forced, value in ((number == 0, 1e6), (number == own - 1, 2e6), (number == own, 3e6), (number > own, -1.0)):
        score = jnp.where(forced, value, score)
    value, chosen = jax.lax.top_k(score, min(sizes.top, blocks))
    return chosen, value >= 0


def masked(q: Array, k: Array, v: Array, at: Tokens, to: Tokens, chosen: Array, counts: Array, blocks: int,
           scale: float, sizes: Sizes) -> Array:  # fmt: skip
    """Attention to the tokens of chosen blocks by a mask over all of them: right for any keys, quick for few."""
    number = jnp.arange(blocks)[None, None, None]
    allowed = jnp.any((chosen[..., None] == number[..., None, :]) & counts[..., None], -2)  # [B, N, T, blocks]
    key = jnp.clip(to.place // sizes.select, 0, blocks - 1)
    allowed = jnp.take_along_axis(allowed, key[:, None, None], -1)
    # A masked token sees itself whatever its block is.
    allowed = allowed | (at.doc < 0)[:, None, :, None]
    return attention(q, k, v, at, to, scale=scale, bias=jnp.where(allowed, 0.0, HIDDEN)[:, :, None])


def pick(q: Array, k: Array, v: Array, seen: Array, scale: float) -> Array:
    """Attention of every query to keys of its own. q [B, T, N, G, K], k, v [B, T, N, S, K], seen [B, T, N, S]."""
    logits = jnp.einsum("btngk,btnsk->btngs", q * jnp.asarray(scale, q.dtype), k, preferred_element_type=jnp.float32)
    weights, total = any_seen(logits, seen[..., None, :])
    y = jnp.einsum("btngs,btnsk->btngk", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (y / total[..., None]).astype(v.dtype)


def gathered(q: Array, k: Array, v: Array, at: Tokens, chosen: Array, counts: Array, scale: float,
             sizes: Sizes) -> Array:  # fmt: skip
    """The same for keys of the queries' own tokens in order: each query fetches its blocks, QUERIES of them at once."""
    b, t = q.shape[:2]
    n = -(-t // QUERIES)
    first = jnp.arange(t)[None] - at.place  # row of the document's first token
    kept = (jnp.moveaxis(chosen, 1, 2), jnp.moveaxis(counts, 1, 2))

    def cut(a):  # [B, T, ...] -> [n, B, QUERIES, ...]; repeats of the last query are dropped
        a = jnp.concatenate([a, jnp.repeat(a[:, -1:], n * QUERIES - t, 1)], 1)
        return jnp.moveaxis(a.reshape(b, n, QUERIES, *a.shape[2:]), 1, 0)

    @jax.checkpoint
    def one(block):
        q, place, first, (chosen, counts) = block
        inside = chosen[..., None] * sizes.select + jnp.arange(sizes.select).reshape(1, 1, 1, 1, -1)
        seen = (counts[..., None] & (inside <= place[:, :, None, None, None])).reshape(*chosen.shape[:3], -1)
        row = (inside + first[:, :, None, None, None]).reshape(*chosen.shape[:3], -1)
        row = jnp.clip(row, 0, t - 1)
        fetch = jax.vmap(jax.vmap(lambda rows, i: rows[i], (1, 1), 1))  # over batch and heads
        return pick(q, fetch(k, row), fetch(v, row), seen, scale)

    y = jax.lax.map(one, (cut(q), cut(at.place), cut(first), jax.tree.map(cut, kept)))
    return jnp.moveaxis(y, 0, 1).reshape(b, n * QUERIES, *y.shape[3:])[:, :t]


def ends(at: Tokens, sizes: Sizes) -> tuple[Array, Tokens]:
    """Tokens that complete a compressed block: their rows [B, C] (T where there is none), and documents and places."""
    b, t = at.doc.shape
    complete = (at.doc >= 0) & (at.place + 1 >= sizes.block) & ((at.place + 1 - sizes.block) % sizes.stride == 0)
    size = t // sizes.stride + 1
    slot = jnp.where(complete, jnp.cumsum(complete, 1) - 1, size)
    row = jnp.full((b, size), t).at[jnp.arange(b)[:, None], slot].set(jnp.arange(t)[None], mode="drop")
    take = lambda a, fill: jax.vmap(lambda a, i: a.at[i].get(mode="fill", fill_value=fill))(a, row)
    return row, Tokens(take(at.doc, EMPTY), take(at.place, 0))
