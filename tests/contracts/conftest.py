"""Contract checks compile with few optimisations, but for those marked optimised."""

import pytest


@pytest.fixture(autouse=True)
def as_marked(request):
    if not request.node.get_closest_marker("optimised"):
        request.getfixturevalue("quick_compilation")
