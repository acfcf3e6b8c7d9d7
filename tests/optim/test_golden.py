"""The first rules against a trajectory of its authors' package: 16 steps in float64, a matrix and a vector, to 1e-9.

tests/golden/optim.py makes the trajectories; CASES says which options of ours each of them equals. The other
rules are in test_golden_element.py and test_golden_free.py.
"""

import pathlib
import sys

import numpy as np
import pytest

from jaxlib_ext import optim

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
from optim_trajectory import trajectory  # noqa: E402

CASES = {
    "sgd": optim.sgd(0.05, momentum=0.9),
    "sgd_nesterov": optim.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": optim.adam(0.05, b2=0.99),
    "adamw": optim.adamw(0.05, b2=0.99, weight_decay=0.1),
    "lion": optim.lion(0.02, weight_decay=0.1),
    "dadapt_sgd": optim.dadapt_sgd(1.0, d0=1e-3),
    "schedule_free": optim.schedule_free(0.05),
}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "optim.npz")


@pytest.mark.parametrize("name", CASES)
def test_trajectory_of_the_package(name, golden):
    found = trajectory(CASES[name])
    for k in ("w", "b"):
        assert np.max(np.abs(found[k] - golden[f"{name}/{k}"])) < 1e-9, k


def test_every_golden_is_compared(golden):
    assert {key.split("/")[0] for key in golden.files if "/" in key} == set(CASES)
