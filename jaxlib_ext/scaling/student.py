"""Quantiles of Student's t and of the normal, from jax's incomplete beta function, so that scipy is not
needed."""

import jax
import jax.numpy as jnp
import numpy as np


def t_quantile(share: float, df: float) -> float:
    """The value that a t variable with df degrees of freedom stays below with probability `share`; df may be
    inf.

    >>> round(t_quantile(0.975, 11), 4), round(t_quantile(0.975, float("inf")), 4)
    (2.201, 1.96)
    """
    if not 0 < share < 1:
        raise ValueError(f"a probability lies between 0 and 1, not {share}")
    with jax.enable_x64(True):
        if np.isinf(df):
            return float(jax.scipy.special.ndtri(jnp.asarray(share, jnp.float64)))
        # In x = df / (df + t^2) the two tails together have probability I_x(df / 2, 1 / 2).
        low, high = 0.0, 1.0
        tails = 2 * min(share, 1 - share)
        for _ in range(80):
            middle = (low + high) / 2
            below = float(jax.scipy.special.betainc(df / 2, 0.5, jnp.asarray(middle, jnp.float64))) < tails
            low, high = (middle, high) if below else (low, middle)
    return float(np.sign(share - 0.5) * np.sqrt(df * (1 - high) / max(high, 1e-300)))
