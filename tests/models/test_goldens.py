"""Mixers against others' code: outputs and gradients that golden/*.py took from it on tiny random weights."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import whole
from jaxlib_ext.models.positions import Rope
from jaxlib_ext.models.token_mixers import GatedDeltaNet, Lstm, Mamba, Mamba2, Retention, RgLru, Rwkv7
from jaxlib_ext.testing.verdict import apart

FOLDER = pathlib.Path(__file__).parent.parent / "golden"
WIDTH = 12
RANKS = dict(decay_rank=5, rate_rank=6, gate_rank=7)
MIXERS = {
    "mamba": Mamba(WIDTH, n=5, rank=3, input_rule="euler"),
    "mamba2": Mamba2(WIDTH, head_dim=6, n=5, groups=2),
    "rglru": RgLru(WIDTH, heads=3),
    "lstm": Lstm(WIDTH, inner=7, peepholes=False),
    "retention": Retention(WIDTH, heads=3, position=Rope(base=1e8), eps=1e-12),  # torchscale's two angles a head
    "gated_deltanet": GatedDeltaNet(WIDTH, heads=3, key=4, value=6, eps=1e-6),
}


def read(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        rows = {key: jnp.asarray(file[key]) for key in file}
    params = {key.removeprefix("params/"): rows.pop(key) for key in list(rows) if key.startswith("params/")}
    return params, rows


def runs(mixer, params, x, seq):
    """y by scan and by steps."""
    state = param.zeros(mixer.state(x.shape[0], x.shape[1]))
    steps, held = [], state
    step = jax.jit(mixer.step)
    for t in range(x.shape[1]):
        y, held, _ = step(params, x[:, t], held, seq.at(t))
        steps.append(y)
    return jax.jit(mixer.scan)(params, x, state, seq)[0], jnp.stack(steps, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXERS)
def test_outputs_and_gradients_are_those_of_others(name):
    mixer, (params, rows) = MIXERS[name], read(name)
    assert {k: v.shape for k, v in params.items()} == {k: p.shape for k, p in mixer.decl().items()}
    seq = whole(*rows["x"].shape[:2])
    for y in runs(mixer, params, rows["x"], seq):
        assert apart(y, rows["y"]) < 1e-5
    state = param.zeros(mixer.state(2, 0))
    score = lambda x: jnp.sum(rows["w"] * mixer.scan(params, x, state, seq)[0])
    assert apart(jax.jit(jax.grad(score))(rows["x"]), rows["dx"]) < 1e-5


@pytest.mark.slow
def test_rwkv7_is_the_authors_listing_with_and_without_the_value_residual():
    params, rows = read("rwkv7")
    given, seq = None, whole(*rows["x"].shape[1:3])
    for i in (0, 1):
        mixer = Rwkv7(WIDTH, heads=3, **RANKS) if i == 0 else Rwkv7(WIDTH, 3, residual=True, value_rank=3, **RANKS)
        own = {k.removeprefix(f"{i}/"): v for k, v in params.items() if k.startswith(f"{i}/")}
        assert {k: v.shape for k, v in own.items()} == {k: p.shape for k, p in mixer.decl().items()}
        if given is not None:
            seq = whole(*rows["x"].shape[1:3], side=dict(v_first=given))
        for y in runs(mixer, own, rows["x"][i], seq):
            assert apart(y, rows["y"][i]) < 1e-5
        gives = jax.jit(mixer.scan)(own, rows["x"][i], param.zeros(mixer.state(2, 0)), seq)[2].gives
        given = gives.get("v_first")
    assert given is None  # the second layer passes nothing on
