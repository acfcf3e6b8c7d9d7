"""Linear recurrences of matrix-valued states, chunk by chunk: one skeleton, and a `Transition` says what differs.

Whatever the transition of a token is, a chunk of tokens is an affine map of the state before it. So all chunks of a
group work in parallel on what needs no state, a scan over chunks then makes the states, and products with them add what
came before. A group is recomputed in the backward pass from the state at its beginning, so what is kept grows with
the number of groups, and no state of a token is ever stored.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..contracts import along

Array = jax.Array
Tree = Any
GROUP = 256  # tokens whose chunks work side by side and are recomputed together


class Transition(NamedTuple):
    """What one kind of recurrence does with chunks of C tokens. S is the state [B, *heads, K, V]."""

    local: Callable  # inputs [n, B, *heads, C, .], Documents -> y without a state, moves, reads; leading axis n
    carry: Callable  # S, moves of one chunk [B, ...] -> S after it, what to keep of S for read
    read: Callable  # reads, what was kept with leading axis n -> what S adds to y


class Documents(NamedTuple):
    """Which tokens of a chunk belong together; every array bool."""

    seen: Array  # [n, B, C, C]: key j is of query i's document and not later
    old: Array  # [n, B, C]: the document continues from before the chunk
    open: Array  # [n, B, C]: the document is that of the chunk's last token
    through: Array  # [n, B]: what came before the chunk lives on after it


def documents(start: Array) -> Documents:
    """start [n, B, C] bool."""
    doc = jnp.cumsum(start.astype(jnp.int32), -1)
    c = start.shape[-1]
    causal = jnp.tril(jnp.ones((c, c), bool))
    same = doc[..., :, None] == doc[..., None, :]
    return Documents(same & along(causal, same), doc == 0, doc == doc[..., -1:], doc[..., -1] == 0)


def masked(keep: Array, x: Array) -> Array:
    """x [n, B, *heads, rest] where keep [n, B, rest] says so, zeros elsewhere."""
    return jnp.where(jnp.expand_dims(keep, tuple(range(2, 2 + x.ndim - keep.ndim))), x, 0.0)


def chunked(
    transition: Transition, inputs: tuple[Array, ...], state: Array, start: Array, *, chunk: int, group: int = GROUP
) -> tuple[Array, Array]:
    """inputs [B, T, *heads, .], of which zeros must leave the state as it is; state S; start [B, T] bool.

    Returns y [B, T, *heads, V] and the last state. T need not be a multiple of anything.
    """
    t = start.shape[1]
    n = -(-t // chunk)
    groups = -(-n // max(1, group // chunk))
    per = -(-n // groups)  # chunks a group
    total = groups * per * chunk

    def cut(a: Array) -> Array:  # [B, T, ...] -> [groups, B, per * chunk, ...]
        a = jnp.pad(a, ((0, 0), (0, total - t)) + ((0, 0),) * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(a.shape[0], groups, per * chunk, *a.shape[2:]), 1, 0)

    body = functools.partial(_group, transition, per)
    rows = (tuple(map(cut, inputs)), cut(start))
    state, y = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), state, rows)
    y = jnp.moveaxis(y, 0, 1)
    return y.reshape(y.shape[0], total, *y.shape[3:])[:, :t], state


def _group(transition: Transition, per: int, state: Array, rows: Tree) -> tuple[Array, Array]:
    """One group: rows [B, per * chunk, ...] -> last state, y [B, per * chunk, *heads, V]."""
    inputs, start = rows

    def cut(a: Array) -> Array:  # [B, per * chunk, *heads, .] -> [per, B, *heads, chunk, .]
        a = a.reshape(a.shape[0], per, -1, *a.shape[2:])
        return jnp.moveaxis(a, (1, 2), (0, -2))

    starts = jnp.moveaxis(start.reshape(start.shape[0], per, -1), 1, 0)
    y, moves, reads = transition.local(tuple(map(cut, inputs)), documents(starts))
    state, kept = jax.lax.scan(transition.carry, state, moves)
    y = jnp.moveaxis(y + transition.read(reads, kept), (0, -2), (1, 2))
    return state, y.reshape(y.shape[0], -1, *y.shape[3:])
