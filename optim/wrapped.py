"""The base of combinators: rules around a rule. What a combinator does not change, it passes on to the inner rule."""

import dataclasses
from typing import Any

from .rule import Array, Leaf, Now, Rule, Slot, Slots, Tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrapped(Rule):
    """inner: a rule, or its name with options as on a command line, "lion(b1=0.95)"."""

    inner: Any = "adam"

    def __post_init__(self):
        if isinstance(self.inner, str):
            from ..registry import make
            from .rules import RULES

            object.__setattr__(self, "inner", make(self.inner, RULES, "optimizer"))
        if not isinstance(self.inner, Rule):
            raise ValueError(f"{type(self).__name__}: inner must be a rule or its name, not {self.inner!r}")
        super().__post_init__()

    @property
    def default_rate(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.default_rate

    @property
    def default_decay(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.default_decay

    @property
    def needs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.needs

    @property
    def own_decay(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.own_decay

    @property
    def two_points(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.two_points

    def slots(self, leaf: Leaf) -> dict[str, Slot]:
        return self.inner.slots(leaf)

    def shared(self) -> dict[str, float]:
        return self.inner.shared()

    def prepare(self, grads: Tree, params: Tree, h: Now) -> Tree:
        return self.inner.prepare(grads, params, h)

    def measure(self, g: Array, slots: Slots, p: Array, h: Now) -> dict[str, Array]:
        return self.inner.measure(g, slots, p, h)

    def decide(self, sums: dict[str, Array], h: Now) -> dict[str, Array]:
        return self.inner.decide(sums, h)

    def update(self, g: Array, slots: Slots, p: Array, h: Now) -> tuple[Array, Slots]:
        return self.inner.update(g, slots, p, h)

    def rate(self, h: Now) -> Array:
        return self.inner.rate(h)

    def evaluated(self, slots: Slots, p: Array, h: Now) -> Array:
        return self.inner.evaluated(slots, p, h)
