"""What a fit minimises: sums over runs, never means, of a function of the residual.

The residual is log y - log prediction (space="log") or y - prediction (space="raw"), and w are the runs'
weights.

huber(delta)    sum w * (r^2 / 2 if |r| <= delta else delta (|r| - delta / 2))
lad()           sum w * |r|
lsq()           sum w * r^2
learned(delta)  negative log likelihood of the Huber density in r / sigma, with sigma fitted too

Inside the solver the robust three are divided by their width, so that stopping does not depend on it, and are
reached from wide to narrow (`stages`): a narrow Huber loss is almost not differentiable and holds most starts
where they are.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

WIDE = 0.1  # where the continuation begins, in log units or in parts of the median |y|


@dataclasses.dataclass(frozen=True)
class Loss:
    """Made by `huber`, `lad`, `lsq` and `learned`."""

    kind: str
    delta: float
    space: str = "log"

    def __post_init__(self):
        if self.space not in ("log", "raw"):
            raise ValueError(f'the residual is in space "log" or "raw", not {self.space!r}')
        if not self.delta > 0:
            raise ValueError(f"the Huber width delta must be positive, not {self.delta}")

    @property
    def extra(self) -> int:
        """Number of fitted parameters beside the law's: the log of the scale, for `learned`."""
        return int(self.kind == "learned")

    def program(self) -> "Loss":
        """What the solver must know before it sees a width: losses that are equal here share one program."""
        return Loss("lsq" if self.kind == "lsq" else "learned" if self.extra else "huber", 1.0, self.space)

    def stages(self, y: np.ndarray, warm: bool = False) -> tuple[float, ...]:
        """Widths from wide to narrow. warm: the start is known to be near, so three stages are enough."""
        if self.kind == "lsq":
            return (1.0,)
        if self.kind == "learned":
            wide, end = 1.0, self.delta
        else:
            scale = 1.0 if self.space == "log" else float(np.median(np.abs(y)))
            end = self.delta if self.kind == "huber" else 1e-9 * scale
            wide = WIDE * scale
        if end >= wide:
            return (end,)
        if warm and self.kind == "huber":
            return tuple(end * k for k in (10.0, 3.0, 1.0))
        steps = max(1, math.ceil(math.log10(wide / end) - 1e-9))
        return tuple(wide * (end / wide) ** (i / steps) for i in range(steps + 1))

    def value(self, r, w, width, extra):
        """What the solver minimises at this width. r, w [n]; extra [0] or [1]."""
        if self.kind == "lsq":
            return jnp.sum(w * r * r)
        if self.kind == "learned":
            return jnp.sum(w * (width * _huber(r * jnp.exp(-extra[0]), width) + extra[0]))
        return jnp.sum(w * _huber(r, width))

    def curvature(self, r, width, extra):
        """Weights of the quadratic that touches the loss from above: iteratively reweighted least squares.
        [n]"""
        if self.kind == "lsq":
            return jnp.full_like(r, 2.0)
        if self.kind == "learned":
            scale = jnp.exp(extra[0])
            return width / (scale * jnp.maximum(jnp.abs(r), width * scale))
        return 1 / jnp.maximum(jnp.abs(r), width)

    def extra_at(self, r, w, width):
        """The scale that the residuals suggest at this width, as a log. [0] or [1]"""
        if not self.extra:
            return jnp.zeros((0,), r.dtype)
        return jnp.log(width * jnp.sum(w * jnp.abs(r)) / jnp.sum(w) + 1e-300)[None]

    def report(self, value, total):
        """The solver's value -> the objective as written at the top of this file. total: sum of the
        weights."""
        if self.kind == "huber":
            return value * self.delta
        if self.kind == "learned":
            tail = math.erfc(self.delta / math.sqrt(2))
            norm = math.sqrt(2 * math.pi) * (1 - tail) + 2 * math.exp(-(self.delta**2) / 2) / self.delta
            return value + math.log(norm) * total
        return value

    def __str__(self):
        width = f"delta={self.delta:g}, " if self.kind in ("huber", "learned") else ""
        return f'{self.kind}({width}space="{self.space}")'


def _huber(r, width):
    """Huber's function divided by its width: |r| - width / 2 in the tails."""
    a = jnp.abs(r)
    return jnp.where(a <= width, a * a / (2 * width), a - width / 2)


def huber(delta: float | None = 1e-3, space: str = "log") -> Loss:
    """Huber loss of width delta, in units of the residual. delta=None is its limit, `lad`."""
    return lad(space) if delta is None else Loss("huber", float(delta), space)


def lad(space: str = "log") -> Loss:
    """Least absolute deviation."""
    return Loss("lad", 1.0, space)


def lsq(space: str = "log") -> Loss:
    """Least squares."""
    return Loss("lsq", 1.0, space)


def learned(delta: float = 1e-3, space: str = "log") -> Loss:
    """Huber likelihood with a fitted scale: delta counts in units of it, so a small delta is almost `lad`."""
    return Loss("learned", float(delta), space)
