"""Assertions about a compiled step, for a test of one's own. Each raises AssertionError with everything that is wrong.

report = targets.compile(step.jitted, step.abstract, batch, target="v5e:4x4", options=targets.COUNTABLE)
verify.collectives(report, {"all-gather": 10 * L + 3, "reduce-scatter": 5 * L + 2, "all-reduce": 6 * L + 5})
verify.donated(report, "0/")
verify.sharded(report, "0/params", decl, mesh)
verify.replicated(report, above=2**20)
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from .. import param
from ..sharding import RULES, sizes
from .report import Report, spec_text

Tree = Any


class Law(NamedTuple):
    """count = slope x layers + intercept."""

    slope: float
    intercept: float

    def __str__(self) -> str:
        return f"{self.slope:g}L{self.intercept:+g}"


def law(counts: Mapping[int, float]) -> Law:
    """The straight line through counts at several numbers of layers.

    >>> str(law({4: 43, 8: 83, 16: 163}))
    '10L+3'

    Raises AssertionError if they do not lie on one.
    """
    (a, low), *rest = sorted(counts.items())
    if len(rest) < 2:
        raise AssertionError(f"a law needs counts at three depths at least, not {len(counts)}")
    slope = (rest[-1][1] - low) / (rest[-1][0] - a)
    found = Law(slope, low - slope * a)
    if any(n != found.slope * at + found.intercept for at, n in rest):
        raise AssertionError(f"not linear in the layers: {dict(sorted(counts.items()))}")
    return found


def collectives(report: Report, expected: Mapping[str, float], *axes: str) -> None:
    """Exactly these counts a step, kind by kind; a kind that is not named must not occur. axes: only along exactly
    these. Collectives of less than 4 KiB are left out."""
    rows = [c for c in report.collectives if not c.small and axes in ((), c.axes)]
    found = {
        kind: sum(c.times for c in rows if c.kind == kind) for kind in sorted({*expected, *(c.kind for c in rows)})
    }
    wrong = [f"{k}: {expected.get(k, 0):g} expected, {n:g} found" for k, n in found.items() if n != expected.get(k, 0)]
    _raise(wrong, f"collectives on {report.target} by {report.compiler}")


def donated(report: Report, prefix: str = "") -> None:
    """Every argument whose path begins so gives its memory to a result."""
    _raise([a.path for a in report.arguments if a.path.startswith(prefix) and not a.donated], "not donated")


def sharded(report: Report, prefix: str, decl: Tree, mesh: jax.sharding.Mesh, rules: Mapping = RULES) -> None:
    """Every parameter under the prefix lies as the rules say, and so does every other argument (optimizer slots,
    averages) whose path ends like a parameter's and that has its shape."""
    rows = zip(jax.tree.leaves(param.paths(decl)), param.leaves(decl), _specs(decl, mesh, rules), strict=True)
    wanted = {path: (p.shape, spec_text(spec)) for path, p, spec in rows}
    wrong, seen = [], set()
    for a in report.arguments:
        path = next((w for w, (shape, _) in wanted.items() if a.path.endswith("/" + w) and a.shape == shape), None)
        if path is None:
            continue
        seen |= {path} if a.path == f"{prefix.rstrip('/')}/{path}" else set()
        if a.spec != wanted[path][1]:
            wrong.append(f"{a.path}: {wanted[path][1] or 'replicated'} expected, {a.spec or 'replicated'} found")
    wrong += [f"{prefix.rstrip('/')}/{path}: missing" for path in wanted if path not in seen]
    _raise(wrong, "shardings")


def _specs(decl: Tree, mesh: Any, rules: Mapping) -> list[PartitionSpec]:
    return jax.tree.leaves(param.specs(decl, rules, sizes(mesh)), is_leaf=lambda s: isinstance(s, PartitionSpec))


def replicated(report: Report, above: int, prefix: str = "") -> None:
    """No argument of more than so many bytes is whole on every device."""
    wrong = [
        f"{a.path} {a.shape}: {a.nbytes:,} bytes on each of {report.devices} devices"
        for a in report.arguments
        if a.path.startswith(prefix) and not a.spec and a.nbytes > above
    ]
    _raise(wrong, f"replicated above {above:,} bytes")


def declared_bytes(decl: Tree, mesh: Any, rules: Mapping = RULES, trained: bool = False) -> int:
    """Bytes per device of the declaration under the rules, by its own arithmetic; trained: of what is trained."""
    there, total = sizes(mesh), 0
    for p, spec in zip(param.leaves(decl), _specs(decl, mesh, rules), strict=True):
        axes = [axis for entry in spec for axis in ((entry,) if isinstance(entry, str) else entry or ())]
        ways = math.prod(there[axis] for axis in axes)
        if p.trained or not trained:
            total += p.size // ways * jax.numpy.dtype(p.dtype).itemsize
    return total


def _raise(wrong: list[str], what: str) -> None:
    if wrong:
        raise AssertionError("\n  ".join([f"{what}: {len(wrong)} wrong", *wrong]))
