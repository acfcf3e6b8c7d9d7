"""param_scaling: standard, NTK, muP and mean-field parametrisations with a learning rate for every layer.

    W = n^-a w,  w ~ N(0, n^-2b),  learning rate n^-c;  n: width over the base's;  p: 1 for full alignment, 1/2 for none
    (a, b)   standard (0, 0) (0, 1/2) (0, 1/2)          embedding, hidden, readout
             ntk (0, 0) (1/2, 0) (1/2, 0)     mup (-1/2, 1/2) (0, 1/2) (1/2, 1/2)     mean_field (0, 0) (1/2, 0) (1, 0)
    -c       adam       a,      a - p,      a - p       so that every layer alone changes what it makes by a constant:
             sgd        2a + r, 2a + r - p, 2a - p      n^-a times the step times n^p = 1, with steps of size 1,
             adafactor  a + b,  a + b - p,  a + b - p   of the gradient, or of the parameter
    eps      n^(-a - r),  n^(-a - r),  n^-a             the size of the gradient; r = a + b of the readout

source: Everett et al. 2024, arXiv 2407.05872; abc-parametrisations: Yang and Hu 2021, arXiv 2011.14522, theorem 3.3
departs: Adam's row is the paper's; those of sgd and adafactor are derived, and held by a test that measures them.
    Widths are relative to a base, at which all four are the model as it is declared
catalogue: mup_abc, param_scaling_adam_atan2
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ... import param
from .roles import ROLES, Growth, step_of, trained

Tree = Any
ABC = {  # name: (a, b) of embedding, hidden, readout
    "standard": ((0.0, 0.0), (0.0, 0.5), (0.0, 0.5)),
    "ntk": ((0.0, 0.0), (0.5, 0.0), (0.5, 0.0)),
    "mup": ((-0.5, 0.5), (0.0, 0.5), (0.5, 0.5)),
    "mean_field": ((0.0, 0.0), (0.5, 0.0), (1.0, 0.0)),
}


class Exponents(NamedTuple):
    """Of the width n in one layer: multiplier n^-a, start n^-b, learning rate n^-c, eps n^-e."""

    a: float
    b: float
    c: float
    e: float


def exponents(name: str, optimizer: str, alignment: float = 1.0) -> dict[str, Exponents]:
    """For each of `roles.ROLES`; a bottleneck has the a and b of hidden layers and gradients as the readout has them.

    alignment: 1 full, 1/2 none, or anything between.

    >>> exponents("mup", "adam")["hidden"]
    Exponents(a=0.0, b=0.5, c=1.0, e=1.0)
    """
    if name not in ABC:
        raise ValueError(f"unknown parameterisation {name!r}; known are {', '.join(ABC)}")
    if not 0.5 <= alignment <= 1:
        raise ValueError(f"alignment is between 1/2 (none) and 1 (full), not {alignment}")
    step, back = step_of(optimizer), sum(ABC[name][2])
    embedding, hidden, readout = ABC[name]
    found = {}
    for role, (a, b) in zip(ROLES, (embedding, hidden, hidden, readout), strict=True):
        gradient = -a - (back if role in ("embedding", "hidden") else 0.0)
        size = {"sgd": gradient, "adam": 0.0, "adafactor": -b}[step]
        c = -a + size + (0.0 if role == "embedding" else alignment)
        found[role] = Exponents(a, b, c, -gradient)
    return found


def param_scaling(decl: Tree, base: Tree, name: str, optimizer: str, *, alignment: float = 1.0) -> Tree:
    """`param.Scale`s of a parametrisation of ABC. Those with a multiplier need `param.multiplied` where the model is
    applied, or `absorbed`, which trains alike without.

    decl, base, optimizer: as for `mup`. alignment: how far steps and activations are aligned, 1 or 1/2. The paper
    recommends "standard" with full alignment for Adam and none for Adafactor.

    >>> from jaxlib_ext import param, scaling
    >>> decl = lambda n: dict(up=param.matrix(dict(embed=n), dict(ff=4 * n)))
    >>> scaling.param_scaling(decl(256), decl(64), "standard", "adamw")["up"].lr
    0.25
    """
    table = exponents(name, optimizer, alignment)

    def scale(path, p, g: Growth):
        a, b, c, e = table[g.role]
        n = g.fan_out if g.role == "embedding" else g.fan_in
        return param.Scale(init=n**-b / g.start, forward=n**-a, lr=n**-c, eps=n**-e)

    return trained(scale, decl, base)


def moved(scale: param.Scale, optimizer: str, forward: float = 1.0) -> param.Scale:
    """Another Scale that trains alike and has the multiplier `forward`; with w' = w / f, start, rate and eps follow.

    Exact for steps proportional to the gradient (rate / f^2), of size 1 (rate / f, eps f) and of the parameter's size.
    """
    step, f = step_of(optimizer), forward / scale.forward
    rate = {"sgd": f**-2, "adam": 1 / f, "adafactor": 1.0}[step]
    return param.Scale(scale.init / f, forward, scale.lr * rate, scale.decay, scale.eps * f)


def absorbed(scales: Tree, optimizer: str) -> Tree:
    """The scales without multipliers that train alike: for any model, and for a step that applies none."""
    return jax.tree.map(lambda s: moved(s, optimizer), scales)


def feature_exponent(a: Sequence[float], b: Sequence[float], c: float) -> float:
    """r of an abc-parametrisation under SGD, layers in order, the readout last: features of width n change by n^-r.

    0: features are learned. Positive: they are not, the network is a kernel machine. Negative: it is unstable. For
    parametrisations that are stable and not trivial at all.

    >>> feature_exponent((-0.5, 0, 0, 0.5), (0.5, 0.5, 0.5, 0.5), 0), feature_exponent((0, 0.5, 0.5), (0, 0, 0), 0)
    (0.0, 0.5)
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"an exponent of each of at least 2 layers: {len(a)} of a, {len(b)} of b")
    inner = min(2 * v + (layer == 0) for layer, v in enumerate(a[:-1]))
    return min(a[-1] + b[-1], 2 * a[-1] + c) + c - 1 + inner
