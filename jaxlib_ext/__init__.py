"""jaxlib_ext: efficient architectures, optimizers and scaling laws for JAX.

Import what you use: ``from jaxlib_ext import param``, ``from jaxlib_ext.models import lm``. ``python -m jaxlib_ext``
prints the map of every method. Importing the package loads jax and nothing heavier.
"""

from importlib import metadata as _metadata

try:
    __version__ = _metadata.version("jaxlib-ext")
except _metadata.PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
