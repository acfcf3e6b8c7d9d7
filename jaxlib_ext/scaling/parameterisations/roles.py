"""What tables of scales are made of: by which factor each side of a parameter grew over a base, and how an optimizer
steps.

Width is whatever differs between the declarations of the model and of its base, so a base equal to the model makes
every factor 1. Nothing here knows a model: roles, kinds and sizes are in the declaration.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ... import param

Tree = Any
SCORED = ("head_dim", "key")  # axes that a score sums over
VECTORS = ("gain", "bias", "decay", "conv", "embed", "table")  # nothing that grows is summed over

# How the size of a step answers to the gradient and to the parameter, and the rules of `optim` that step so.
STEPS = {
    "sgd": ("sgd",),  # proportional to the gradient
    "adam": (  # of size 1, whatever the gradient's
        "adam", "adam_atan2", "adam_cm", "adamax", "adamp", "adamw", "adan", "ademamix", "adopt", "lion", "mt_adamw",
        "schedule_free_adamw", "signum", "sophia_g",
    ),
    "adafactor": ("adafactor", "lamb", "lars", "tiger"),  # of the parameter's root mean square
}  # fmt: skip


ROLES = {
    "embedding": "nothing that grows is summed over: tables, vectors, matrices of what does not grow",
    "hidden": "from what grows to what grows",
    "bottleneck": "from what grows to what does not, inside a layer: ranks, states",
    "readout": "the head",
}


class Growth(NamedTuple):
    """Of one parameter over its base, each 1 where nothing grew."""

    fan_in: float  # of what a product sums over
    fan_out: float  # of what it makes, independent copies within a layer included
    depth: float  # of the copies over depth
    start: float  # of the declared initial standard deviation
    role: str  # one of ROLES


def step_of(optimizer: str) -> str:
    """One of STEPS for a rule of `optim.RULES`. A combinator steps as its inner rule does: name that."""
    for step, names in STEPS.items():
        if optimizer in names:
            return step
    known = ", ".join(name for names in STEPS.values() for name in names)
    raise ValueError(f"no table for the optimizer {optimizer!r}: name one that steps as it does, of {known}")


def _grown(path: str, now: tuple, base: tuple) -> float:
    if [name for name, _ in now] != [name for name, _ in base]:
        raise ValueError(f"{path}: axes {[n for n, _ in now]} here, {[n for n, _ in base]} in the base")
    return math.prod(n for _, n in now) / math.prod(n for _, n in base)


def _start(p: param.Param, q: param.Param, fan_in: float) -> float:
    if p.init == "fan_in" or (callable(p.init) and p.kind in ("matrix", "head")):  # a function: taken to follow fan_in
        return fan_in**-0.5
    numbers = [v.init for v in (p, q) if isinstance(v.init, (int, float)) and v.init]
    return numbers[0] / numbers[1] if len(numbers) == 2 else 1.0


def growth(path: str, p: param.Param, q: param.Param) -> Growth:
    """Of p over its base q. Raises ValueError for another kind or other axes."""
    if p.kind != q.kind:
        raise ValueError(f"{path}: a {p.kind} here, a {q.kind} in the base")
    _grown(path, p.copies, q.copies)
    over = lambda v, keep: tuple(axis for axis in v.copies if keep(axis[0]))
    depth, inside = (
        _grown(path, over(p, keep), over(q, keep))
        for keep in (lambda a: a == "layers", lambda a: a not in ("layers", "expert"))
    )
    if "layers" not in p.axes and p.uses and q.uses:  # one copy that serves every depth
        depth = p.uses / q.uses
    fan_in, out = _grown(path, p.contracts, q.contracts), _grown(path, p.produces, q.produces)
    if p.kind == "head":
        out = 1.0  # every token id is an output of its own, however many there are
    out = out * inside
    vector = p.kind in VECTORS or fan_in == 1
    role = "embedding" if vector else "readout" if p.kind == "head" else "hidden" if out != 1 else "bottleneck"
    return Growth(1.0 if vector else fan_in, out, depth, _start(p, q, fan_in), role)


def trained(f: Callable[[str, param.Param, Growth], param.Scale], decl: Tree, base: Tree) -> Tree:
    """f(path, Param, Growth) over all that an optimizer sees, None for the rest."""
    here, there = (set(jax.tree.leaves(param.paths(tree))) for tree in (decl, base))
    if odd := sorted(here ^ there):
        raise ValueError(f"{odd[0]}: only the {'model' if odd[0] in here else 'base'} has this parameter")
    return param.fold(lambda path, p, q: f(path, p, growth(path, p, q)) if p.trained else None, decl, base)
