"""sam: any rule on the gradient taken where the loss is worst nearby.

    e = rho g / |g|;   g <- grad value_fn(p + e)   with |g| over all parameters;   p <- p + inner(g)

source: Foret et al. 2020, arXiv 2010.01412
state: the inner rule's
defaults: inner = adamw, rho = 0.05 (paper)
departs: none; the second gradient is of what value_fn says, the same batch in the paper. Clipping of the gradient's
    norm and skipping of spikes act on the first gradient
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ..guard import norm
from ..rule import Traced
from ..wrapped import Wrapped
from ._distance import TINY


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sam(Wrapped):
    """rho: how far to go up before the gradient is taken. `update` needs value_fn=, params -> scalar loss; it is called
    with float32 parameters and differentiated once.

    >>> import jax, jax.numpy as jnp
    >>> from jaxlib_ext import optim
    >>> loss, params = lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.ones(3)}
    >>> tx = optim.sam(0.1, inner="sgd", rho=0.05)
    >>> _ = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
    """

    inner: Any = "adamw"
    rho: Traced = 0.05

    @property
    def needs(self):  # pyright: ignore
        return ("value_fn", *self.inner.needs)

    def prepare(self, grads, params, h):
        size = norm(jax.tree.leaves(grads))
        up = h.rho / jnp.maximum(size, TINY)
        worst = jax.grad(h.extra["value_fn"])(jax.tree.map(lambda p, g: p + up * g, params, grads))
        return self.inner.prepare(jax.tree.map(lambda w, g: w.astype(g.dtype), worst, grads), params, h)
