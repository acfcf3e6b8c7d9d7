"""Counting the multiply-adds of contractions in a jaxpr, the number that declarations and `cost` must explain."""

import math
from collections.abc import Callable

import jax


def dot_flops(f: Callable, *args) -> float:
    """2 x multiply-adds of every contraction that f(*args) runs; a scan's body counts once a turn.

    >>> import jax.numpy as jnp
    >>> dot_flops(lambda a, b: a @ b, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48.0
    """
    return _count(jax.make_jaxpr(f)(*args).jaxpr)


def _count(jaxpr) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(
                eqn.invars[0].aval.shape[i] for i in contracted
            )  # fmt: skip
        inner = [_count(getattr(j, "jaxpr", j)) for v in eqn.params.values() for j in _jaxprs(v)]
        if inner:
            turns = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            total += turns * (max(inner) if eqn.primitive.name == "cond" else sum(inner))
    return total


def _jaxprs(value) -> list:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [v for v in values if hasattr(v, "eqns") or hasattr(getattr(v, "jaxpr", None), "eqns")]
