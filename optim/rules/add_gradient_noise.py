"""add_gradient_noise: any rule on gradients with Gaussian noise that fades.

    g <- g + sqrt(eta / t^gamma) n,   n standard normal, t = 1, 2, ...

source: Neelakantan et al. 2015, arXiv 1511.06807
state: the inner rule's
defaults: inner = adamw, eta = 0.01 (of the paper's 0.01, 0.3, 1), gamma = 0.55 (paper)
departs: none; the paper counts t from 0 and divides by (1 + t)^gamma. t counts calls. Stacked layers and separate ones,
    being other arrays, draw other noise of the same law
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ..rule import Traced
from ..wrapped import Wrapped

SALT = 0x6E6F6973


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddGradientNoise(Wrapped):
    """eta: variance of the noise at the first step; gamma: how fast it fades. The noise is a function of the
    optimizer's seed, the step and the place.

    >>> from jaxlib_ext import optim
    >>> tx = optim.add_gradient_noise(0.1, inner="sgd", eta=0.3, seed=7)
    """

    inner: Any = "adamw"
    eta: Traced = 0.01
    gamma: Traced = 0.55

    draws = True

    def prepare(self, grads, params, h):
        leaves, tree = jax.tree.flatten(grads)
        size = jnp.sqrt(h.eta / (h.step + 1).astype(h.eta.dtype) ** h.gamma)
        key = jax.random.fold_in(h.key, SALT)
        draw = lambda i, g: size * jax.random.normal(jax.random.fold_in(key, i), g.shape, g.dtype)
        noisy = [g + draw(i, g) for i, g in enumerate(leaves)]
        return self.inner.prepare(jax.tree.unflatten(tree, noisy), params, h)
