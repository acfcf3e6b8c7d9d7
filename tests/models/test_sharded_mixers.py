"""Every token mixer trains a step on fsdp=4,tensor=2 as it does on one device."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxlib_ext import sharding
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.token_mixers import TOKEN_MIXERS
from jaxlib_ext.testing.verdict import TOLERANCE, apart
from jaxlib_ext.training import losses
from jaxlib_ext.training.step import make_step

WIDTH, VOCAB, BATCH, TIME = 32, 16, 8, 64
# Batches of larger triangular solves deadlock in jaxlib 0.10.2 on 8 host devices: each device's solve waits for threads
# of the one pool that all of them stand in. Accelerators have no such pool.
SHORT = {"mesa_layer": 16}
# Options that give every axis which the mesh splits an even size; heads=4 where a mixer has heads.
OPTIONS = {
    "armt": "(heads=4,segment=16)",  # several segments
    "hyena": "(form='fft')",  # what longer rows take
    "lmuformer": "(signals=4)",
    "mamba2": "(head_dim=16,groups=2)",
    "native_sparse_attention": "(heads=4,block=8,stride=4,select=8,top=2,window=8)",
    "sparse_transformer": "(heads=4,stride=16)",  # of 128 no token sees two: gradients of queries are rounding
}


def spec(name: str) -> str:
    heads = any(f.name == "heads" for f in dataclasses.fields(TOKEN_MIXERS[name]))
    return name + OPTIONS.get(name, "(heads=4)" if heads else "")


def with_memory(model, params, batch, key):
    """The loss of a model that also reads a memory."""
    seq = losses.sequence(batch, key, True)
    h, _ = model.hidden(params, batch["tokens"], seq, batch["memory"], losses.sequence(batch))
    nats, _ = losses.cross_entropy(model.logits(params, h), batch["targets"])
    return losses.Loss(jnp.sum(nats), jnp.float32(nats.size))


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKEN_MIXERS)
def test_a_step_on_a_mesh_is_that_of_one_device(name):
    model = build(ModelConfig(width=WIDTH, depth=1, mixer=spec(name), channel="none"), VOCAB)
    time = SHORT.get(name, TIME)
    ids = jax.random.randint(jax.random.key(0), (BATCH, time + 1), 0, VOCAB)
    batch, loss = dict(tokens=ids[:, :-1], targets=ids[:, 1:]), losses.next_token
    if name == "cross_attention":
        batch["memory"], loss = jax.random.normal(jax.random.key(1), (BATCH, time, WIDTH)), with_memory
    keep = optax.trace(0.0)  # its state is the gradient
    ends, said = [], []
    for mesh in (None, sharding.make_mesh("fsdp=4,tensor=2")):
        step = make_step(model, optax.chain(keep, optax.sgd(1.0)), loss, mesh)
        state, metrics = step(step.init(jax.random.key(2)), batch)
        ends.append(jax.device_get((state.params, state.opt)))
        said.append(float(metrics["grad_norm"]))
    assert said[1] == pytest.approx(said[0], rel=TOLERANCE["float32"])
    for parts, one in zip(ends[1], ends[0], strict=True):  # apart: a gradient is small beside a parameter
        assert float(apart(parts, one)) < TOLERANCE["float32"]
