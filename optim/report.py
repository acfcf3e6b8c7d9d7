"""What an optimizer does with each parameter and what it holds, in words and bytes, before anything is allocated."""

import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp

from .rule import Tree
from .transform import Optimizer


def held(state: Any) -> int:
    """Bytes of a state's arrays, or of their abstract form."""
    return sum(math.prod(v.shape) * jnp.dtype(v.dtype).itemsize for v in jax.tree.leaves(state))


def slot_bytes(tx: Optimizer, params: Tree) -> dict[str, float]:
    """Slot -> bytes a parameter; "all" is the whole state, counters and hyperparameters included."""
    size = sum(math.prod(p.shape) for p in jax.tree.leaves(params))
    state = tx.abstract(params)
    found: dict[str, float] = {}
    for part in state.values() if isinstance(state, dict) else (state,):
        for name, slot in part.slots.items():
            found[name] = found.get(name, 0) + held(slot) / size
    return found | {"all": held(state) / size}


def report(tx: Optimizer, params: Tree) -> str:
    """A line for every kind of leaf and every slot.

    >>> from jaxlib_ext import optim
    >>> params = {"b": jnp.zeros(4), "w": jnp.zeros((4, 4))}
    >>> print(report(optim.lion(1e-3, decay_mask={"w": True, "b": False}), params))
    1 matrix: decayed
    1 vector: not decayed
    m: 4.00 bytes a parameter (f32)
    state: 5.20 bytes a parameter
    """
    rows = tx.core.rows(params)
    kinds = Counter((row.leaf.kind, row.decays) for row in rows)
    lines = [f"{n} {kind}: {'decayed' if decays else 'not decayed'}" for (kind, decays), n in sorted(kinds.items())]
    found = slot_bytes(tx, params)
    for name, each in found.items():
        if name != "all":
            formats = sorted({row.slots[name][1].name for row in rows if name in row.slots})
            lines.append(f"{name}: {each:.2f} bytes a parameter ({', '.join(formats)})")
    return "\n".join([*lines, f"state: {found['all']:.2f} bytes a parameter"])
