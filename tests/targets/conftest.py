"""Training steps compiled for devices that are absent; skipped, with the reason, without their compilers."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxlib_ext import param, sharding, targets
from jaxlib_ext.contracts import Cost
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.presets import PRESETS
from jaxlib_ext.training import losses
from jaxlib_ext.training.step import Step, make_step

WIDTH, VOCAB, BATCH, TIME = 256, 512, 32, 64
SMALL = ModelConfig(width=WIDTH, mixer="attention(head_dim=32)", dtype="bfloat16", remat="full")


class Compiled(NamedTuple):
    report: targets.Report
    step: Step
    batch: dict
    cost: Cost


def with_memory(model, params, batch, key):
    """The loss of a model that also reads a memory."""
    seq = losses.sequence(batch, key, True)
    h, _ = model.hidden(params, batch["tokens"], seq, batch["memory"], losses.sequence(batch))
    nats, _ = losses.cross_entropy(model.logits(params, h), batch["targets"])
    return losses.Loss(jnp.sum(nats), jnp.float32(nats.size))


def training_step(mesh, *, preset="", layers=2, mixer=None, remat=None, loss=losses.next_token, tx=None):
    """Of a small model or a preset, with so many layers, and another mixer or rematerialisation if given."""
    config, vocab, _ = PRESETS[preset] if preset else (SMALL, VOCAB, "")
    given = dict(depth=layers, mixer=mixer, remat=remat)
    config = dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})
    model = dataclasses.replace(build(config, vocab), unroll=1)
    tx = tx or optax.adamw(1e-3, b2=0.95, mask=param.decayed(model.decl()))
    return make_step(model, tx, loss, mesh, clip=1.0)


def abstract_batch(mesh, rows=BATCH, time=TIME, memory=False) -> dict[str, Any]:
    where = sharding.batch_sharding(mesh)
    tokens = jax.ShapeDtypeStruct((rows, time), jnp.int32, sharding=where)
    more = dict(memory=jax.ShapeDtypeStruct((rows, time, WIDTH), jnp.bfloat16, sharding=where)) if memory else {}
    return dict(tokens=tokens, targets=tokens) | more


def available(name: str) -> targets.Target:
    t = targets.target(name)
    try:
        t.devices  # noqa: B018
    except targets.MissingPackage as error:
        pytest.skip(str(error))
    return t


@pytest.fixture(autouse=True)
def no_compile_cache():
    """Entries for absent devices are large and cannot be reused."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture(scope="session")
def target():
    """target(name), or a skip that says what is not installed."""
    return available


@pytest.fixture(scope="session")
def small():
    """small(mesh, rows=, time=, ...) -> (step, batch), not compiled."""

    def make(mesh, rows=BATCH, time=TIME, **fields):
        return training_step(mesh, **fields), abstract_batch(mesh, rows, time)

    return make


@pytest.fixture(scope="session")
def compiled():
    """compiled(target, mesh, ...) -> Compiled, kept for the whole session."""

    @functools.cache
    def run(name, axes, options=(), rows=BATCH, time=TIME, **fields) -> Compiled:
        t = available(name)
        mesh = t.mesh(axes)
        memory = fields.get("mixer") == "cross_attention"
        step = training_step(mesh, **fields, **(dict(loss=with_memory) if memory else {}))
        batch = abstract_batch(mesh, rows, time, memory)
        cost = step.model.cost(rows * time, (time + 1) / 2)
        options = dict(options) | (targets.COUNTABLE if t.chip.platform == "tpu" else {})
        report = targets.compile(
            step.jitted, step.abstract, batch, target=t, mesh=mesh, model_flops=3 * cost.flops, options=options
        )
        print(report)
        return Compiled(report, step, batch, cost)

    return run
