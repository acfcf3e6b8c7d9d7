"""Training: data, state, step, loop, checkpoints and metrics."""

from .loading import load
from .losses import Loss, next_token
from .step import Step, make_step

__all__ = ["Loss", "Step", "load", "make_step", "next_token"]
