"""rope: queries and keys are rotated by angles that grow with the position, so that logits see differences only.

    pair (x_i, x_{i+K/2}) of a head is turned by p base^(-2i/K)

source: Su et al. 2021, arXiv 2104.09864; the half-split pairing is that of GPT-NeoX
train: 6 T heads K
decode: the same a token
departs: pairs are (i, i + K/2) and not (2i, 2i + 1), a fixed permutation of the channels
"""

import dataclasses

import jax
import jax.numpy as jnp

from ...contracts import along
from .none import NoPosition

Array = jax.Array


def _kept(table: Array) -> Array:
    """The same numbers, made once: XLA would compute sines and cosines again in every fusion that reads them, forwards
    and backwards, a fifth of a small model's step on CPU. There only the result of a product is kept; elsewhere a
    barrier does, and a product would be a slow one, which takes a TPU's compiler longer than the rest of a layer."""
    return jax.lax.platform_dependent(table, cpu=_same, default=jax.lax.optimization_barrier)


def _same(table: Array) -> Array:
    same = jnp.eye(table.shape[-1], dtype=table.dtype)
    return jax.lax.dot_general(table, same, (((table.ndim - 1,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Rope(NoPosition):
    """base: the longest wavelength is 2 pi base. part: share of each head that is rotated, the first channels."""

    base: float = 10000.0
    part: float = 1.0

    def __post_init__(self):
        if not (self.base > 1 and 0 < self.part <= 1):
            raise ValueError(f"rope needs base > 1 and 0 < part <= 1, not base={self.base}, part={self.part}")

    def rotate(self, x: Array, position: Array) -> Array:
        """x [..., heads, head_dim], position [...]; an even number of channels is rotated."""
        k = int(x.shape[-1] * self.part) // 2 * 2
        half = k // 2
        position = position[..., None, None].astype(jnp.float32)
        angle = position * along(self.base ** (-jnp.arange(half) / half), position)
        cos, sin = _kept(jnp.cos(angle)), _kept(jnp.sin(angle))
        a, b, rest = (v.astype(jnp.float32) for v in jnp.split(x, (half, k), axis=-1))
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos, rest], -1).astype(x.dtype)
