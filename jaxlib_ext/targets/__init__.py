"""Compile any training step for TPU slices and GPU nodes that are not here, and read what it needs, sends and takes.

    t = target("v5e:16x16")
    step = make_step(model, optax.adamw(1e-3), losses.next_token, t.mesh("fsdp=32,tensor=8"))
    report = compile(step.jitted, step.abstract, batch, target=t, model_flops=...)
    print(report)

The compilers are the makers' own (libtpu, the CUDA plugin of jax) and need no device; `pip install
"jaxlib-ext[targets]"`. Memory is what the compiler states; counts, bytes and FLOPs are read from the compiled program;
times are floors from the makers' figures in `chips.py`.
"""

from . import verify
from .chips import CHIPS, Chip
from .compiling import COUNTABLE, compile, read
from .errors import MissingPackage, OutOfMemory
from .report import Leaf, Memory, Report, Traffic
from .roofline import Roofline
from .topology import Target, target

__all__ = [
    "CHIPS", "COUNTABLE", "Chip", "Leaf", "Memory", "MissingPackage", "OutOfMemory", "Report", "Roofline", "Target",
    "Traffic", "compile", "read", "target", "verify",
]  # fmt: skip
