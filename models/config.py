"""A language model from plain data: what a command line sets, a checkpoint stores and `build` turns into a value."""

import dataclasses

from ..registry import make, split_specs
from .channel_mixers import CHANNEL_MIXERS
from .lm import LM, Block
from .norms import NORMS
from .positions import POSITIONS
from .residuals import RESIDUALS
from .token_mixers import TOKEN_MIXERS
from .weights import WEIGHTS


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Methods are named as name or name(option=value, ...); package.module:Name is a method of your own."""

    width: int = 128
    """Width of the residual stream."""
    depth: int = 2
    """Number of blocks; a multiple of the pattern's length."""
    mixer: str = "attention"
    """Token mixers of the repeated pattern, comma-separated: "mamba,mamba,attention(window=128)"."""
    channel: str = "glu"
    """Channel mixer of every block, or one for each block of the pattern; "none" leaves it out."""
    norm: str = "rms"
    residual: str = "prenorm"
    position: str = "rope"
    weights: str = "plain"
    tied: bool = False
    """The head is the embedding."""
    dropout: float = 0.0
    dtype: str = "float32"
    """Of the computation; parameters stay float32."""
    remat: str = "none"
    """What the backward pass recomputes: none, full, dots, names, offload."""


def build(config: ModelConfig, vocab: int) -> LM:
    """The model; a name that is not known, or an option that does not fit, raises one line."""
    c = config
    if c.width < 1 or c.depth < 1:
        raise ValueError(f"width and depth must be at least 1, not {c.width} and {c.depth}")
    if c.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is float32 or bfloat16, not {c.dtype!r}")
    position = make(c.position, POSITIONS, "position scheme")
    norm = make(c.norm, NORMS, "norm", width=c.width)
    tokens = split_specs(c.mixer)
    channels = split_specs(c.channel)
    channels = channels * len(tokens) if len(channels) == 1 else channels
    if not tokens or len(tokens) != len(channels):
        raise ValueError(f"{len(tokens)} token mixers and {len(channels)} channel mixers do not pair up")
    if c.depth % len(tokens):
        raise ValueError(f"depth={c.depth} is not a multiple of the pattern's {len(tokens)} blocks ({c.mixer})")
    unit = tuple(
        Block(
            make(t, TOKEN_MIXERS, "token mixer", width=c.width, position=position) if t != "none" else None,
            make(f, CHANNEL_MIXERS, "channel mixer", width=c.width) if f != "none" else None,
        )
        for t, f in zip(tokens, channels, strict=True)
    )
    return LM(
        vocab=vocab, width=c.width, unit=unit, repeats=c.depth // len(unit), position=position,
        residual=make(c.residual, RESIDUALS, "residual scheme", norm=norm), weights=make(c.weights, WEIGHTS, "weights"),
        tied=c.tied, dropout=c.dropout, dtype=c.dtype, remat=c.remat,
    )  # fmt: skip
