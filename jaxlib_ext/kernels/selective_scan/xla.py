"""Sequential over tokens; the backward pass walks back through chunks whose states it makes again.

On a CPU this beats an associative scan of the [C, N] states by far in time and memory. The derivative is written out:
left to jax, a scan keeps half a dozen [B, C, N] arrays of every token, and takes three times as long.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from ..decay import grow

Array = jax.Array
CHUNK = 128
WAYS = 16  # groups of channels that add up db apart: over n devices, n dividing gcd(channels, 16), no token sends it
Tokens = tuple[Array, Array, Array, Array, Array]  # x, dt [T, B, C], b, c [T, B, N], start [T, B], or one token's


def token(h: Array, x: Array, dt: Array, a: Array, b: Array, c: Array, *, rule: str) -> tuple[Array, Array]:
    """One token: h [B, C, N], x, dt [B, C], a [C, N], b, c [B, N] -> new h, y [B, C]."""
    a, bx = a[None], b[:, None, :] * x[:, :, None]
    grown = grow(dt[:, :, None] * a)
    h = h + (grown * (h + bx / a) if rule == "zoh" else grown * h + dt[:, :, None] * bx)
    return h, jnp.einsum("bcn,bn->bc", h, c)


def _reset(h: Array, start: Array) -> Array:
    return jnp.where(start[:, None, None], 0.0, h)


def _forward(rule: str, a: Array, h: Array, tokens: Tokens) -> tuple[Array, tuple[Array, Array]]:
    """One chunk: h before it -> h after it, (y [chunk, B, C], h)."""

    def body(h, row):
        x, dt, b, c, start = row
        return token(_reset(h, start), x, dt, a, b, c, rule=rule)

    last, y = jax.lax.scan(body, h, tokens)
    return last, (y, h)


def _back(rule: str, a: Array, later: tuple[Array, Array], row: tuple) -> tuple[tuple[Array, Array], tuple]:
    """One token backwards: gradients of the state after it and of a so far -> before it, and of x, dt, b,
    the last in groups of channels [B, G, N].

    Written for few passes over [B, C, N]: XLA on CPU makes each result in a loop of its own, and a product with ones is
    a faster sum over the last axis than a reduction.
    """
    dh, da = later
    (x, dt, b, c, start), dy, h = row
    h, bx, dt = _reset(h, start), b[:, None, :] * x[:, :, None], dt[:, :, None]
    grown, over = grow(dt * a[None]), 1 / a[None]
    dh = dh + dy[:, :, None] * c[:, None, :]
    zoh = rule == "zoh"
    into = dh * (grown * over if zoh else dt)
    grouped = lambda v: v.reshape(v.shape[0], math.gcd(v.shape[1], WAYS), -1, *v.shape[2:])
    dx, db = jnp.einsum("bcn,bn->bc", into, b), jnp.einsum("bgcn,bgc->bgn", grouped(into), grouped(x))
    # of dt a; with zoh the input term is grown / a, which depends on a once more, and otherwise on dt
    rate = dh * (h + bx * over if zoh else h) * (1 + grown)
    ddt = rate * a[None] if zoh else rate * a[None] + dh * bx
    da = da + (rate * dt - into * bx * over if zoh else rate * dt)
    return (_reset(dh + grown * dh, start), da), (dx, jnp.einsum("bcn,n->bc", ddt, jnp.ones(ddt.shape[-1])), db)


def _backward(rule: str, a: Array, later: tuple[Array, Array], chunk: tuple) -> tuple[tuple[Array, Array], tuple]:
    """One chunk backwards, from the state before it."""
    tokens, dy, h = chunk

    def again(h, row):
        x, dt, b, c, start = row
        return token(_reset(h, start), x, dt, a, b, c, rule=rule)[0], h

    last, states = jax.lax.scan(again, h, tokens)
    later, (dx, ddt, db) = jax.lax.scan(functools.partial(_back, rule, a), later, (tokens, dy, states), reverse=True)
    # dc_t = dy_t . h_t, where the state after a token is the one kept for the next
    dc = jnp.einsum("tbc,tbcn->tbn", jnp.roll(dy, 1, 0), states)[1:]
    dc = jnp.concatenate([dc, jnp.einsum("bc,bcn->bn", dy[-1], last)[None]])
    return later, (dx, ddt, jnp.sum(db, 2), dc)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(rule: str, a: Array, h: Array, tokens: Tokens) -> tuple[Array, Array]:
    """tokens in chunks [n, chunk, B, ...] -> y [n, chunk, B, C], last h."""
    return _kept(rule, a, h, tokens)[0]


def _kept(rule: str, a: Array, h: Array, tokens: Tokens) -> tuple[tuple[Array, Array], tuple]:
    last, (y, before) = jax.lax.scan(functools.partial(_forward, rule, a), h, tokens)
    return (y, last), (a, before, tokens)


def _pulled(rule: str, kept: tuple, d: tuple[Array, Array]) -> tuple:
    (a, before, tokens), (dy, dh) = kept, d
    body = functools.partial(_backward, rule, a)
    (dh, da), grads = jax.lax.scan(body, (dh, jnp.zeros_like(dh)), (tokens, dy, before), reverse=True)
    return jnp.sum(da, 0), dh, (*grads, None)


_scan.defvjp(_kept, _pulled)


def chunked(
    x: Array, dt: Array, a: Array, b: Array, c: Array, h: Array, start: Array, *, rule: str
) -> tuple[Array, Array]:
    t = x.shape[1]
    chunk = min(CHUNK, t)
    n = -(-t // chunk)

    def cut(v):  # [B, T, ...] -> [n, chunk, B, ...]; added tokens have dt = 0 and change nothing
        v = jnp.pad(v, ((0, 0), (0, n * chunk - t)) + ((0, 0),) * (v.ndim - 2))
        return jnp.moveaxis(v, 1, 0).reshape(n, chunk, v.shape[0], *v.shape[2:])

    done: Any = _scan(rule, a, h, (cut(x), cut(dt), cut(b), cut(c), cut(start)))
    y, h = done
    return jnp.moveaxis(y.reshape(n * chunk, *y.shape[2:]), 0, 1)[:, :t], h
