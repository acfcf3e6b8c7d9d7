"""Products in full float32 on every device: by default a TPU rounds their factors to bfloat16, a recent NVIDIA GPU to
TF32.

For what is made once and used for many tokens (inverses, normal equations, powers of matrices, filters), and for states
that are multiplied by a matrix at every token. Products of tokens with each other and with a state take the default.
"""

import functools

import jax
import jax.numpy as jnp

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
