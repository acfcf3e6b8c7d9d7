"""Products that others are built on ask for full float32, whatever a device takes by default."""

import re

import jax
import jax.numpy as jnp

from jaxlib_ext.kernels.mesa import mesa
from jaxlib_ext.kernels.triangular import inverse


def full(f, *args) -> list[bool]:
    """Of every product in the program of f: whether it asks for full float32."""
    program = str(jax.make_jaxpr(f)(*args))
    return ["Precision.HIGHEST" in text for text in re.findall(r"dot_general\[(.*?)\n\s*\]", program, re.S)]


def test_inverses_of_triangles_are_taken_in_full():
    gradient = jax.grad(lambda a: jnp.sum(inverse(a)))
    assert full(gradient, jnp.zeros((1, 32, 32))) == [True] * 10  # series of 8: 4, two halvings: 4, the gradient: 2


def test_sums_that_are_solved_with_are_taken_in_full():
    """k (k, v)^T, k R k^T, q p^T and their product with p; the three that give the output take the default."""
    k, v, start = jnp.ones((1, 64, 2, 8)), jnp.ones((1, 64, 2, 8)), jnp.zeros((1, 64), bool)
    run = lambda k: mesa(k, k, v, jnp.ones(2), jnp.zeros((1, 2, 8, 16)), start)
    assert full(run, k) == [True] * 4 + [False] * 3
