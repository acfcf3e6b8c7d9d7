"""adamw: Adam with decoupled weight decay.

    p <- p - learning_rate (m^ / (sqrt(v^) + eps) + weight_decay p)

source: Loshchilov and Hutter 2017, arXiv 1711.05101; multiplied by the learning rate as in optax and PyTorch
state: 8 bytes a parameter
defaults: Adam's here, learning_rate = 3e-3 for small models, weight_decay = 0.1 (Brown et al. 2020, arXiv 2005.14165)
departs: the paper's decay follows the schedule but not the peak rate: give weight_decay = independent(lambda, peak)
"""

import dataclasses

from .adam import Adam


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adamw(Adam):
    """Adam; where the decay mask allows it also p <- p - learning_rate weight_decay p.

    >>> from jaxlib_ext import optim
    >>> tx = optim.adamw(1e-3, weight_decay=0.1, decay_mask={"w": True, "b": False})
    """

    default_rate = 3e-3
    default_decay = 0.1
