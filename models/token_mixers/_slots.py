"""What attention keeps of tokens between calls: slots for those that a later call may look at.

A layout says which slot a token has by its place in the document, and what the slots hold after so many tokens. The
state has any leaves [B, slots, ...] and count, tokens of the open document so far.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ...contracts import Seq, index
from ...kernels.attention import EMPTY, PAD, Tokens

Array = jax.Array
Tree = dict


class Layout(Protocol):
    def slot(self, place: Array, slots: int) -> Array:
        """The slot of a token; one that gets none has `slots` or more."""
        ...

    def place(self, slots: int, count: Array) -> Array:
        """int32 [B, slots]: the place of what each slot holds after count [B] tokens; negative where it is empty."""
        ...


@dataclasses.dataclass(frozen=True)
class Ring:
    """The newest overwrite the oldest; the first `pinned` tokens of a document have slots of their own and stay."""

    pinned: int = 0

    def slot(self, place: Array, slots: int) -> Array:
        ring = self.pinned + (place - self.pinned) % max(slots - self.pinned, 1)
        return jnp.where(place < self.pinned, place, ring) if self.pinned else ring

    def place(self, slots: int, count: Array) -> Array:
        last, slot = count[:, None] - 1, jnp.arange(slots)[None]
        place = last - (last - slot) % max(slots - self.pinned, 1)
        if not self.pinned:
            return place
        place = jnp.where(place < self.pinned, -1, place)
        return jnp.where(slot < self.pinned, jnp.where(slot > last, -1, slot), place)


class View(NamedTuple):
    """What a call looks at."""

    at: Tokens  # the call's own tokens [B, T]
    to: Tokens  # those to look at [B, S]
    seen: Tree  # what is known of those, name -> [B, S, ...]
    kept: Tree  # the state after the call
    place: Array  # of the call's own tokens in their document, [B, T] or in a step [B]


def neighbours(seq: Seq) -> Tokens:
    """The tokens of a call with nothing before: places that differ as those in the document do."""
    doc = jnp.where(seq.mask, seq.doc, PAD)
    return Tokens(doc, jnp.broadcast_to(jnp.arange(doc.shape[1])[None], doc.shape))


def placed(seq: Seq) -> Tokens:
    """As neighbours, with places counted from the start of the document."""
    return Tokens(jnp.where(seq.mask, seq.doc, PAD), index(jnp.zeros_like(seq.mask[:, 0], jnp.int32), seq)[0])


def extend(state: Tree, new: Tree, seq: Seq, layout: Layout) -> View:
    """For a scan: old slots and new tokens together. new: name -> [B, T, ...]."""
    slots = state[next(iter(new))].shape[1]
    place, count = index(state["count"], seq)
    at = Tokens(jnp.where(seq.mask, seq.doc, PAD), place)
    join = lambda a, b: jnp.concatenate([a.astype(b.dtype), b], 1)
    to = Tokens(*map(join, held(layout, slots, state["count"]), at))
    seen = {name: join(state[name], value) for name, value in new.items()}
    return View(at, to, seen, keep(state, new, at, count, layout) | dict(count=count), place)


def write(state: Tree, new: Tree, seq: Seq, layout: Layout) -> View:
    """For a step: the new token goes into its slot, and then the slots are all there is. new: name -> [B, ...]."""
    slots = state[next(iter(new))].shape[1]
    place, count = index(state["count"], seq)
    row, slot = jnp.arange(place.shape[0]), jnp.where(seq.mask, layout.slot(place, slots), slots)
    put = lambda old, value: old.at[row, slot].set(value.astype(old.dtype), mode="drop")
    kept = {name: put(state[name], value) for name, value in new.items()}
    to = held(layout, slots, count)
    # A masked token, and one beyond the slots, must see something: the value is junk or NaN either way.
    to = to._replace(doc=jnp.where(seq.mask[:, None], to.doc, 0), place=jnp.where(seq.mask[:, None], to.place, 0))
    at = Tokens(jnp.zeros_like(place)[:, None], jnp.where(seq.mask, place, 0)[:, None])
    return View(at, to, kept, kept | dict(count=count), place)


def held(layout: Layout, slots: int, count: Array) -> Tokens:
    """What the slots hold after `count` [B] tokens of the open document."""
    place = layout.place(slots, count)
    return Tokens(jnp.where(place < 0, EMPTY, 0), place)


def keep(state: Tree, new: Tree, tokens: Tokens, count: Array, layout: Layout) -> Tree:
    """Writes tokens of the open document into their slots, as far as they stay. new: name -> [B, T, ...]."""
    slots = state[next(iter(new))].shape[1]
    slot = layout.slot(tokens.place, slots)
    stays = jnp.take_along_axis(layout.place(slots, count), jnp.clip(slot, 0, slots - 1), 1) == tokens.place
    open_ = (tokens.doc == jnp.max(tokens.doc, 1, keepdims=True)) & (tokens.doc >= 0)
    slot = jnp.where(open_ & stays & (slot < slots), slot, slots)
    row = jnp.arange(slot.shape[0])[:, None]
    return {
        name: state[name].at[row, slot].set(value.astype(state[name].dtype), mode="drop") for name, value in new.items()
    }
