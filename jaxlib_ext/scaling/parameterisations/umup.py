"""u_mup: muP with weights of unit variance, the scale moved into multipliers; no base.

    matrix     start 1, multiplier fan_in^-1/2, Adam's rate x fan_in^-1/2
    readout    start 1, multiplier fan_in^-1,   Adam's rate x 1
    embedding  start 1, multiplier 1,           Adam's rate x fan_out^-1/2
    gain, bias as declared;  in residual branches every rate x depth^-1/2

source: Blake et al. 2024, arXiv 2407.17465, table 2, and the authors' package unit-scaling
departs: only what is said of parameters. The multipliers of operations (attention, activations, residual branches of
    depth^-1/2) and the separate ones of the backward pass are the model's; the authors' residual weights alpha are 1
"""

from typing import Any

from ... import param
from .roles import step_of

Tree = Any


def u_mup(decl: Tree, optimizer: str = "adam") -> Tree:
    """`param.Scale`s with unit starts and multipliers, for `param.init` and `param.multiplied`; rates are absolute.

    >>> from jaxlib_ext import param, scaling
    >>> s = scaling.u_mup(dict(up=param.matrix(dict(embed=64), dict(ff=256))))["up"]
    >>> s.init, s.forward, s.lr
    (8.0, 0.125, 0.125)
    """
    if step_of(optimizer) != "adam":
        raise ValueError(f"u_mup has rates for Adam and optimizers that step as it does, not for {optimizer!r}")

    def scale(path, p):
        if not p.trained:
            return None
        deep = dict(p.copies).get("layers", 1) ** -0.5
        if p.kind in ("embed", "table"):
            if p.uses:
                raise ValueError(f"{path}: a table that is also the head has one scale and two uses; untie them")
            return param.Scale(init=_unit(path, p), lr=p.fan_out**-0.5 * deep)
        if p.kind == "head":
            return param.Scale(init=_unit(path, p), forward=1 / p.fan_in)
        if p.kind in ("matrix", "conv"):
            return param.Scale(init=_unit(path, p), forward=p.fan_in**-0.5, lr=p.fan_in**-0.5 * deep)
        return param.Scale(lr=deep)

    return param.fold(scale, decl)


def _unit(path: str, p: param.Param) -> float:
    """What makes the declared start one of unit variance; 1 for zeros."""
    if p.init == "zeros":
        return 1.0
    if p.init == "fan_in":
        return p.fan_in**0.5
    if isinstance(p.init, (int, float)) and p.init > 0:
        return 1 / p.init
    raise ValueError(f"{path}: its start, {p.init!r}, has no standard deviation to make 1")
