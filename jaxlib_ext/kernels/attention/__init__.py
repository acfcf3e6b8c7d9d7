"""Attention over tokens that know their document and their place in it: softmax, and what stands in its place."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from ..choice import choose
from . import xla
from .weigh import Weigh, any_seen, normalized, sigmoid, softmax, sunk

__all__ = ["EMPTY", "PAD", "Tokens", "Weigh", "any_seen", "attention", "normalized", "sigmoid", "softmax", "sunk"]

Array = jax.Array
BLOCKED_FROM = 2048  # queries; shorter calls keep the whole score matrix, which is faster and fits
BANDED_FROM = 4  # windows; a band of two of them is then at most half of the score matrix

FORMS = {"xla": xla.whole, "xla_blocked": xla.blocked, "xla_banded": xla.banded}

PAD, EMPTY = -1, -2  # documents of a masked token, which sees masked tokens only, and of an empty slot, seen by nobody


class Tokens(NamedTuple):
    """Where keys or queries stand."""

    doc: Array  # int32 [B, T]: tokens see tokens of the same document; PAD or EMPTY below 0
    place: Array  # int32 [B, T]: index in the document


def attention(q: Array, k: Array, v: Array, at: Tokens, to: Tokens, *, causal: bool = True, window: int | None = None,
              cap: float | None = None, scale: float, bias: Array | None = None,
              pattern: Callable[[Array, Array], Array] | None = None, weigh: Weigh = softmax,
              implementation: str | None = None) -> Array:  # fmt: skip
    """softmax(cap(scale q k^T) + bias) v over the keys that a query may see.

    q [B, T, N, G, K] (G query heads share key head N), k [B, S, N, K], v [B, S, N, V] -> [B, T, N, G, V].
    A query sees a key of the same document that is not later (causal) and fewer than `window` places away (on either
    side when not causal), if pattern(place of the query [B, T, 1], place of the key [B, 1, S]) says so as well. Every
    query must see one key at least (itself will do) unless weigh allows none. at and to are one and the same object
    where the keys are those of the queries' own tokens in order: a window then needs scores near the diagonal only.
    cap: logits become cap tanh(logits / cap). bias: [B or 1, N, G, T, S], added after the cap. weigh: what makes
    weights of logits, see `weigh.py`. Logits and weights in float32.
    """
    default = "xla_blocked" if q.shape[1] >= BLOCKED_FROM else "xla"
    if at is to and causal and bias is None and window is not None and q.shape[1] >= BANDED_FROM * window:
        default = "xla_banded"
    form = choose("attention", implementation, FORMS, default)
    return form(
        q, k, v, at, to, causal=causal, window=window, cap=cap, scale=scale, bias=bias, pattern=pattern, weigh=weigh
    )  # fmt: skip
