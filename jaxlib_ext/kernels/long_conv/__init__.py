"""Causal depthwise convolution with a filter as long as the sequence, which respects documents."""

import jax
import jax.numpy as jnp

from ..choice import choose
from . import xla

__all__ = ["FORMS", "long_conv"]

Array = jax.Array
FORMS = {"direct": xla.direct, "toeplitz": xla.toeplitz, "fft": xla.fft}
FFT_FROM = 256  # tokens; shorter calls multiply by Toeplitz blocks throughout


def long_conv(x: Array, taps: Array, start: Array, *, held: Array | None = None,
              implementation: str | None = None) -> Array:  # fmt: skip
    """y_t = sum_{j < L} taps_j x_{t-j} over tokens of the same document, channel by channel, in full float32.

    x [B, T, C] with zeros at masked tokens, taps [L, C], start [B, T] where a document begins, held [B, S, C] what came
    before the first token, oldest first, zeros where nothing did -> float32 [B, T, C]. T and L need not be multiples of
    anything. "direct" writes the sum out, T^2 C numbers; "toeplitz" multiplies by blocks of the filter's matrix, T^2 C;
    "fft" is one transform, T log(T) C, or where a row holds more than one document blocks near the diagonal and
    transforms of halves beyond them, T log(T)^2 C. No form lets anything of one document into another, rounding
    included. Within a document the one transform is causal up to rounding alone: a later token moves an earlier output
    by up to 4 float32 epsilons of the loudest output of its row and channel (2.5 measured), and one that is not finite
    reaches all of them. All else is causal to the bit.
    """
    size = 0 if held is None else held.shape[1]
    if held is not None and size:
        x = jnp.concatenate([held.astype(x.dtype), x], 1)
        start = jnp.pad(start, ((0, 0), (size, 0)))
    default = "fft" if min(x.shape[1], taps.shape[0]) >= FFT_FROM else "toeplitz"
    form = choose("long_conv", implementation, FORMS, default)
    return form(x.astype(jnp.float32), taps.astype(jnp.float32), start)[:, size:]
