"""coupled: any rule, with weight decay as part of the gradient instead of beside the step.

    p <- p + inner(g + weight_decay p)

source: L2 regularisation; in the words of Loshchilov and Hutter 2017, arXiv 1711.05101
state: the inner rule's
defaults: inner = adam; weight_decay the inner rule's
departs: none
"""

import dataclasses
from typing import Any

from ..wrapped import Wrapped
from ._distance import with_decay


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coupled(Wrapped):
    """What PyTorch's Adam and SGD do with weight_decay. The decay mask counts as ever.

    >>> from jaxlib_ext import optim
    >>> tx = optim.coupled(1e-3, inner="adam", weight_decay=1e-4)
    """

    inner: Any = "adam"

    own_decay = True  # pyright: ignore

    def measure(self, g, slots, p, h):
        return self.inner.measure(with_decay(g, p, h), slots, p, h.but(weight_decay=0.0))

    def update(self, g, slots, p, h):
        return self.inner.update(with_decay(g, p, h), slots, p, h.but(weight_decay=0.0))
