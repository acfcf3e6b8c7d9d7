"""Sequential over tokens; the backward pass walks back through chunks whose states it makes again.

A token is so little work that what surrounds it decides: rows are read and written where they lie, in [B, T, ...],
since a scan over rows copies every array into an order of its own first. Several tokens at once, as an associative
scan or side by side in blocks, are slower on a CPU. The derivative is written out, and keeps one state a chunk.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
CHUNK = 128


def _at(v: Array, t: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(v, t, 1, keepdims=False)


def _put(v: Array, row: Array, t: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(v, row, t, 1)


def _keep(start: Array, v: Array, t: Array) -> Array:
    """v [B, ...], zeros in rows where start says so at t."""
    return jnp.where(_at(start, t).reshape((-1,) + (1,) * (v.ndim - 1)), 0.0, v)


def _token(a: Array, x: Array, start: Array, h: Array, t: Array) -> Array:
    return _keep(start, _at(a, t), t) * h + _at(x, t)


@jax.custom_vjp
def _scan(a: Array, x: Array, h: Array, start: Array) -> tuple[Array, Array]:
    """[B, T, ...] with T a multiple of the chunk -> every h, last h."""
    return _kept(a, x, h, start)[0]


def _chunks(t: int) -> tuple[Array, Array]:
    """The first token of every chunk, and the tokens of a chunk."""
    size = min(CHUNK, t)
    return size * jnp.arange(t // size), jnp.arange(size)


def _kept(a: Array, x: Array, h: Array, start: Array) -> tuple[tuple[Array, Array], tuple]:
    firsts, tokens = _chunks(a.shape[1])

    def chunk(carry, first):
        def token(carry, j):
            h, y = carry
            h = _token(a, x, start, h, first + j)
            return (h, _put(y, h, first + j)), None

        return jax.lax.scan(token, carry, tokens)[0], carry[0]

    (last, y), before = jax.lax.scan(chunk, (h, jnp.zeros_like(x)), firsts)
    return (y, last), (a, x, start, before)


def _pulled(kept: tuple, d: tuple[Array, Array]) -> tuple:
    (a, x, start, before), (dy, dh) = kept, d
    firsts, tokens = _chunks(a.shape[1])

    def chunk(carry, row):
        first, h = row

        def again(h, j):
            return _token(a, x, start, h, first + j), h

        def back(carry, row):  # dh: gradient of the state after the token
            (dh, da, dx), (j, h) = carry, row
            t = first + j
            dh = dh + _at(dy, t)
            through = _keep(start, dh, t)
            return (_at(a, t) * through, _put(da, through * h, t), _put(dx, dh, t)), None

        _, states = jax.lax.scan(again, h, tokens)
        return jax.lax.scan(back, carry, (tokens, states), reverse=True)[0], None

    empty = jnp.zeros_like(x)
    (dh, da, dx), _ = jax.lax.scan(chunk, (dh, empty, empty), (firsts, before), reverse=True)
    return da, dx, dh, None


_scan.defvjp(_kept, _pulled)


def chunked(a: Array, x: Array, h: Array, start: Array) -> tuple[Array, Array]:
    a, x, h = (v.astype(jnp.float32) for v in (a, x, h))
    t = x.shape[1]
    more = -t % min(CHUNK, t)
    pad = lambda v, value: jnp.pad(v, ((0, 0), (0, more)) + ((0, 0),) * (v.ndim - 2), constant_values=value)
    if more:  # tokens that change nothing
        a, x, start = pad(a, 1.0), pad(x, 0.0), pad(start, False)
    done: Any = _scan(a, x, h, start)
    y, h = done
    return y[:, :t], h
