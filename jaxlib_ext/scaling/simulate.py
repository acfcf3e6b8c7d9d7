"""Runs from a known law, to try a design or a method on before paying for it."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .data import Data
from .law import Law, named, predict
from .laws import LAWS


def simulate(
    law: Law | str,
    theta: Mapping[str, float],
    x: Mapping[str, Any],
    noise: float = 0.01,
    key: jax.Array | None = None,
    tails: float | None = None,
    space: str = "log",
) -> Data:
    """y = law(x) exp(noise e), or law(x) + noise e in space "raw", with e of variance 1.

    x: name -> [n]. noise: standard deviation. tails: degrees of freedom of Student's t, above 2; None is
    normal.

    >>> d = simulate("power", dict(A=10.0, alpha=0.1), dict(N=[1e6, 1e7, 1e8]), noise=0)
    >>> d.y.round(4).tolist()
    [2.5119, 1.9953, 1.5849]
    """
    if space not in ("log", "raw"):
        raise ValueError(f'noise is in space "log" or "raw", not {space!r}')
    if tails is not None and not tails > 2:
        raise ValueError(f"tails with {tails:g} degrees of freedom have no variance; above 2, or None")
    law = named(law, LAWS) if isinstance(law, str) else law
    seed = np.asarray(jax.random.key_data(jax.random.key(0) if key is None else key)).ravel().tolist()
    rng = np.random.default_rng(seed)
    y = predict(law, theta, x)
    e = rng.standard_normal(y.shape) if tails is None else rng.standard_t(tails, y.shape) * np.sqrt((tails - 2) / tails)
    return Data(dict(x), y * np.exp(noise * e) if space == "log" else y + noise * e, note="simulated")
