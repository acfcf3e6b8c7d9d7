"""Training by muP from the command line: the config's base width reaches starts and optimizer."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

from jaxlib_ext import param, scaling
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.training import losses
from jaxlib_ext.training.config import RunConfig
from jaxlib_ext.training.job import step_of
from jaxlib_ext.training.step import make_step

CONFIG = RunConfig(
    model=ModelConfig(width=32, depth=1, mixer="attention(head_dim=8)"), base_width=8, optimizer="cautious"
)


def test_starts_and_rates_are_those_of_mup():
    model = build(CONFIG.model, 16)
    step, _ = step_of(CONFIG, model, None)
    base = build(dataclasses.replace(CONFIG.model, width=8), 16)
    want = scaling.mup(model.decl(), base.decl(), "adamw")
    assert step.scales == want
    trained, _ = param.split(model.decl(), param.abstract(model.decl()))
    rows = step.tx.core.rows(trained)
    assert [row.scale for row in rows] == jax.tree.leaves(want) and rows[0].leaf.path == "embed/table"


def test_the_step_starts_where_its_scales_say():
    model = SimpleNamespace(decl=lambda: dict(w=param.head(dict(embed=8), dict(vocab=4)), g=param.gain(embed=8)))
    step = make_step(model, optax.sgd(1.0), losses.next_token, scales=dict(w=param.Scale(init=0.25), g=None))
    params, plain = step.init(jax.random.key(0)).params, param.init(model.decl(), jax.random.key(0))
    np.testing.assert_allclose(params["w"], 0.25 * plain["w"], rtol=1e-6)
    np.testing.assert_array_equal(params["g"], plain["g"])


def test_without_a_base_nothing_is_scaled():
    step, _ = step_of(dataclasses.replace(CONFIG, base_width=None), build(CONFIG.model, 16), None)
    assert step.scales is None and all(r.scale == param.Scale() for r in step.tx.core.rows(step.abstract.params))


def test_what_cannot_be_is_one_line():
    tied = dataclasses.replace(CONFIG.model, tied=True)
    with pytest.raises(ValueError, match="embed/table: a table that is also the head"):
        step_of(dataclasses.replace(CONFIG, model=tied), build(tied, 16), None)
    with pytest.raises(ValueError, match="no table for the optimizer 'prodigy'"):
        step_of(dataclasses.replace(CONFIG, optimizer="prodigy"), build(CONFIG.model, 16), None)
    with pytest.raises(ValueError, match="base_width must be at least 1, not 0"):
        dataclasses.replace(CONFIG, base_width=0).check()
    model = build(CONFIG.model, 16)
    with pytest.raises(ValueError, match="the step multiplies no parameter by"):
        make_step(model, optax.adam(1e-3), losses.next_token, scales=scaling.u_mup(model.decl()))
