"""Norms over the last axis; statistics in float32, the result in the input's dtype."""

from .layer import Layer
from .rms import Rms

NORMS = {"layer": Layer, "rms": Rms}

__all__ = ["NORMS", "Layer", "Rms"]
