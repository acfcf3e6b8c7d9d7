"""sgd: stochastic gradient descent with momentum, Nesterov's or plain.

    m <- momentum m + g;   u = g + momentum m if nesterov else m;   p <- p - learning_rate u

source: momentum as in Sutskever et al. 2013 (ICML); the form of PyTorch and optax
state: 4 bytes a parameter; 0 with momentum 0
defaults: learning_rate = 0.1, momentum = 0.9
departs: none
"""

import dataclasses

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd(Rule):
    """p <- p - learning_rate m, m <- momentum m + g. A momentum of exactly 0 keeps no state.

    >>> from jaxlib_ext import optim
    >>> tx = optim.sgd(0.1, momentum=0.9, nesterov=True)
    """

    default_rate = 0.1

    momentum: Traced = 0.9
    nesterov: bool = False

    @property
    def linear(self):  # pyright: ignore
        return () if self.nesterov else ("m",)  # Nesterov's step sees the gradient beside m

    def slots(self, leaf):
        return dict(m=Slot()) if callable(self.momentum) or self.momentum else {}

    def update(self, g, slots, p, h):
        if not slots:
            return -h.learning_rate * g, {}
        m = h.momentum * slots["m"] + g
        return -h.learning_rate * (g + h.momentum * m if self.nesterov else m), dict(m=m)
