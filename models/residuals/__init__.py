"""Residual schemes: how a mixer reads the stream and how its output joins it. They own the norms."""

from .postnorm import PostNorm
from .prenorm import PreNorm

RESIDUALS = {"postnorm": PostNorm, "prenorm": PreNorm}

__all__ = ["RESIDUALS", "PostNorm", "PreNorm"]
