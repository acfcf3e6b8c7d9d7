"""Several rules over one tree of parameters: which leaf goes to which is decided once, by kind or by path.

    tx = grouped(
        {"matrices": Group(Lion(), kinds=("matrix",)), "rest": Group(Adamw(), factor=0.3)}, 1e-3, decl=model.decl())

The state is {group: OptState}, each with the leaves of its group; nothing stands for the leaves of others.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax

from .core import Core, OptState
from .placing import specs
from .rule import Array, Leaf, Rule, Traced, Tree
from .table import Row, decays_of, leaves_of, path_of
from .transform import Optimizer, transform


@dataclasses.dataclass(frozen=True)
class Group:
    """A rule and the leaves that it takes: those of a kind, or whose path matches the pattern; without either, all
    that no group before it took. factor: of the learning rate. weight_decay: None for the rule's default."""

    rule: Rule
    kinds: tuple[str, ...] = ()
    paths: str = ""
    factor: float = 1.0
    weight_decay: Traced | None = None

    def takes(self, leaf: Leaf) -> bool:
        """Whether this leaf is of the group."""
        if not self.kinds and not self.paths:
            return True
        return leaf.kind in self.kinds or bool(self.paths and re.search(self.paths, leaf.path))


def _times(factor: float, rate: Traced) -> Traced:
    if factor == 1.0:
        return rate
    if callable(rate):
        return lambda step: factor * rate(step)
    return factor * rate


def _only(tree: Tree, paths: set[str]) -> Tree:
    return jax.tree.map_with_path(lambda k, v: v if path_of(k) in paths else None, tree)


@dataclasses.dataclass(frozen=True)
class Groups:
    """The work behind `grouped`: what `Core` offers, over the cores of the groups."""

    members: Mapping[str, tuple[Group, Core]]

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(sorted({name for _, core in self.members.values() for name in core.needs}))

    @property
    def two_points(self) -> bool:
        return any(core.two_points for _, core in self.members.values())

    def split(self, params: Tree) -> dict[str, set[str]]:
        """Group -> the paths that it takes. Raises for a group that takes none, a leaf that none takes, and a mask,
        pattern or format that is for none of them."""
        core = next(iter(self.members.values()))[1]
        taken: dict[str, set[str]] = {name: set() for name in self.members}
        slots, leaves = {"all"}, leaves_of(params, core.decl, core.copies)
        decays_of(params, leaves, core.decay_mask, core.decl)
        for leaf in leaves:
            mine = [name for name, (group, _) in self.members.items() if group.takes(leaf)]
            if not mine:
                raise ValueError(f"{leaf.path}: no group takes this parameter (kind {leaf.kind})")
            taken[mine[0]].add(leaf.path)
            slots |= set(self.members[mine[0]][0].rule.slots(leaf))
        for name, paths in taken.items():
            if not paths:
                raise ValueError(f"group {name!r} takes no parameter: kinds {self.members[name][0].kinds}, "
                                 f"paths {self.members[name][0].paths!r}")  # fmt: skip
        if unknown := sorted(set(core.formats) - slots):
            raise ValueError(f"formats: no group has a slot {unknown[0]!r}; there are {', '.join(sorted(slots))}")
        return taken

    def _cores(self, params: Tree) -> dict[str, tuple[Core, set[str]]]:
        """The cores, with masks and scales cut to the group's leaves."""
        out = {}
        for name, paths in self.split(params).items():
            core = self.members[name][1]
            cut = lambda tree, paths=paths: tree if tree is None or callable(tree) else _only(tree, paths)
            mine = dict(decay_mask=cut(core.decay_mask), scales=cut(core.scales), part=True)
            out[name] = (dataclasses.replace(core, **mine), paths)
        return out

    def rows(self, params: Tree) -> list[Row]:
        return [row for core, paths in self._cores(params).values() for row in core.rows(_only(params, paths))]

    def init(self, params: Tree) -> dict[str, OptState]:
        return {name: core.init(_only(params, paths)) for name, (core, paths) in self._cores(params).items()}

    def update(self, grads: Tree, state: dict[str, OptState], params: Tree | None = None,
               **extra: Any) -> tuple[Tree, dict[str, OptState]]:  # fmt: skip
        if params is None:
            raise ValueError("grouped: update needs the parameters: update(grads, state, params)")
        new, found = {}, {}
        for name, (core, paths) in self._cores(params).items():
            delta, new[name] = core.update(_only(grads, paths), state[name], _only(params, paths), **extra)
            found |= {path_of(k): v for k, v in jax.tree.leaves_with_path(delta)}
        return jax.tree.map_with_path(lambda k, _: found[path_of(k)], params), new

    def specs(self, params: Tree, param_specs: Tree, mesh: Mapping[str, int], zero: tuple[str, ...]) -> dict:
        is_leaf = lambda v: isinstance(v, jax.sharding.PartitionSpec)
        out = {}
        for name, (core, paths) in self._cores(params).items():
            mine = jax.tree.map_with_path(
                lambda k, v, p=paths: v if path_of(k) in p else None, param_specs, is_leaf=is_leaf
            )
            own = _only(params, paths)
            out[name] = specs(jax.eval_shape(core.init, own), own, mine, mesh, zero)
        return out

    def eval_params(self, state: dict[str, OptState], params: Tree) -> Tree:
        found: dict[str, Array] = {}
        for name, (core, paths) in self._cores(params).items():
            point = core.eval_params(state[name], _only(params, paths))
            found |= {path_of(k): v for k, v in jax.tree.leaves_with_path(point)}
        return jax.tree.map_with_path(lambda k, _: found[path_of(k)], params)


def grouped(groups: Mapping[str, Group], learning_rate: Traced, **core: Any) -> Optimizer:
    """One optimizer of several rules; the first group that takes a leaf has it.

    core: options of `transform`, for all groups. clip_norm and skip_spikes look at the norm of a group; clip before
    for that of all. Raises ValueError, at the first `init`, for a group without parameters and for a parameter
    without a group, by its path.
    """
    members = {
        name: (g, transform(g.rule, _times(g.factor, learning_rate), **core | dict(weight_decay=g.weight_decay)).core)
        for name, g in groups.items()
    }
    return Optimizer.of(Groups(members))
