"""What happens before a rule sees the gradients: the norm of all of them, clipping, and leaving out spikes.

source: skipping by rolling statistics as in OLMo 2, arXiv 2501.00656; here on the logarithm of the gradient norm
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from .rule import Array, Now, Traced

MEMORY, SETTLED = 1 / 128, 32  # weight of the newest norm; norms seen before anything is skipped


def norm(leaves: list) -> Array:
    """Euclidean norm of all leaves together, accumulated in their dtype, which the core has made float32 or float64."""
    return jnp.sqrt(sum((jnp.sum(jnp.square(v)) for v in leaves), jnp.zeros(())))


@dataclasses.dataclass(frozen=True)
class Guard:
    """clip_norm: largest norm. skip_spikes: standard deviations above the running mean of log norm, or None."""

    clip_norm: Traced | None = None
    skip_spikes: Traced | None = None

    def __post_init__(self):
        for name, value in self.numbers().items():
            if not callable(value) and not value > 0:
                raise ValueError(f"{name} must be positive, not {value!r}")

    @property
    def active(self) -> bool:
        return bool(self.numbers())

    def numbers(self) -> dict[str, Traced]:
        """Its hyperparameters."""
        both = dict(clip_norm=self.clip_norm, skip_spikes=self.skip_spikes)
        return {k: v for k, v in both.items() if v is not None}

    def shared(self) -> dict[str, float]:
        """Its numbers in the state, with their first values."""
        mine = dict(clipped=0.0) if self.clip_norm is not None else {}
        if self.skip_spikes is not None:
            mine |= dict(skipped=0.0, norm_seen=0.0, norm_mean=0.0, norm_square=0.0)
        return mine

    def apply(self, gs: list, size: Array | None, h: Now) -> tuple[list, Array | None, dict[str, Any]]:
        """(gradients, whether to take this update or None for always, its new numbers)."""
        kept, taken = {}, None
        if self.skip_spikes is not None:
            taken, kept = self._spike(size, h)
        if self.clip_norm is not None:
            factor = jnp.minimum(1.0, h.clip_norm / jnp.maximum(size, 1e-30))
            gs = [g * factor for g in gs]
            # the share of updates that were clipped so far
            kept["clipped"] = h.clipped + ((factor < 1) - h.clipped) / (h.step + 1)
        return gs, taken, kept

    def _spike(self, size: Array, h: Now) -> tuple[Array, dict[str, Any]]:
        finite = jnp.isfinite(size)
        log = jnp.log(jnp.maximum(jnp.where(finite, size, 1), 1e-30))
        spread = jnp.sqrt(jnp.maximum(h.norm_square - h.norm_mean**2, 0))
        spike = (h.norm_seen >= SETTLED) & (log > h.norm_mean + h.skip_spikes * spread)
        taken = finite & ~spike
        # While settling, a plain average. What is skipped does not raise the level that it is held against.
        seen = h.norm_seen + taken
        weight = jnp.where(taken, jnp.maximum(MEMORY, 1 / jnp.maximum(seen, 1)), 0)
        return taken, dict(
            skipped=h.skipped + ~taken, norm_seen=seen,
            norm_mean=h.norm_mean + weight * (log - h.norm_mean),
            norm_square=h.norm_square + weight * (log**2 - h.norm_square),
        )  # fmt: skip
