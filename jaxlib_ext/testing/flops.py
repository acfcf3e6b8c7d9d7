"""Counting the multiply-adds of contractions in a jaxpr, the number that declarations and `cost` must explain."""

import math
from collections.abc import Callable

import jax


def dot_flops(f: Callable, *args) -> float:
    """2 x multiply-adds of every contraction in f(*args) that depends on args; a scan's body counts once a turn.

    What depends on positions and masks alone (tables, not features) is left out.

    >>> import jax.numpy as jnp
    >>> dot_flops(lambda a, b: a @ b, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48.0
    >>> dot_flops(lambda a: a + jnp.eye(2) @ jnp.eye(2), jnp.ones((2, 2)))
    0.0
    """
    jaxpr = jax.make_jaxpr(f)(*args).jaxpr
    return _count(jaxpr, [True] * len(jaxpr.invars))[0]


def _count(jaxpr, given: list[bool]) -> tuple[float, list[bool]]:
    """FLOPs of a jaxpr whose inputs depend on the arguments where given, and which of its outputs do."""
    live = {v for v, g in zip(jaxpr.invars, given, strict=True) if g}
    depends = lambda v: not hasattr(v, "val") and v in live  # literals have a value
    total = 0.0
    for eqn in jaxpr.eqns:
        flags = [depends(v) for v in eqn.invars]
        if not any(flags):
            continue
        if eqn.primitive.name == "dot_general":
            total += _dot(eqn)
        flops, out = _inside(eqn, flags)
        total += flops
        live.update(v for v, o in zip(eqn.outvars, out, strict=True) if o)
    return total, [depends(v) for v in jaxpr.outvars]


def _dot(eqn) -> float:
    contracted = eqn.params["dimension_numbers"][0][0]
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)


def _inside(eqn, flags: list[bool]) -> tuple[float, list[bool]]:
    """FLOPs of the jaxprs that an equation calls, and which of its outputs depend on the arguments."""
    name, total, out = eqn.primitive.name, 0.0, [True] * len(eqn.outvars)
    inner = [getattr(j, "jaxpr", j) for v in eqn.params.values() for j in _jaxprs(v)]
    counts = []
    for jaxpr in inner:
        given = flags[-len(jaxpr.invars) :] if len(flags) >= len(jaxpr.invars) else [True] * len(jaxpr.invars)
        if name == "scan":  # what a turn gives to the next one may depend on what did not at first
            rank = lambda variables: [len(v.aval.shape) for v in variables]
            n = sum(a == b for a, b in zip(rank(eqn.outvars), rank(jaxpr.outvars), strict=True))  # rows have one more
            whole = sum(a == b for a, b in zip(rank(eqn.invars), rank(jaxpr.invars), strict=True))
            given[whole - n : whole] = [True] * n
        flops, found = _count(jaxpr, given)
        counts.append(flops)
        out = found if len(inner) == 1 and len(found) == len(out) else out
    if counts:
        turns = eqn.params.get("length", 1) if name == "scan" else 1
        total = turns * (max(counts) if name == "cond" else sum(counts))
    return total, out


def _jaxprs(value) -> list:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [v for v in values if hasattr(v, "eqns") or hasattr(getattr(v, "jaxpr", None), "eqns")]
