"""Contract checks compile with few optimisations, but for those marked optimised."""

import pytest


@pytest.fixture(autouse=True)
def compiled_quickly(quick_compilation):
    pass
