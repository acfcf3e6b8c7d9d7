"""mt_adamw: AdamW for one task a step; every task's gradient has the same length, rare tasks count for more.

    g <- weights[k] g / |g|   with |g| over all parameters and k the step's task
    m <- b1 m + (1 - b1) / shares[k] g;   v <- b2 v + (1 - b2) / shares[k] g^2
    p <- p - learning_rate (m^ / (sqrt(v^) + eps) + weight_decay p),   m^, v^ corrected for their start as Adam's

source: Uni-Perceiver v2, Li et al. 2022, arXiv 2211.09808 (MT-AdamW), CVPR 2023 (Task-Balanced Gradient Normalization)
state: 8 bytes a parameter
defaults: one task; weights 1 (paper); Adam's here, weight_decay = 0.1
departs: none; the paper writes 1 - b for our b and leaves out decay and bias corrections "for simplicity"
"""

import dataclasses

import jax
import jax.numpy as jnp

from ..guard import norm
from ._distance import TINY
from .adam import Adam, step


@dataclasses.dataclass(frozen=True, kw_only=True)
class MtAdamw(Adam):
    """shares: how often each task is drawn, with sum 1. weights: how much each shall count, None for 1 each. `update`
    needs task=, the index of the step's task, where there are several. b1, b2, eps: Adam's.

    >>> from jaxlib_ext import optim
    >>> tx = optim.mt_adamw(1e-3, shares=(0.7, 0.2, 0.1))
    """

    shares: tuple[float, ...] = (1.0,)
    weights: tuple[float, ...] | None = None

    default_decay = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not self.shares or min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"MtAdamw: shares must be positive with sum 1, not {self.shares!r}")
        if self.weights is not None and (len(self.weights) != len(self.shares) or min(self.weights) <= 0):
            raise ValueError(f"MtAdamw: weights must be {len(self.shares)} positive numbers, not {self.weights!r}")

    @property
    def needs(self):  # pyright: ignore
        return ("task",) if len(self.shares) > 1 else ()

    def _of(self, numbers, h):
        """The number of this step's task."""
        return jnp.asarray(numbers, h.t.dtype)[h.extra["task"] if self.needs else 0]

    def prepare(self, grads, params, h):
        size = norm(jax.tree.leaves(grads))
        factor = self._of(self.weights or (1.0,) * len(self.shares), h) / jnp.maximum(size, TINY)
        return jax.tree.map(lambda g: factor * g, grads)

    def update(self, g, slots, p, h):
        more = 1 / self._of(self.shares, h)
        m = h.b1 * slots["m"] + (1 - h.b1) * more * g
        v = h.b2 * slots["v"] + (1 - h.b2) * more * g**2
        return step(m, v, h), dict(m=m, v=v)
