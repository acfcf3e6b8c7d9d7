"""train.py and ladder.py take every optimizer by name: the step that each of them would run can be built."""

import importlib
import pathlib
import sys

import jax
import pytest

from jaxlib_ext import optim
from jaxlib_ext.models.config import build
from jaxlib_ext.training import job

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture(scope="module")
def runs():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("_ladder_runs")
    sys.path.remove(str(FOLDER))


def test_the_ladder_takes_every_rule_by_name(runs):
    """As train.py does, through the same RunConfig; at adam's rate for adam, at their own for the others."""
    for name in optim.RULES:
        made = runs.Ladder(optimizer=name, design="16:640", mixer="attention(heads=2)", depth=1, batch=4, time=16)
        config = runs.run_config(made, runs.rungs(made)[0])
        assert config.optimizer == name
        assert config.learning_rate == (0.256 / 16 if name == "adam" else optim.default_rate(name))
        step, _ = job.step_of(config, build(config.model, 32), None)
        state = jax.eval_shape(step.init, jax.random.key(0))
        assert jax.tree.structure(state.params) == jax.tree.structure(step.decl), name
    chosen = runs.Ladder(optimizer="lion(b1=0.95)", design="32:640", rate=0.1)
    assert runs.run_config(chosen, runs.rungs(chosen)[0]).learning_rate == 0.1 / 32
