"""Sampling from a model: one prefill, then token by token, in one compilation for any prompt up to a capacity.

Prompts of different lengths are left-padded, which the contract makes inert; every sequence has a key of its own, so
what is drawn for it does not depend on its neighbours.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import param
from ..contracts import Seq

Array = jax.Array
Tree = Any


class Generated(NamedTuple):
    """tokens int32 [B, new], -1 after the end of a sequence; count int32 [B], tokens of each, a stop token included."""

    tokens: Array
    count: Array


def filtered(logits: Array, top_k: int, top_p: Array) -> Array:
    """-inf outside the top_k likeliest (0: all) and outside the smallest set whose probabilities reach top_p.

    logits [..., V] float32. Ties with the last one kept stay in.
    """
    order = jnp.sort(logits, -1, descending=True)
    if 0 < top_k < logits.shape[-1]:
        logits = jnp.where(logits < order[..., top_k - 1 : top_k], -jnp.inf, logits)
        order = jnp.where(jnp.arange(order.shape[-1]).reshape((1,) * (order.ndim - 1) + (-1,)) < top_k, order, -jnp.inf)
    p = jax.nn.softmax(order, -1)
    kept = jnp.cumsum(p, -1) - p < top_p  # the likeliest is always kept
    least = jnp.min(jnp.where(kept, order, jnp.inf), -1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)


def sample(keys: Array, logits: Array, temperature: Array, top_k: int, top_p: Array) -> Array:
    """One token a sequence: keys [B], logits [B, V] -> int32 [B]. Temperature 0 takes the likeliest."""
    scaled = filtered(logits / jnp.maximum(temperature, 1e-6), top_k, top_p)
    drawn = jax.vmap(jax.random.categorical)(keys, scaled)
    return jnp.where(temperature > 0, drawn, jnp.argmax(logits, -1)).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("model", "new", "top_k"))
def _run(model, params, prompts, lengths, keys, stop, temperature, top_p, *, new: int, top_k: int) -> Generated:
    b, capacity = prompts.shape
    params = model.cast(params)
    # Right-padded as they came, left-padded as they run: all prompts end at the same place.
    place = jnp.arange(capacity)[None] - (capacity - lengths)[:, None]
    tokens = jnp.take_along_axis(prompts, jnp.maximum(place, 0), 1)
    seq = Seq(mask=place >= 0, start=place == 0, position=jnp.maximum(place, 0).astype(jnp.int32))
    state = param.zeros(model.state(b, capacity + new))
    h, state = model.prefill(params, tokens, state, seq)
    drawn = Generated(jnp.full((b, new), -1, jnp.int32), jnp.zeros(b, jnp.int32))

    def going(carry):
        n, _, _, done, _ = carry
        return (n < new) & ~done.all()

    def body(carry):
        n, logits, state, done, drawn = carry
        token = sample(jax.vmap(jax.random.fold_in, (0, None))(keys, n), logits, temperature, top_k, top_p)
        drawn = Generated(drawn.tokens.at[:, n].set(jnp.where(done, -1, token)), drawn.count + ~done)
        ended = done | (token[:, None] == stop[None]).any(-1)
        seq = Seq(mask=~ended, start=jnp.zeros_like(ended), position=lengths + n)
        logits, state = model.step(params, token, state, seq)
        return n + 1, logits, state, ended, drawn

    first = model.logits(params, h[:, -1])
    return jax.lax.while_loop(going, body, (0, first, state, jnp.zeros(b, bool), drawn))[-1]


def generate(model: Any, params: Tree, prompts: Sequence[Sequence[int]], key: Array, *, new: int,
             capacity: int | None = None, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
             stop: Sequence[int] = ()) -> Generated:  # fmt: skip
    """Continues each prompt by up to `new` tokens, fewer after a token of `stop`.

    prompts: lists of token ids, each of at least one. key: one key, folded with the row, or [B] keys, one a sequence.
    capacity: longest prompt that the compiled program takes, the longest here unless given; give one value for all
    calls and none compiles again. temperature 0 is greedy; top_k 0 and top_p 1 keep everything.
    """
    longest = max((len(p) for p in prompts), default=0)
    capacity = capacity or longest
    if not prompts or min(len(p) for p in prompts) < 1:
        raise ValueError("generate needs prompts of at least one token each")
    if longest > capacity:
        raise ValueError(f"a prompt has {longest} tokens, the capacity is {capacity}")
    if new < 1 or top_k < 0 or not 0 < top_p <= 1 or temperature < 0:
        raise ValueError("generate needs new >= 1, top_k >= 0, 0 < top_p <= 1 and temperature >= 0")
    rows = np.zeros((len(prompts), capacity), np.int32)
    for row, p in zip(rows, prompts, strict=True):
        row[: len(p)] = p
    if rows.min() < 0 or rows.max() >= model.vocab:
        raise ValueError(
            f"token id {rows.max() if rows.max() >= model.vocab else rows.min()} is outside 0..{model.vocab - 1}"
        )
    keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(prompts)))
    lengths = jnp.asarray([len(p) for p in prompts], jnp.int32)
    stops = jnp.asarray([*stop] or [-1], jnp.int32)
    return _run(
        model, params, rows, lengths, keys, stops, jnp.float32(temperature), jnp.float32(top_p), new=new, top_k=top_k
    )
