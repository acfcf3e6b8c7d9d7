"""Optimizers: rules for one leaf, made into optax transformations by one core; schedules.

    tx = optim.adamw(1e-3, b2=0.95, weight_decay=0.1, decay_mask=mask)       # in any optax chain
    tx = optim.transform(optim.rules.Lion(), schedule, decl=decl, formats="bf16", clip_norm=1.0)

RULES has the classes by name, OPTIMIZERS the functions; `make_optimizer` picks one from a command line.
"""

if __name__ != "jaxlib_ext.optim":
    raise ImportError("import this package as jaxlib_ext.optim; a second copy of every class would appear otherwise")


from typing import Any

from ..registry import make
from . import rules, schedules
from .functions import *  # noqa: F403
from .functions import OPTIMIZERS
from .fused import FusedScan
from .groups import Group, grouped
from .report import report, slot_bytes
from .rule import Leaf, Now, Rule, Slot, Traced, decayed
from .rules import RULES
from .schedules import SCHEDULES, Schedule, make_schedule
from .transform import Optimizer, OptState, independent, set_hyper, transform
from .wrapped import Wrapped

__all__ = [
    "OPTIMIZERS",
    "RULES",
    "SCHEDULES",
    "FusedScan",
    "Group",
    "Leaf",
    "Now",
    "OptState",
    "Optimizer",
    "Rule",
    "Schedule",
    "Slot",
    "Traced",
    "Wrapped",
    "decayed",
    "default_rate",
    "grouped",
    "innermost",
    "independent",
    "make_optimizer",
    "make_schedule",
    "report",
    "rules",
    "schedules",
    "set_hyper",
    "slot_bytes",
    "transform",
    *OPTIMIZERS,
]  # fmt: skip


def _rule_of(spec: str, lacks: str) -> Rule:
    tx = make(spec, OPTIMIZERS, "optimizer", learning_rate=0.0)
    if not isinstance(tx, Optimizer):
        raise ValueError(f"optimizer {spec!r} {lacks}")
    return tx.core.rule


def default_rate(spec: str) -> float:
    """The learning rate of an optimizer of ours, named as for `make_optimizer`, where none is given."""
    return _rule_of(spec, "has no learning rate of its own: give one").default_rate


def innermost(spec: str) -> str:
    """The name in RULES of an optimizer named as for `make_optimizer`; of a combinator, that of its inner rule."""
    rule = _rule_of(spec, "is not one of ours, so no table says how it steps")
    while inner := getattr(rule, "inner", None):
        rule = inner
    return next((name for name, known in RULES.items() if type(rule) is known), type(rule).__name__)


def make_optimizer(spec: str, learning_rate: Any, decay_mask: Any = None, **core: Any) -> Optimizer:
    """`make_optimizer("adamw(b2=0.95)", schedule, param.decayed(decl))`; package.module:name is one of your own.

    core: options of `transform`.
    """
    return make(spec, OPTIMIZERS, "optimizer", learning_rate=learning_rate, decay_mask=decay_mask, **core)
