"""Language models of the sizes that people plan with: shapes of published models with this library's blocks.

    build(PRESETS["7b"].config, PRESETS["7b"].vocab)

Matrices and heads are divisible by 8 ways of tensor parallelism from 1b up.
"""

from typing import NamedTuple

from .config import ModelConfig


class Preset(NamedTuple):
    config: ModelConfig
    vocab: int
    source: str  # where width, depth, heads, hidden width and vocabulary are from


def _llama(width: int, depth: int, heads: int, kv: int, ff: int, vocab: int, source: str, tied: bool = False) -> Preset:
    mixer = f"attention(heads={heads}, kv_heads={kv})"
    config = ModelConfig(width, depth, mixer, f"glu(ff={ff})", tied=tied, dtype="bfloat16", remat="full")
    return Preset(config, vocab, source)


_HYBRID = ", ".join(["gla"] * 7 + ["attention(heads=32, kv_heads=8)"])

PRESETS = {
    "125m": _llama(768, 12, 12, 12, 2048, 50304, "GPT-3 small (arXiv 2005.14165), SwiGLU of 8/3 width", True),
    "350m": _llama(1024, 24, 16, 16, 2736, 50304, "GPT-3 medium (arXiv 2005.14165), SwiGLU of 8/3 width", True),
    "1b": _llama(2048, 22, 32, 8, 5632, 32000, "TinyLlama (arXiv 2401.02385), 8 key heads for its 4"),
    "7b": _llama(4096, 32, 32, 32, 11008, 32000, "Llama 2 7B (arXiv 2307.09288)"),
    "70b": _llama(8192, 80, 64, 8, 28672, 32000, "Llama 2 70B (arXiv 2307.09288)"),
    "7b-hybrid": Preset(
        ModelConfig(4096, 32, _HYBRID, "glu(ff=11008)", dtype="bfloat16", remat="full"), 32000,
        "the 7b shape, seven gated linear attention blocks to one of attention, Jamba's ratio (arXiv 2403.19887)",
    ),
}  # fmt: skip
