"""What a method is: a rule for one leaf, and what the core knows when it calls it.

A rule is a frozen dataclass. Fields of type `Traced` are hyperparameters: numbers, or schedules of the step, that live
in the optimizer's state and are seen through `h`; changing one does not recompile. Other fields are static. The
smallest rule:

>>> @dataclasses.dataclass(frozen=True, kw_only=True)
... class Halved(Rule):
...     b1: Traced = 0.9
...     def slots(self, leaf):
...         return dict(m=Slot())
...     def update(self, g, slots, p, h):
...         m = h.b1 * slots["m"] + 0.5 * g
...         return -h.learning_rate * m, dict(m=m)
>>> hypers(Halved())
{'b1': 0.9}

Arrays that reach a rule are float32 (float64 where the parameters are), whatever they are stored in.
"""

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

Array = jax.Array
Tree = Any
Traced = float | Callable[[Any], Any]  # a number, or a schedule: step -> number
Slots = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter as a rule sees it. Axes are copies + contracts + produces, as in `param`.

    copies: leading axes of independent parameters (layers, experts); no statistic crosses them.
    contracts: how many axes after them a product sums over. kind: of the declaration; without one, "matrix" for
    two axes and more beside the copies, else "vector".
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    kind: str
    copies: int = 0
    contracts: int = 1

    @property
    def own(self) -> tuple[int, ...]:
        """The axes of one copy."""
        return tuple(range(self.copies, len(self.shape)))

    @property
    def size(self) -> int:
        """Numbers in one copy."""
        return math.prod(self.shape[self.copies :])

    @property
    def matrix(self) -> bool:
        """Two axes or more beside the copies."""
        return len(self.own) >= 2

    @property
    def unit(self) -> tuple[int, ...]:
        """The axes of one neuron: those summed over to make one output; of a gathered table, those of a row.
        () for what is neither, such as a bias."""
        inner, outer = self.own[: self.contracts], self.own[self.contracts :]
        if not (inner and outer):
            return ()
        return outer if self.kind in ("embed", "table") else inner

    @property
    def scalar(self) -> tuple[int, ...]:
        """Shape of one number a copy, to broadcast against the leaf."""
        return self.shape[: self.copies] + (1,) * len(self.own)

    def sum(self, x: Array) -> Array:
        """Sum over a copy, [copies, 1, ...]."""
        return jnp.sum(x, self.own, keepdims=True)

    def mean(self, x: Array) -> Array:
        """Mean over a copy, [copies, 1, ...]."""
        return self.sum(x) / self.size

    def norm(self, x: Array) -> Array:
        """Euclidean norm of a copy, [copies, 1, ...]."""
        return jnp.sqrt(self.sum(jnp.square(x)))


@dataclasses.dataclass(frozen=True)
class Slot:
    """One array that a rule keeps for a leaf.

    start: "zeros", "ones", "params" for a copy of the parameter, or a function of it. shape: None for the parameter's;
    others broadcast against it, further axes in front. signed: False for what is never negative, which 8-bit formats
    store as a root. exact: never stored in fewer bits than float32, as are slots made from the parameter. constant:
    never changes, and keeps the parameter's own dtype.
    """

    start: str | Callable[[Any], Any] = "zeros"
    shape: tuple[int, ...] | None = None
    signed: bool = True
    exact: bool = False
    constant: bool = False


