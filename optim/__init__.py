"""Optimizers by name: each a function that returns an `optax.GradientTransformation`, with optax's argument names.

What optax has and does exactly is optax's. `decay_mask` has one name everywhere; `param.decayed(decl)` is the mask.
"""

if __name__ != "jaxlib_ext.optim":
    raise ImportError("import this package as jaxlib_ext.optim; a second copy of every class would appear otherwise")


from typing import Any

import optax

from ..registry import make
from .schedules import SCHEDULES, constant, cosine, linear, make_schedule, wsd

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "adam",
    "adamw",
    "constant",
    "cosine",
    "linear",
    "lion",
    "make_optimizer",
    "make_schedule",
    "sgd",
    "wsd",
]  # fmt: skip


def adam(learning_rate, *, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8) -> optax.GradientTransformation:
    """Kingma and Ba 2014, arXiv 1412.6980."""
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)


def adamw(learning_rate, *, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8, weight_decay: float = 0.1,
          decay_mask: Any = None) -> optax.GradientTransformation:  # fmt: skip
    """Loshchilov and Hutter 2017, arXiv 1711.05101; the decay is multiplied by the learning rate, as in optax."""
    return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decay_mask)


def lion(learning_rate, *, b1: float = 0.9, b2: float = 0.99, weight_decay: float = 0.1,
         decay_mask: Any = None) -> optax.GradientTransformation:  # fmt: skip
    """Chen et al. 2023, arXiv 2302.06675."""
    return optax.lion(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=decay_mask)


def sgd(learning_rate, *, momentum: float = 0.9, nesterov: bool = False) -> optax.GradientTransformation:
    """Stochastic gradient descent; momentum 0 has no slot."""
    return optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov)


OPTIMIZERS = {"adam": adam, "adamw": adamw, "lion": lion, "sgd": sgd}


def make_optimizer(spec: str, learning_rate: Any, decay_mask: Any = None) -> optax.GradientTransformation:
    """`make_optimizer("adamw(b2=0.95)", schedule, param.decayed(decl))`; package.module:name is one of your own."""
    return make(spec, OPTIMIZERS, "optimizer", learning_rate=learning_rate, decay_mask=decay_mask)
