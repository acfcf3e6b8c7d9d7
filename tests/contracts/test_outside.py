"""A method that the package does not know: package.module:Name is checked and built like ours."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxlib_ext import param, registry, testing
from jaxlib_ext.contracts import whole
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.token_mixers import TOKEN_MIXERS
from jaxlib_ext.testing.verdict import TOLERANCE, apart

OUTSIDE = Path(__file__).resolve().parents[1] / "outside"
ROOT = OUTSIDE.parents[1]
CONFIG = ModelConfig(width=16, depth=4, mixer="outside_mixer:Ema(low=0.3),attention(heads=2)")

IN_A_NEW_PYTHON = """
import jax
from jaxlib_ext.contracts import whole
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext import param
model = build(ModelConfig(width=16, depth=2, mixer="outside_mixer:Ema"), vocab=7)
params = param.init(model.decl(), jax.random.key(0))
logits, _ = model.apply(params, jax.numpy.ones((1, 3), int), whole(1, 3))
print(type(model.unit[0].token).__name__, logits.shape)
"""


@pytest.fixture
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(OUTSIDE)
    yield
    sys.modules.pop("outside_mixer", None)


def test_it_keeps_every_promise(on_the_path):
    mixer = registry.make("outside_mixer:Ema(inner=12)", TOKEN_MIXERS, "token mixer", width=16)
    testing.check_token_mixer(mixer, time=24)


def test_it_is_built_by_name_beside_ours_and_decodes(on_the_path):
    model = build(CONFIG, vocab=11)
    mixer = model.unit[0].token
    assert type(mixer).__module__ == "outside_mixer" and dataclasses.replace(mixer, low=0.5) != mixer
    params, seq = param.init(model.decl(), jax.random.key(0)), whole(2, 6)
    tokens = jax.random.randint(jax.random.key(1), (2, 6), 0, 11)
    logits, _ = jax.jit(model.apply)(params, tokens, seq)
    state, step = param.zeros(model.state(2, 6)), jax.jit(model.step)
    for t in range(6):
        y, state = step(params, tokens[:, t], state, seq.at(t))
        assert apart(y, logits[:, t]) < TOLERANCE["float32"]


@pytest.mark.slow
def test_it_is_found_on_the_python_path_of_any_folder(tmp_path):
    paths = os.pathsep.join([str(OUTSIDE), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", IN_A_NEW_PYTHON]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(None, 1) == ["Ema", "(1, 3, 7)\n"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("outside_mixer:Emma", "cannot import token mixer 'outside_mixer:Emma'"),
        ("outside_mixre:Ema", "cannot import token mixer 'outside_mixre:Ema': No module named"),
        (
            "outside_mixer:Ema(lwo=1)",
            "token mixer 'outside_mixer:Ema' has no option 'lwo'; it has high, inner, low",
        ),
    ],
)
def test_a_wrong_name_is_one_line(on_the_path, spec, says):
    with pytest.raises(ValueError, match="token mixer") as error:
        build(dataclasses.replace(CONFIG, mixer=spec), vocab=11)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)
