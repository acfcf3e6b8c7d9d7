"""The one door between activations and weights: `linear`, `take`, `unembed`.

A weight is an array, or an operator that stands where an array stood (factored, quantised, masked, tapped): any object
with the methods `linear(x, c)`, `take_rows(ids)` and `unembed(x)`, of which it needs those that are called on it.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def linear(x: Array, w: Any, c: int = 1, out_dtype: Any = None) -> Array:
    """Contracts the last c axes of x with the first c axes of w.

    x [..., a1..ac], w [a1..ac, b1..bd] -> [..., b1..bd]. Products are accumulated in float32 by the backend;
    out_dtype=float32 keeps that for logits.

    >>> linear(jnp.ones((2, 3, 4)), jnp.ones((3, 4, 5)), c=2).shape
    (2, 5)
    """
    if hasattr(w, "linear"):
        return w.linear(x, c)
    over = (tuple(range(x.ndim - c, x.ndim)), tuple(range(c)))
    return jax.lax.dot_general(x, w, (over, ((), ())), preferred_element_type=out_dtype)


def take(table: Any, ids: Array) -> Array:
    """Rows of table [V, ...] at ids [...] -> [..., ...]. An id outside the table gives NaN, never another row."""
    if hasattr(table, "take_rows"):
        return table.take_rows(ids)
    return table.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def unembed(x: Array, table: Any, out_dtype: Any = None) -> Array:
    """x [..., D] against every row of table [V, D] -> [..., V]: the tied head."""
    if hasattr(table, "unembed"):
        return table.unembed(x)
    return jax.lax.dot_general(x, table, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=out_dtype)


def dense(w: Any, rows: int) -> Array:
    """The array [rows, ...] that a weight stands for, for the few contractions that `linear` cannot say: those over
    what a weight produces, head by head. An operator is asked for each of its rows.
    """
    return w.linear(jnp.eye(rows), 1) if hasattr(w, "linear") else w
