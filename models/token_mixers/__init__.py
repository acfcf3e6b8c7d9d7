"""Token mixers: sequence to sequence, in parallel for training and token by token for decoding."""

from .attention import Attention
from .cross_attention import CrossAttention
from .gla import Gla
from .mamba import Mamba

TOKEN_MIXERS = {"attention": Attention, "cross_attention": CrossAttention, "gla": Gla, "mamba": Mamba}

__all__ = ["TOKEN_MIXERS", "Attention", "CrossAttention", "Gla", "Mamba"]
