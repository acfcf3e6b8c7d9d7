"""Every promise of every rule in RULES; a new one gets all of them by standing there."""

import jax
import jax.numpy as jnp
import pytest

from jaxlib_ext import optim, testing
from jaxlib_ext.optim import RULES

# What `update` needs beside the gradient, for the methods that need something.
EXTRAS = {
    "sampled_grads": lambda params, grads, gradient, t: jax.tree.map(lambda g: 0.7 * g + 0.1, grads),
    "microbatch_grads": lambda params, grads, gradient, t: jax.tree.map(
        lambda g: jnp.stack([g + 0.2 * jnp.cos(g), g - 0.2 * jnp.cos(g)]), grads
    ),
    "value_fn": lambda params, grads, gradient, t: (
        lambda p: sum(
            jnp.sum(jax.lax.stop_gradient(g) * q) + jnp.sum(jnp.square(q)) / 2
            for g, q in zip(jax.tree.leaves(grads), jax.tree.leaves(p), strict=True)
        )
    ),
    "task": lambda params, grads, gradient, t: jnp.int32(0),
}


def extras_of(rule):
    return lambda *about: {name: EXTRAS[name](*about) for name in rule.needs}


QUICK = ("adam", "adamw", "lion", "sgd", "lamb", "prodigy", "schedule_free", "sophia_g")  # the others: full suite only
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RULES]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_promise(name):
    rule = RULES[name]()
    testing.check_rule(rule, extras=extras_of(rule))


@pytest.mark.parametrize("name", NAMES)
def test_sharded_equals_unsharded(name):
    """On 8 host devices with matrices over two mesh axes and the slots over a third, as on one."""
    rule = RULES[name]()
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    P, put = jax.sharding.PartitionSpec, lambda spec: jax.sharding.NamedSharding(mesh, spec)
    tx = optim.transform(rule, 0.01, copies=dict(layers=1))
    params = dict(layers=dict(w=jnp.cos(jnp.arange(2 * 8 * 16.0)).reshape(2, 8, 16), b=jnp.ones((2, 16))))
    specs = dict(layers=dict(w=P(None, "fsdp", "tensor"), b=P(None, "tensor")))
    grads = jax.tree.map(lambda p: jnp.sin(3 * p) + 0.1, params)
    extra = extras_of(rule)(params, grads, None, 0)
    state = tx.init(params)

    def step(g, s, p):
        return tx.update(g, s, p, **extra)

    where = jax.tree.map(put, (specs, tx.specs(params, specs, dict(mesh.shape), zero=("data",)), specs),
                         is_leaf=lambda v: isinstance(v, P))  # fmt: skip
    placed = jax.jit(step, in_shardings=where, out_shardings=(where[0], where[1]))
    plain = jax.jit(step)
    held, parts = state, state
    for _ in range(2):
        delta, held = plain(grads, held, params)
        found, parts = jax.block_until_ready(placed(grads, parts, params))
    # On the host: jax's CPU devices share threads, and operations between all of them, one behind the other, may end
    # up waiting for each other.
    error = testing.verdict.apart((delta, held.slots), jax.device_get((found, parts.slots)))
    assert error < 1e-5
