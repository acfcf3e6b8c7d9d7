"""Laws by name. Each is a frozen dataclass with `predict`, `units` and `ranges`; see `scaling.law.Law`."""

from .bnsl import Bnsl
from .chinchilla import Chinchilla
from .data_constrained import DataConstrained
from .downstream import Downstream
from .farseer import Farseer
from .gadre import Gadre
from .hestness import Hestness
from .kaplan import Kaplan
from .kaplan_trajectory import KaplanTrajectory
from .moe import MoeClark, MoeFine, MoeRouted
from .mu_scaling import MuScaling
from .parallel import Parallel
from .power import Power
from .power_offset import PowerOffset
from .precision import Precision
from .response_surface import ResponseSurface
from .vocab import Vocab

LAWS = {
    "chinchilla": Chinchilla,
    "kaplan": Kaplan,
    "kaplan_trajectory": KaplanTrajectory,
    "power": Power,
    "power_offset": PowerOffset,
    "mu_scaling": MuScaling,
    "hestness": Hestness,
    "bnsl": Bnsl,
    "data_constrained": DataConstrained,
    "gadre": Gadre,
    "downstream": Downstream,
    "moe_fine": MoeFine,
    "moe_routed": MoeRouted,
    "moe_clark": MoeClark,
    "precision": Precision,
    "farseer": Farseer,
    "vocab": Vocab,
    "parallel": Parallel,
    "response_surface": ResponseSurface,
}

__all__ = ["LAWS", *(c.__name__ for c in LAWS.values())]
