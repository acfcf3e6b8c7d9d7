"""Products in full float32, for what products are built on: inverses, normal equations, powers of matrices.

A TPU by default rounds the operands of a float32 product to bfloat16, a recent NVIDIA GPU to TF32. Where the outcome is
solved with or multiplied again, these errors grow.
"""

import functools

import jax
import jax.numpy as jnp

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
