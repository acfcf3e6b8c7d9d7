"""adafactor: Adam's second moment kept as one row and one column, and a step relative to the size of the parameter.

    b = min(1 - t^-decay_rate, b2_max)
    r <- b r + (1 - b) mean_out(g^2 + eps);   c <- b c + (1 - b) mean_in(g^2 + eps)
    u = g / sqrt(r c / mean(r));   u <- u / max(1, rms(u) / clipping_threshold)
    m <- momentum m + (1 - momentum) learning_rate max(rms(p), min_scale) u;   p <- p - m

source: Shazeer and Stern 2018, arXiv 1804.04235; b2_max: Zhai et al. 2021, arXiv 2106.04560, who take 0.999
state: 4 (in + out) bytes a matrix, 4 bytes an entry of other leaves; 4 bytes a parameter more with momentum
defaults: learning_rate = 1e-2 (largest of the paper's schedule), decay_rate = 0.8, eps = 1e-30, clipping_threshold = 1,
    min_scale = 1e-3, no momentum (paper); factored from 128 on as in optax
departs: the step size is learning_rate, not the paper's own schedule. The two sides of a matrix are what a product sums
    over and what it makes, so that a projection to (heads, head_dim) is one matrix; where this is not known, all axes
    but the last and the last. optax takes the two longest axes, a stack's layers among them
"""

import dataclasses
import math

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(Rule):
    """p <- p - learning_rate max(rms(p), min_scale) g / sqrt(r c / mean(r)), r and c being running means of g^2 over
    the outputs and over the inputs of a matrix.

    decay_rate: the second moment's decay is 1 - t^-decay_rate, at most b2_max. momentum: of the steps; exactly 0 keeps
    no state for it. eps: added to g^2. clipping_threshold: largest root mean square of the step before it is scaled,
    infinity for none. min_scale: least size that a parameter is taken to have. multiply_by_parameter_scale: False for
    steps that do not depend on the size. min_dim_size_to_factor: matrices with a side below it keep the whole moment.

    >>> from jaxlib_ext import optim
    >>> tx = optim.adafactor(1e-2, momentum=0.9)
    """

    default_rate = 1e-2

    decay_rate: Traced = 0.8
    b2_max: Traced = 1.0
    momentum: Traced = 0.0
    eps: Traced = 1e-30
    clipping_threshold: Traced = 1.0
    min_scale: Traced = 1e-3
    multiply_by_parameter_scale: bool = True
    min_dim_size_to_factor: int = 128

    def slots(self, leaf):
        m = dict(m=Slot()) if callable(self.momentum) or self.momentum else {}
        if not self._factored(leaf):
            return dict(v=Slot(signed=False), **m)
        here = lambda axes: tuple(1 if i in axes else n for i, n in enumerate(leaf.shape))
        row, column = (Slot(shape=here(axes), signed=False, exact=True) for axes in reversed(_sides(leaf)))
        return dict(row=row, column=column, **m)

    def _factored(self, leaf):
        inner, outer = (math.prod(leaf.shape[i] for i in axes) for axes in _sides(leaf))
        return bool(leaf.unit) and min(inner, outer) >= self.min_dim_size_to_factor

    def update(self, g, slots, p, h):
        leaf, new = h.leaf, {}
        b = jnp.minimum(1 - h.t**-h.decay_rate, h.b2_max)
        square = g**2 + h.eps
        if "v" in slots:
            new["v"] = b * slots["v"] + (1 - b) * square
            u = g / jnp.sqrt(new["v"])
        else:
            inner, outer = _sides(leaf)
            row = b * slots["row"] + (1 - b) * jnp.mean(square, outer, keepdims=True)
            column = b * slots["column"] + (1 - b) * jnp.mean(square, inner, keepdims=True)
            u = g / (jnp.sqrt(row / jnp.mean(row, inner, keepdims=True)) * jnp.sqrt(column))
            new |= dict(row=row, column=column)
        rms = lambda x: leaf.norm(x) / math.sqrt(leaf.size)
        u = u / jnp.maximum(1, rms(u) / h.clipping_threshold)
        scale = jnp.maximum(rms(p), h.min_scale) if self.multiply_by_parameter_scale else 1
        step = h.learning_rate * scale * u
        if "m" in slots:
            step = new["m"] = h.momentum * slots["m"] + (1 - h.momentum) * step
        return -step, new


def _sides(leaf):
    """(axes that a product sums over, axes that it makes) of one copy."""
    return leaf.own[: leaf.contracts], leaf.own[leaf.contracts :]
