"""Attention to fixed sets of places: one's own block, every so many tokens back, the last columns of every block."""

import dataclasses

import jax
import jax.numpy as jnp

from ...contracts import Aux, Cost, Seq, spoil
from ...kernels.attention import EMPTY, PAD, Tokens, Weigh, any_seen
from . import _slots
from .attention import Attention

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class Block(Attention):
    """Sees the tokens before it in its own block of `window`."""

    def _sight(self) -> Tree:
        size = self.window or 1
        return dict(window=size, pattern=lambda q_place, k_place: q_place // size == k_place // size)

    def _own(self, seq: Seq) -> Tokens:
        return _slots.placed(seq)


@dataclasses.dataclass(frozen=True)
class Strided(Attention):
    """Sees itself and every token a multiple of `stride` before it, among keys sorted by place modulo stride."""

    stride: int = 128

    def slots(self, length: float) -> float:
        return -(-length // self.stride) * self.stride

    def cost(self, tokens: int, context: float) -> Cost:
        whole = super().cost(tokens, context)
        return whole._replace(flops=whole.flops / self.stride)

    def _sight(self) -> Tree:
        return dict(pattern=lambda q_place, k_place: (q_place - k_place) % self.stride == 0)

    def _overflows(self, place: Array, slots: int) -> Array:
        return place >= slots

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        if state["k"].shape[1]:
            return super().scan(params, x, state, seq)
        (b, t), l = x.shape[:2], self.stride
        n = -(-t // l)

        def sort(a, fill=0):  # [B, T, ...] -> [B stride, T / stride, ...]
            a = jnp.pad(a, ((0, 0), (0, n * l - t)) + ((0, 0),) * (a.ndim - 2), constant_values=fill)
            return jnp.moveaxis(a.reshape(b, n, l, *a.shape[2:]), 2, 1).reshape(b * l, n, *a.shape[2:])

        at, position = self._own(seq), sort(seq.position)
        at = Tokens(sort(at.doc, PAD), sort(at.place))
        q, new = self._queries(params, x, seq.position), self._new(params, x, seq.position)
        y = self._attend(params, sort(q), sort(new["k"]), sort(new["v"]), at, at, position, position)
        y = jnp.moveaxis(y.reshape(b, l, n, -1), 1, 2).reshape(b, n * l, -1)[:, :t]
        return y, state, Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        slots = state["k"].shape[1]
        view = _slots.write(state, self._new(params, x, seq.position), seq, self.layout)
        residue = view.at.place[:, 0] % self.stride

        def same(a):  # [B, slots, ...] -> [B, slots / stride, ...]
            a = a.reshape(a.shape[0], slots // self.stride, self.stride, *a.shape[2:])
            return jax.vmap(lambda rows, i: rows[:, i])(a, residue)

        k, v, k_position = (same(view.seen[name]) for name in ("k", "v", "position"))
        q, position = self._queries(params, x, seq.position)[:, None], seq.position[:, None]
        to = Tokens(*map(same, view.to))
        y = self._attend(params, q, k.astype(x.dtype), v.astype(x.dtype), view.at, to, position, k_position)[:, 0]
        return spoil(y, self._overflows(view.place, slots) & seq.mask), view.kept, Aux()


@dataclasses.dataclass(frozen=True)
class _Last:
    """Slots for the last `columns` tokens of every block of `stride`, in order."""

    stride: int
    columns: int

    def slot(self, place: Array, slots: int) -> Array:
        column = place % self.stride - (self.stride - self.columns)
        return jnp.where(column >= 0, place // self.stride * self.columns + column, slots)

    def place(self, slots: int, count: Array) -> Array:
        slot = jnp.arange(slots)[None]
        place = slot // self.columns * self.stride + self.stride - self.columns + slot % self.columns
        return jnp.where(place < count[:, None], place, -1)


@dataclasses.dataclass(frozen=True)
class Columns(Attention):
    """Sees the last `columns` tokens of every block of `stride` up to itself; nothing before there is one."""

    stride: int = 128
    columns: int = 8

    @property
    def layout(self) -> _Last:
        return _Last(self.stride, self.columns)

    def slots(self, length: float) -> float:
        whole, rest = length // self.stride * self.columns, length % self.stride - (self.stride - self.columns)
        return max(whole + max(rest, 0), 1) if length else 0

    def _sight(self) -> Tree:
        return dict(pattern=lambda q_place, k_place: k_place % self.stride >= self.stride - self.columns)

    def _weigh(self, params) -> Weigh:
        return any_seen

    def _overflows(self, place: Array, slots: int) -> Array:
        whole, rest = (
            (place + 1) // self.stride * self.columns,
            (place + 1) % self.stride - (self.stride - self.columns),
        )
        return whole + jnp.maximum(rest, 0) > slots

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        if state["k"].shape[1]:
            return super().scan(params, x, state, seq)
        b, t = x.shape[:2]
        at = _slots.placed(seq)
        q, new = self._queries(params, x, seq.position), self._new(params, x, seq.position)
        # Whatever the documents, a row has no more such tokens than one document of all of it.
        size = int(self.slots(t))
        column = seq.mask & (at.place % self.stride >= self.stride - self.columns)
        slot = jnp.where(column, jnp.cumsum(column, 1) - 1, size)
        row = jnp.arange(b)[:, None]
        tokens = jnp.full((b, size), t).at[row, slot].set(jnp.arange(t)[None], mode="drop")
        take = lambda a, fill=0: a.at[row, tokens].get(mode="fill", fill_value=fill)
        to, k_position = Tokens(take(at.doc, EMPTY), take(at.place)), take(seq.position)
        y = self._attend(params, q, take(new["k"]), take(new["v"]), at, to, seq.position, k_position)
        return y, state, Aux()
