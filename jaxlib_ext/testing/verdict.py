"""What a check returns, and the error measure that all of them use."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import param

Array = jax.Array
Tree = Any
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float64": 1e-9}  # relative to the norm; never widened to pass


class Result(NamedTuple):
    """One promise: kept if error <= tolerance; tolerance 0 means exactly. detail names what was compared."""

    name: str
    error: float
    tolerance: float
    detail: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.tolerance)  # False for NaN

    def __str__(self) -> str:
        mark = "ok  " if self.ok else "FAIL"
        return f"{mark} {self.name}: {self.error:.2e} (at most {self.tolerance:.0e}) {self.detail}".rstrip()


def check(method: Any, results: list[Result]) -> None:
    """Raises an AssertionError that lists what failed."""
    failed = [str(r) for r in results if not r.ok]
    if failed:
        raise AssertionError("\n".join([f"{method} breaks {len(failed)} of {len(results)} promises:", *failed]))


def apart(a: Tree, b: Tree) -> Array:
    """Largest distance between leaves relative to the norm of b's leaf; NaN in one and not in the other is infinite.

    A leaf that is (nearly) zero against the largest one is measured against that one.
    """
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    if not pairs:
        return jnp.float32(0)
    f32 = lambda v: v.astype(jnp.float32)
    norms = [jnp.linalg.norm(f32(y).ravel()) for _, y in pairs]
    floor = 1e-3 * jnp.max(jnp.stack(norms)) + 1e-30
    worst = [
        jnp.linalg.norm(f32(x - y).ravel()) / jnp.maximum(n, floor) for (x, y), n in zip(pairs, norms, strict=True)
    ]
    return jnp.nan_to_num(jnp.max(jnp.stack(worst)), nan=jnp.inf, posinf=jnp.inf)


def draw(decl: Tree, key: Array) -> Tree:
    """Initial values, with noise on zeros, ones and gains that are all the same, so that a bias or a gate dropped or
    exchanged is seen."""

    def stir(path, p, v):
        if not jnp.issubdtype(p.dtype, jnp.floating):
            return v
        noise = jax.random.normal(jax.random.fold_in(key, zlib.crc32(path.encode())), v.shape, jnp.float32)
        named = isinstance(p.init, str) and p.init in ("zeros", "ones")
        return (v + 0.1 * noise * (jnp.min(v) == jnp.max(v) if p.kind == "gain" else named)).astype(v.dtype)

    return param.fold(stir, decl, param.init(decl, key))


def same_structure(a: Tree, b: Tree) -> str:
    """The first difference of two trees of arrays or ShapeDtypeStructs in structure, shape or dtype, "" if none."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return f"{jax.tree.structure(a)} is not {jax.tree.structure(b)}"
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            return f"{jax.tree_util.keystr(path)}: {x.dtype}{x.shape} is not {y.dtype}{y.shape}"
    return ""


def to_results(
    errors: dict[str, Any], tolerance: float, exact: tuple[str, ...] = (), notes: dict[str, str] | None = None
) -> list[Result]:
    """Results of a jitted bundle of errors; names in `exact` allow nothing, notes become details."""
    notes = notes or {}
    allowed = {k: 0.0 if k in exact else tolerance for k in errors}
    return [Result(k, float(np.asarray(v)), allowed[k], notes.get(k, "")) for k, v in errors.items()]
