"""Models compile large programs: with few optimisations, but for tests marked optimised. Kernels have tests of their
own, compiled as in use."""

import pytest


@pytest.fixture(autouse=True)
def compiled_quickly(quick_compilation):
    pass
