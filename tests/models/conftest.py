"""Models compile large programs: with few optimisations, but for tests marked optimised. Kernels have tests of their
own, compiled as in use."""

import pytest


@pytest.fixture(autouse=True)
def as_marked(request):
    if not request.node.get_closest_marker("optimised"):
        request.getfixturevalue("quick_compilation")
