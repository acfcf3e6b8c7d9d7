"""train.py and ladder.py take every optimizer by name: the step that each of them would run can be built."""

import importlib.util
import pathlib
import sys

import jax
import pytest

from jaxlib_ext import optim
from jaxlib_ext.models.config import build
from jaxlib_ext.training import job

FILE = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "ladder.py"


@pytest.fixture(scope="module")
def ladder():
    spec = importlib.util.spec_from_file_location("ladder_of_optimizers", FILE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_ladder_takes_every_rule_by_name(ladder):
    """As train.py does, through the same RunConfig; at adam's rate for adam, at their own for the others."""
    for name in optim.RULES:
        made = ladder.Ladder(optimizer=name, mixer="attention(heads=2)", depth=1, batch=4, time=16)
        config = ladder.run_config(made, ladder.Rung(16, 640, 0))
        assert config.optimizer == name
        assert config.learning_rate == (0.256 / 16 if name == "adam" else optim.default_rate(name))
        step, _ = job.step_of(config, build(config.model, 32), None)
        state = jax.eval_shape(step.init, jax.random.key(0))
        assert jax.tree.structure(state.params) == jax.tree.structure(step.decl), name
    chosen = ladder.Ladder(optimizer="lion(b1=0.95)", rate=0.1)
    assert ladder.run_config(chosen, ladder.Rung(32, 640, 0)).learning_rate == 0.1 / 32
