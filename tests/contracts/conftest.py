"""Contract checks compile large programs for a few small numbers, so they skip most of the optimisation.

That halves the time; what is marked optimised, further options of every method, is compiled as in use.
"""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation(request):
    if request.node.get_closest_marker("optimised"):
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
