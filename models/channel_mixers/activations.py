"""Activations that channel mixers name in their options."""

import jax
import jax.numpy as jnp

Array = jax.Array


def relu2(x: Array) -> Array:
    """max(x, 0)^2 (So et al. 2021, arXiv 2109.08668)."""
    return jnp.square(jax.nn.relu(x))


ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "relu2": relu2,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}


def known(name: str) -> None:
    """Raises a ValueError for a name that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known are {', '.join(ACTIVATIONS)}")
