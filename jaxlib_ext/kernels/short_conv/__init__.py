"""Causal depthwise convolution over a few tokens, which respects documents and continues from a state.

Sums are made in full float32 and rounded once, to the dtype of what goes in.
"""

import jax
import jax.numpy as jnp

from ...contracts import Seq, along, tail
from ..exact import einsum

Array = jax.Array


def short_conv(x: Array, taps: Array, held: Array, seq: Seq) -> tuple[Array, Array]:
    """y_t = sum_j taps[:, W-1-j] x_{t-j} over tokens of the same document.

    x [B, T, C], taps [C, W] (the last tap meets the token itself), held [B, W-1, C] the last inputs of the open
    document -> y [B, T, C] and the new held. W slices and sums: for W = 4 faster on CPU than XLA's convolution.
    """
    seen = jnp.concatenate([held.astype(x.dtype), x], 1)
    theirs = jnp.pad(seq.doc, ((0, 0), (taps.shape[1] - 1, 0)))  # what is held belongs to document 0
    return convolve(seen, taps, theirs, seq.doc), tail(held, x.astype(held.dtype), seq)


def _wide(a: Array) -> Array:
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def _window(x: Array, x_doc: Array, y_doc: Array, j: int) -> Array:
    """Rows j, j + 1, ... of x [B, S, C], one for each of y_doc [B, T], zeros where the documents differ."""
    n = y_doc.shape[1]
    return jnp.where((x_doc[:, j : j + n] == y_doc)[:, :, None], x[:, j : j + n], 0)


@jax.custom_vjp
def convolve(seen: Array, taps: Array, theirs: Array, own: Array) -> Array:
    """taps [C, W] over seen [B, W-1+T, C] of documents theirs, for outputs [B, T, C] of documents own: an output is
    made of inputs of its own document."""
    y = _wide(_window(seen, theirs, own, 0)) * along(_wide(taps[:, 0]), seen)
    for j in range(1, taps.shape[1]):
        y = y + _wide(_window(seen, theirs, own, j)) * along(_wide(taps[:, j]), seen)
    return y.astype(jnp.result_type(seen, taps))


def _kept(*inputs: Array) -> tuple[Array, tuple]:
    return convolve(*inputs), inputs


def _pulled(inputs: tuple, dy: Array) -> tuple:
    """The same sums over windows of dy. Left to jax, each slice becomes a padding, which takes four times as long."""
    seen, taps, theirs, own = inputs
    w = taps.shape[1]
    late = jnp.pad(dy, ((0, 0), (w - 1, w - 1), (0, 0)))
    doc = jnp.pad(own, ((0, 0), (w - 1, w - 1)), constant_values=-1)
    terms = [_wide(_window(late, doc, theirs, w - 1 - j)) * along(_wide(taps[:, j]), dy) for j in range(w)]
    dx = sum(terms[1:], terms[0])
    dtaps = jnp.stack([jnp.sum(_wide(dy) * _wide(_window(seen, theirs, own, j)), (0, 1)) for j in range(w)], 1)
    return dx.astype(seen.dtype), dtaps.astype(taps.dtype), None, None


convolve.defvjp(_kept, _pulled)


def short_conv_step(x: Array, taps: Array, held: Array, seq: Seq) -> tuple[Array, Array]:
    """One token of `short_conv`: x [B, C], held [B, W-1, C]. A masked token leaves held as it was."""
    held = jnp.where(seq.start[:, None, None], 0, held)
    seen = jnp.concatenate([held, x[:, None].astype(held.dtype)], 1)
    kind = jnp.result_type(x, taps)
    y = einsum("bwc,cw->bc", seen.astype(x.dtype), taps, preferred_element_type=jnp.promote_types(kind, jnp.float32))
    return y.astype(kind), jnp.where(seq.mask[:, None, None], seen[:, 1:], held)


def windows(x: Array, held: Array, seq: Seq) -> tuple[Array, Array]:
    """Every token after the W - 1 before it in its document, zeros before that: what a dense convolution contracts.

    x [B, T, C], held [B, W-1, C] the last inputs of the open document -> [B, T, W, C] and the new held.
    """
    before = held.shape[1]
    seen = jnp.concatenate([held.astype(x.dtype), x], 1)
    theirs = jnp.pad(seq.doc, ((0, 0), (before, 0)))
    rows = [_window(seen, theirs, seq.doc, j) for j in range(before + 1)]
    return jnp.stack(rows, 2), tail(held, x.astype(held.dtype), seq)


def windows_step(x: Array, held: Array, seq: Seq) -> tuple[Array, Array]:
    """One token of `windows`: x [B, C] -> [B, W, C]. A masked token leaves held as it was."""
    held = jnp.where(seq.start[:, None, None], 0, held)
    seen = jnp.concatenate([held, x[:, None].astype(held.dtype)], 1)
    return seen.astype(x.dtype), jnp.where(seq.mask[:, None, None], seen[:, 1:], held)
