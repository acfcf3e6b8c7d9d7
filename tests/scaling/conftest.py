"""Real tables, where they are at hand: they are not part of the project."""

import csv
import pathlib

import numpy as np
import pytest

from jaxlib_ext import scaling

TABLES = pathlib.Path(__file__).parents[2] / "../shared/scaling_data"


@pytest.fixture(scope="session")
def table():
    """table("name.csv") -> columns by name, floats where possible; skips the test where it is absent."""

    def read(name):
        path = TABLES / name
        if not path.exists():
            pytest.skip(f"no {name} beside the checkout")
        with path.open(newline="") as f:
            rows = list(csv.DictReader(f))

        def column(k):
            try:
                return np.array([float(r[k]) for r in rows])
            except ValueError:
                return np.array([r[k] for r in rows])

        return {k: column(k) for k in rows[0]}

    return read


@pytest.fixture(scope="session")
def epoch(table):
    """The 245 digitised Chinchilla runs and the mask of the 240 that are fitted."""
    t = table("chinchilla_epoch_245.csv")
    return scaling.Data(dict(N=t["N"], D=t["D"]), t["loss"]), t["epoch_excluded"] == 0


@pytest.fixture(scope="session")
def epoch240(epoch):
    data, kept = epoch
    return data.take(kept, "published exclusions")
