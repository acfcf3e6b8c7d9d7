"""Softmax attention over tokens that know their document and their place in it."""

from typing import NamedTuple

import jax

from ..choice import choose
from . import xla

Array = jax.Array
BLOCKED_FROM = 2048  # queries; shorter calls keep the whole score matrix, which is faster and fits

FORMS = {"xla": xla.whole, "xla_blocked": xla.blocked}

PAD, EMPTY = -1, -2  # documents of a masked token, which sees masked tokens only, and of an empty slot, seen by nobody


class Tokens(NamedTuple):
    """Where keys or queries stand."""

    doc: Array  # int32 [B, T]: tokens see tokens of the same document; PAD or EMPTY below 0
    place: Array  # int32 [B, T]: index in the document


def attention(q: Array, k: Array, v: Array, at: Tokens, to: Tokens, *, causal: bool = True, window: int | None = None,
              cap: float | None = None, scale: float, bias: Array | None = None,
              implementation: str | None = None) -> Array:  # fmt: skip
    """softmax(cap(scale q k^T) + bias) v over the keys that a query may see.

    q [B, T, N, G, K] (G query heads share key head N), k [B, S, N, K], v [B, S, N, V] -> [B, T, N, G, V].
    A query sees a key of the same document that is not later (causal) and fewer than `window` places away (on either
    side when not causal). Every query must see one key at least; itself will do. cap: logits become
    cap tanh(logits / cap). bias: [B or 1, N, G, T, S], added after the cap. Softmax in float32.
    """
    form = choose("attention", implementation, FORMS, "xla_blocked" if q.shape[1] >= BLOCKED_FROM else "xla")
    return form(q, k, v, at, to, causal=causal, window=window, cap=cap, scale=scale, bias=bias)
