"""Weights transforms: what is stored, and the tree that a unit of blocks sees at each depth."""

from .plain import Plain
from .shared import Shared

WEIGHTS = {"plain": Plain, "shared": Shared}

__all__ = ["WEIGHTS", "Plain", "Shared"]
