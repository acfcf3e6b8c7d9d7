"""adam: adaptive moments; the running mean of gradients over the root of that of their squares.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
    p <- p - learning_rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

source: Kingma and Ba 2014, arXiv 1412.6980
state: 8 bytes a parameter
defaults: b1 = 0.9, b2 = 0.95 as in language-model pre-training (Brown et al. 2020, arXiv 2005.14165); the paper has
    b2 = 0.999
departs: b2's default
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Rule):
    """p <- p - learning_rate m^ / (sqrt(v^) + eps), with bias-corrected moments m^, v^.

    b1, b2: decay of the first and second moment. eps: added to the root.

    >>> from jaxlib_ext import optim
    >>> tx = optim.adam(1e-3, b2=0.99)
    """

    b1: Traced = 0.9
    b2: Traced = 0.95
    eps: Traced = 1e-8

    def slots(self, leaf):
        return dict(m=Slot(), v=Slot(signed=False))

    def update(self, g, slots, p, h):
        m = h.b1 * slots["m"] + h.rest("b1") * g
        v = h.b2 * slots["v"] + h.rest("b2") * g**2
        return step(m, v, h), dict(m=m, v=v)


def step(m, v, h):
    """-learning_rate m^ / (sqrt(v^) + eps), with one division an entry: the corrections are numbers, not arrays."""
    root = h.once("adam root", lambda: jnp.sqrt(h.unbias("b2")))
    share = h.once("adam share", lambda: -root / h.unbias("b1"))
    return h.learning_rate * share * m / (jnp.sqrt(v) + h.eps * root)  # eps may differ from leaf to leaf
