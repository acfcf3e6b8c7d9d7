"""depth_mup: muP over width and depth, residual branches divided by a power of the depth.

    h <- h + m_L^-alpha f(h),  m_L = depth over the base's;   in the branches, beside muP over width:
    learning rate x m_L^(alpha - 1) (adam, adafactor), m_L^(2 alpha - 1) (sgd)
    learning rate times weight decay x m_L^(alpha - 1);  Adam's eps x m_L^-alpha
    alpha = 1/2: Depth-muP;  alpha = 1: CompleteP

source: alpha = 1/2: Bordelon et al. 2023, arXiv 2309.16620, and Yang et al. 2023, arXiv 2310.02244;
    alpha = 1: Dey et al. 2025, arXiv 2505.01618
departs: the paper's decay is x m_N beside a rate x m_N^-1 m_L^(alpha - 1); here `decay` is of their product. sgd and
    adafactor by the same condition, that all layers together change the stream by a constant. With alpha = 1/2 transfer
    over depth is proven for branches of one layer only
"""

import dataclasses
from typing import Any

from ... import param
from .mup import mup
from .roles import growth, step_of

Tree = Any


def branch(depth: float, base_depth: float, alpha: float = 1.0) -> float:
    """What residual branches are multiplied with: `residual="prenorm(scale=...)"`.

    >>> branch(16, 4, 0.5)
    0.5
    """
    if not (depth > 0 and base_depth > 0 and 0.5 <= alpha <= 1):
        raise ValueError(f"positive depths and alpha in [1/2, 1], not {depth}, {base_depth} and {alpha}")
    return (depth / base_depth) ** -alpha


def depth_mup(decl: Tree, base: Tree, optimizer: str, *, alpha: float = 1.0, **options: Any) -> Tree:
    """`param.Scale`s for a model whose residual branches are multiplied by `branch(depth, base_depth, alpha)`.

    Depth is what stands on axes called layers, or the uses of shared parameters; what has neither (embedding, last
    norm, head) is scaled by width alone. decl, base, optimizer, options: as for `mup`.
    """
    step, bases = step_of(optimizer), param.by_path(base)
    branch(1, 1, alpha)
    power = 2 * alpha - 1 if step == "sgd" else alpha - 1

    def deeper(path, p, s):
        m = growth(path, p, bases[path]).depth
        if s is None or m == 1:
            return s
        return dataclasses.replace(s, lr=s.lr * m**power, decay=m ** (alpha - 1), eps=s.eps * m**-alpha)

    return param.fold(deeper, decl, mup(decl, base, optimizer, **options))
