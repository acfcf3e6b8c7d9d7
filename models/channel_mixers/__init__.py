"""Channel mixers: x -> y at each token alone."""

from .glu import Glu
from .mlp import Mlp

CHANNEL_MIXERS = {"glu": Glu, "mlp": Mlp}

__all__ = ["CHANNEL_MIXERS", "Glu", "Mlp"]
