"""What hyena and laughing_hyena share: projections behind a short convolution, and gates around long filters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Seq, along
from ...kernels.linear import linear
from ._parts import convolve

Array = jax.Array
Tree = dict


def projections(width: int, order: int, conv: int) -> Tree:
    """Declaration of v, x^1 .. x^order with their taps, and of the way out."""
    stream, made = dict(embed=width), dict(gate=order + 1, inner=width)
    return dict(
        into=param.matrix(stream, made), conv=param.conv(dict(conv=conv), copies=made), conv_bias=param.bias(**made),
        out=param.matrix(dict(inner=width), stream),
    )  # fmt: skip


def taps_held(width: int, order: int, conv: int, batch: int) -> param.Param:
    """Declaration of the short convolution's state."""
    return param.state(dict(batch=batch), dict(conv=conv - 1, gate=order + 1, inner=width))


def projected(run: Callable, params: Tree, x: Array, held: Array, seq: Seq) -> tuple[Array, Array]:
    """v, x^1 .. of x [..., D] as [..., order + 1, D] and the new held; run is short_conv or short_conv_step."""
    u, held = convolve(run, linear(x, params["into"]), params["conv"], held, seq)
    return u + along(params["conv_bias"], u), held


def gated(params: Tree, u: Array, mask: Array, filtered: Callable[[int, Array], Array]) -> Array:
    """z = v; z = x^n filtered(n, z) for every n; W_o z. What is filtered is float32 [..., D], zero where masked."""
    z = u[..., 0, :]
    for n in range(u.shape[-2] - 1):
        past = jnp.where(mask[..., None], z, 0).astype(jnp.float32)
        z = u[..., n + 1, :] * filtered(n, past).astype(u.dtype)
    return linear(z, params["out"])
