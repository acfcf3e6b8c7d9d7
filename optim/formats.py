"""How a slot is stored: `f32`, `bf16`, `fp8:128`, `int8:128`, `coat:128` (the number: entries of a block).

A rule always sees float32. Rounding is stochastic, from a hash of (seed, step, leaf, place), because with rounding to
the nearest a running mean with b2 = 0.999 never moves in bfloat16, nor in 8 bits. Blocks lie along the last axis, so
that a slot is sharded like its parameter. Slots that are never negative are stored as their square root in int8: linear
codes turn a third of an Adam second moment into zero. What has fewer than two axes beside its copies stays float32 in
the 8-bit formats.

source: bfloat16 and 8-bit states: Dettmers et al. 2021, arXiv 2110.02861; coat: Xi et al. 2024, arXiv 2410.19313
departs: rounding is stochastic; int8 is linear in the value or its root, not a table; coat's exponent is between 1/8
    and 16, 1 for a block that is constant, and zeros do not count in a block's range
catalogue: coat_adamw, the states: adamw(formats="coat:128")
"""

import dataclasses
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from .rule import Array, Leaf, Slot

FP8_MAX, FP8_RANGE = 448.0, 448.0 / 2.0**-9  # largest e4m3, and over the smallest
NAMES = ("f32", "bf16", "fp8", "int8", "coat")


def hashed(shape: tuple[int, ...], salt: Array) -> Array:
    """uint32 noise [shape], a function of the place and of the uint32 salt; the same on every mesh."""
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    return _mix(place ^ _mix(salt))


def _mix(x: Array) -> Array:
    """A bijection of uint32 with full avalanche (lowbias32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def salt(seed: int, step: Array, path: str, slot: str = "") -> Array:
    """The uint32 that the noise of one array at one step is made from."""
    return _mix(step.astype(jnp.uint32) ^ jnp.uint32(zlib.crc32(f"{seed}/{slot}/{path}".encode())))


def to_bf16(x: Array, noise: Array) -> Array:
    """Rounds float32 up or down to bfloat16 with the chances that make the mean x; keeps inf and nan."""
    x = x.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + (noise & jnp.uint32(0xFFFF))
    up = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x) & jnp.isfinite(up), up, x).astype(jnp.bfloat16)


def _unit(noise: Array) -> Array:
    return (noise >> 8).astype(jnp.float32) * 2.0**-24


def _to_fp8(x: Array, noise: Array) -> Array:
    """e4m3 of |x| <= 448, rounded stochastically between its neighbours (8 steps an octave, 2^-9 below 2^-6)."""
    _, exponent = jnp.frexp(jnp.maximum(jnp.abs(x), 2.0**-6))
    spacing = jnp.ldexp(jnp.float32(1), exponent - 4)
    return jnp.clip(jnp.floor(x / spacing + _unit(noise)) * spacing, -FP8_MAX, FP8_MAX).astype(jnp.float8_e4m3fn)


@dataclasses.dataclass(frozen=True)
class Format:
    """One of NAMES with its block, 0 where there are none."""

    name: str
    block: int = 0

    @classmethod
    def parse(cls, text: str) -> "Format":
        """From its name.

        >>> Format.parse("fp8:128")
        Format(name='fp8', block=128)
        """
        name, _, block = str(text).partition(":")
        eight = name in NAMES[2:]
        if name not in NAMES or eight != bool(block) or (eight and not (block.isdigit() and int(block))):
            raise ValueError(f"unknown slot format {text!r}; known are f32, bf16, fp8:N, int8:N, coat:N")
        return cls(name, int(block) if eight else 0)

    def serves(self, leaf: Leaf, slot: Slot) -> "Format":
        """This format, or f32 where the slot must be exact or is too small; raises where a block does not divide."""
        if slot.exact or slot.start not in ("zeros", "ones"):
            return F32
        if not self.block:
            return self
        shape = slot.shape or leaf.shape
        if len(shape) - leaf.copies < 2 or 1 in shape[-2:]:
            return F32
        if shape[-1] % self.block:
            raise ValueError(f"{leaf.path}: blocks of {self.block} do not divide the last axis of {shape}")
        return self

    def encode(self, x: Array, slot: Slot, noise: Array) -> Any:
        """x (float32) as it is stored: an array, or {"q": codes, "scale": [..., blocks]}."""
        if self.name == "f32":
            return x
        if self.name == "bf16":
            return to_bf16(x, noise)
        x, noise = self._cut(x.astype(jnp.float32)), self._cut(noise)
        if self.name == "coat":
            return self._expand(x, noise)
        root = self.name == "int8" and not slot.signed
        x = jnp.sqrt(jnp.maximum(x, 0)) if root else x
        top = jnp.maximum(jnp.max(jnp.abs(x), -1, keepdims=True), 1e-30)
        limit = FP8_MAX if self.name == "fp8" else 255.0 if root else 127.0
        scale = top / limit
        y = jnp.clip(x / scale, -limit, limit)
        if self.name == "fp8":
            q = _to_fp8(y, noise)
        else:
            q = jnp.clip(jnp.floor(y + _unit(noise)), -limit, limit).astype(jnp.uint8 if root else jnp.int8)
        return dict(q=self._join(q), scale=scale[..., 0])

    def _expand(self, x: Array, noise: Array) -> dict[str, Array]:
        """x -> sign(x) (|x| / S)^k, k such that the block's range fills that of e4m3; S is the geometric mean."""
        size = jnp.abs(x)
        top = jnp.max(size, -1, keepdims=True)
        low = jnp.min(jnp.where(size > 0, size, jnp.inf), -1, keepdims=True)
        usable = (top > low) & jnp.isfinite(low)
        middle = jnp.where(usable, jnp.sqrt(top) * jnp.sqrt(jnp.where(usable, low, 1)), jnp.maximum(top, 1e-30))
        span = jnp.where(usable, jnp.log2(top / jnp.where(usable, low, 1)), math.log2(FP8_RANGE))
        power = jnp.clip(jnp.floor(16 * math.log2(FP8_RANGE) / span) / 16, 0.125, 16.0)
        power = jnp.where(usable, power, 1.0)
        y = jnp.sign(x) * (size / middle) ** power
        scale = jnp.maximum(jnp.max(jnp.abs(y), -1, keepdims=True), 1e-30) / FP8_MAX
        q = _to_fp8(jnp.clip(y / scale, -FP8_MAX, FP8_MAX), noise)
        return dict(q=self._join(q), scale=scale[..., 0], power=power[..., 0], middle=middle[..., 0])

    def decode(self, stored: Any, slot: Slot, dtype: Any) -> Array:
        """The values that a rule works with."""
        if not isinstance(stored, dict):
            return stored.astype(dtype)
        y = self._cut(stored["q"].astype(dtype)) * stored["scale"][..., None]
        if self.name == "coat":
            y = jnp.sign(y) * jnp.abs(y) ** (1 / stored["power"][..., None]) * stored["middle"][..., None]
        if self.name == "int8" and not slot.signed:
            y = jnp.square(y)
        return self._join(y)

    def _cut(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], x.shape[-1] // self.block, self.block)

    @staticmethod
    def _join(x: Array) -> Array:
        return x.reshape(*x.shape[:-2], -1)


F32 = Format("f32")
