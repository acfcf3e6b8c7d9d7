"""Position schemes: on the stream once (absolute) or inside attention (relative)."""

from .learned import Learned
from .none import NoPosition
from .rope import Rope

POSITIONS = {"learned": Learned, "none": NoPosition, "rope": Rope}

__all__ = ["POSITIONS", "Learned", "NoPosition", "Rope"]
