"""tiger: the sign of the momentum with a rate relative to the size of the parameter.

    m <- b1 m + (1 - b1) g;   p <- p - learning_rate size(p) (sign(m) + weight_decay p)
    size = root mean square of p, of each row in an embedding; 1/2 for vectors; at least min_size; 1 without scaled

source: Su 2023, https://github.com/bojone/tiger
state: 4 bytes a parameter
defaults: b1 = 0.965, weight_decay = 0.01 (author's code)
departs: min_size = 1e-3, as the original never moves a matrix that starts at zero; vectors decay unless the mask says
    otherwise; not finite gradients are left to skip_spikes, where the original shrinks the parameters
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiger(Rule):
    """p <- p - learning_rate size(p) (sign(m) + weight_decay p), m <- b1 m + (1 - b1) g.

    b1: decay of the momentum. scaled: False for size 1 everywhere, as PyTorch ports have it. min_size: least size.

    >>> from jaxlib_ext import optim
    >>> tx = optim.tiger(1e-3)
    """

    b1: Traced = 0.965
    min_size: Traced = 1e-3
    scaled: bool = True

    default_decay = 0.01
    own_decay = True
    linear = ("m",)

    def slots(self, leaf):
        return dict(m=Slot())

    def update(self, g, slots, p, h):
        m = h.b1 * slots["m"] + (1 - h.b1) * g
        return -h.learning_rate * self._size(p, h) * (jnp.sign(m) + h.weight_decay * p), dict(m=m)

    def _size(self, p, h):
        if not self.scaled:
            return 1
        if not h.leaf.unit:
            return 0.5
        axes = h.leaf.unit if h.leaf.kind in ("embed", "table") else h.leaf.own
        return jnp.maximum(jnp.sqrt(jnp.mean(p**2, axes, keepdims=True)), h.min_size)
