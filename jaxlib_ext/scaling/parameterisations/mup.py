"""mup: the maximal update parametrisation, under which features and the best learning rate do not depend on width.

    m_in, m_out: by how much the inputs and outputs of a parameter grew over the base; 1 for those that do not grow
    start      standard deviation x m_in^-1/2, of the head m_in^-1
    rate       x m_out / m_in (sgd), 1 / m_in (adam), 1 / m_in over the start's factor (adafactor)
    Adam's eps x 1 / m_out

source: Yang et al. 2022, arXiv 2203.03466, table 3, its form without multipliers; for any m_in and m_out as the
    spectral condition has it (Yang, Simon and Bernstein 2023, arXiv 2310.17813). The public package mup multiplies the
    readout by 1/m instead, which trains alike. eps and adafactor's row follow from the sizes of gradient and parameter
departs: a matrix to what does not grow inside a layer (a rank, a state) starts as others do, so that what it makes
    keeps its size; by the condition it would start as the head does, and fade with width until it is trained
catalogue: mup_abc, mu_scaling
"""

from typing import Any

from ... import param
from .roles import SCORED, Growth, step_of, trained

Tree = Any


def spread(g: Growth) -> float:
    """The start's standard deviation, as a factor on the base's."""
    return 1 / g.fan_in if g.role == "readout" else g.fan_in**-0.5


def rate(step: str, g: Growth) -> float:
    """Factor on the learning rate."""
    if step == "sgd":
        return g.fan_out / g.fan_in
    return 1 / g.fan_in if step == "adam" else 1 / g.fan_in / spread(g)


def refuse(path: str, p: param.Param, q: param.Param, scores: bool) -> None:
    """Raises ValueError for what no factor on a parameter can set right."""
    if p.kind == "embed" and p.uses and p.shape != q.shape:
        raise ValueError(f"{path}: a table that is also the head has one scale and two uses; untie them")
    before = dict(q.produces)
    for axis, n in p.produces:
        if axis in SCORED and n != before[axis] and not scores:
            raise ValueError(
                f"{path}: {axis} grows from {before[axis]} to {n}; keep it, or set the mixer's scale to "
                f"{before[axis]}^0.5 / {n} and give scores=True"
            )


def mup(decl: Tree, base: Tree, optimizer: str, *, scores: bool = False, zero_head: bool = False) -> Tree:
    """`param.Scale`s with the structure of decl, for training at the learning rate that was found on base.

    decl, base: declarations of the model and of the same model at the width where the rate was found. optimizer: a
    name in `optim.RULES`, or "sgd", "adam", "adafactor" for others that step as these do. scores: the width of heads
    grows, and the mixers' `scale` follows it as 1 / width instead of 1 / width^1/2. zero_head: logits start at 0.

    >>> from jaxlib_ext import param, scaling
    >>> def decl(n):
    ...     return dict(up=param.matrix(dict(embed=n), dict(ff=4 * n)), head=param.head(dict(embed=n), dict(vocab=8)))
    >>> scales = scaling.mup(decl(256), decl(64), "adamw")
    >>> scales["up"].init, scales["up"].lr, scales["head"].init, scales["head"].lr
    (1.0, 0.25, 0.5, 0.25)
    """
    step, bases = step_of(optimizer), param.by_path(base)

    def scale(path, p, g):
        refuse(path, p, bases[path], scores)
        start = 0.0 if zero_head and p.kind == "head" else spread(g) / g.start
        return param.Scale(init=start, lr=rate(step, g), eps=1 / g.fan_out)

    return trained(scale, decl, base)