class Now(SimpleNamespace):
    """What a rule knows at an update. Beside these, every hyperparameter and shared number by its name.

    leaf: the Leaf. learning_rate: times the leaf's scale; unscaled: without; scale: that factor, a Python number.
    weight_decay: 0 for leaves without decay. t: updates taken, from 1. step: calls, from 0. extra: what the caller
    passed for `needs`. keys(salt): a random key for this leaf and step. kept(slot): that slot of all leaves, a tree.
    """

    def unbias(self, name: str) -> Array:
        """1 - b^t of the hyperparameter, computed once an update."""
        return self.once(f"{name}^t", lambda: 1 - getattr(self, name) ** self.t)

    def rest(self, name: str) -> Array:
        """1 - b of the hyperparameter, computed once an update."""
        return self.once(name, lambda: 1 - getattr(self, name))

    def once(self, name: str, make: Callable[[], Array]) -> Array:
        """make(), a number that does not hang on the leaf, computed once an update: a thousand leaves trace it once."""
        if name not in self.cache:
            self.cache[name] = make()
        return self.cache[name]

    def but(self, **changes: Any) -> "Now":
        """The same with some entries changed."""
        return Now(**{**vars(self), **changes})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """The base of every method; `update` is the only part that all must have."""

    default_rate: ClassVar[float] = 1e-3
    default_decay: ClassVar[float] = 0.0
    needs: ClassVar[tuple[str, ...]] = ()  # extra arguments of `update` that must be there
    own_decay: ClassVar[bool] = False  # the rule applies h.weight_decay itself
    two_points: ClassVar[bool] = False  # `evaluated` is another point than the one that is trained
    linear: ClassVar[tuple[str, ...]] = ()  # slots linear in g that alone decide the update: see Accumulated

    def __post_init__(self):
        for name, value in hypers(self).items():
            if callable(value):
                continue
            if not isinstance(value, (int, float)) or math.isnan(value):
                raise ValueError(f"{type(self).__name__}: {name} must be a number or a schedule, not {value!r}")
            if name[0] == "b" and name[1:].isdigit() and not 0 <= value < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be in [0, 1), not {value!r}")

    def slots(self, leaf: Leaf) -> dict[str, Slot]:
        """The arrays it keeps for a leaf."""
        return {}

    def shared(self) -> dict[str, float]:
        """Numbers that all leaves share, with their first values."""
        return {}

    def prepare(self, grads: Tree, params: Tree, h: Now) -> Tree:
        """Changes the gradients of all leaves at once, before anything else."""
        return grads

    def measure(self, g: Array, slots: Slots, p: Array, h: Now) -> dict[str, Array]:
        """Scalars of one leaf, summed over all leaves into what `decide` sees."""
        return {}

    def decide(self, sums: dict[str, Array], h: Now) -> dict[str, Array]:
        """New values of the shared numbers; `update` sees them in h, the old ones with "old_" before the name."""
        return {}

    def update(self, g: Array, slots: Slots, p: Array, h: Now) -> tuple[Array, Slots]:
        """(what is added to p, new slots)."""
        raise NotImplementedError

    def rate(self, h: Now) -> Array:
        """What the weight decay is multiplied with; methods that find their own step size scale it."""
        return h.unscaled

    def evaluated(self, slots: Slots, p: Array, h: Now) -> Array:
        """The parameters to evaluate with, for methods that keep two points."""
        return p


def decayed(rule: Rule, g: Array, slots: Slots, p: Array, h: Now) -> tuple[Array, Slots]:
    """`rule.update` with decoupled weight decay: -rate * weight_decay * p is added where the leaf has any."""
    delta, new = rule.update(g, slots, p, h)
    if rule.own_decay or isinstance(h.weight_decay, float):  # a Python 0.0: nothing decays here
        return delta, new
    return delta - rule.rate(h) * h.weight_decay * p, new


def hypers(rule: Rule) -> dict[str, Traced]:
    """Its hyperparameters, those of inner rules included. A name that both have raises ValueError."""
    found: dict[str, Traced] = {}
    for field in dataclasses.fields(rule):
        value = getattr(rule, field.name)
        traced = field.type in (Traced, "Traced")
        more = hypers(value) if isinstance(value, Rule) else {field.name: value} if traced else {}
        if twice := sorted(set(found) & set(more)):
            raise ValueError(f"{type(rule).__name__} and its inner rule both have a hyperparameter {twice[0]!r}")
        found |= more
    return found
