"""The training step: meshes, accumulation, masks, clipping, averages, buffers, donation, one's own loss and chain."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import param, sharding
from jaxlib_ext.contracts import Aux, whole
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.testing.verdict import apart
from jaxlib_ext.training import losses
from jaxlib_ext.training.losses import Loss
from jaxlib_ext.training.step import global_norm, make_step

pytestmark = pytest.mark.usefixtures("quick_compilation")
V, B, T = 32, 8, 16


def lm(**fields):
    return build(ModelConfig(**dict(width=32, depth=2, mixer="attention(heads=4),gla(heads=4)") | fields), V)


def batch(seed=0, rows=B):
    ids = jax.random.randint(jax.random.key(seed), (rows, T + 1), 0, V)
    return dict(tokens=ids[:, :-1], targets=ids[:, 1:], mask=jax.random.bernoulli(jax.random.key(1), 0.8, (rows, T)))


def train(step, steps=3):
    state, rows = step.init(jax.random.key(0)), []
    for i in range(steps):
        state, metrics = step(state, batch(i))
        rows.append({k: float(v) for k, v in metrics.items()})
    return state, rows


@functools.cache
def reference():
    return train(make_step(lm(), optax.adamw(1e-2), losses.next_token))


@pytest.mark.parametrize(
    "mesh", ["fsdp=4,tensor=2", *(pytest.param(m, marks=pytest.mark.slow) for m in ("fsdp=8", "data=2,tensor=4"))]
)
def test_every_mesh_trains_as_one_device_does(mesh):
    step = make_step(lm(), optax.adamw(1e-2), losses.next_token, sharding.make_mesh(mesh))
    state, rows = train(step)
    for row, expected in zip(rows, reference()[1], strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
    up = state.params["unit"]["layers"]["0"]["channel"]["mixer"]["up"]
    assert max(s.data.size for s in up.addressable_shards) == up.size // (4 if mesh.startswith("data") else 8)
    assert state.opt[0].mu["unit"]["layers"]["0"]["channel"]["mixer"]["up"].sharding == up.sharding
    assert jax.tree.map(lambda v: v.sharding, state) == step.shardings


@pytest.mark.slow
def test_accumulated_gradients_are_the_whole_batchs():
    split = make_step(lm(), optax.adamw(1e-2), losses.next_token, accumulate=4)
    state, rows = train(split)
    assert rows[-1]["loss"] == pytest.approx(reference()[1][-1]["loss"], rel=1e-5)
    assert apart(state.params, reference()[0].params) < 1e-4
    on_mesh = make_step(lm(), optax.adamw(1e-2), losses.next_token, sharding.make_mesh("fsdp=2,tensor=4"), accumulate=4)
    assert train(on_mesh)[1][-1]["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-5)


@pytest.mark.slow
def test_chunked_logits_give_the_same_loss_and_gradient():
    step = make_step(lm(), optax.adamw(1e-2), functools.partial(losses.next_token, chunk=4))
    state, rows = train(step)
    assert rows[-1]["loss"] == pytest.approx(reference()[1][-1]["loss"], rel=1e-5)
    assert apart(state.params, reference()[0].params) < 1e-4


@pytest.mark.slow
def test_masked_targets_do_not_count():
    model, rows = lm(), batch()
    params = param.init(model.decl(), jax.random.key(0))
    loss = losses.next_token(model, params, rows, None)
    nats = losses.cross_entropy(model.apply(params, rows["tokens"], whole(B, T))[0], rows["targets"])[0]
    assert loss.total / loss.weight == pytest.approx(
        float(np.mean(np.asarray(nats)[np.asarray(rows["mask"])])), rel=1e-5
    )
    other = rows | dict(targets=jnp.where(rows["mask"], rows["targets"], 0))
    assert losses.next_token(model, params, other, None).total == loss.total


def test_z_loss_adds_the_squared_log_partition():
    model, rows = lm(), batch()
    params = param.init(model.decl(), jax.random.key(0))
    plain, with_z = (losses.next_token(model, params, rows, None, z_loss=z) for z in (0.0, 0.1))
    z = jax.nn.logsumexp(model.apply(params, rows["tokens"], whole(B, T))[0], -1)
    expected = 0.1 * float(jnp.sum(jnp.where(rows["mask"], z**2, 0)))
    assert float(with_z.total - plain.total) == pytest.approx(expected, rel=1e-4)
    assert float(with_z.metrics["loss"]) == float(plain.metrics["loss"])


@pytest.mark.slow
def test_clipping_is_by_a_float32_global_norm():
    leaves = {str(i): jnp.ones((1,), jnp.bfloat16) for i in range(4000)}
    assert global_norm(leaves) == pytest.approx(4000**0.5)
    clipped, free = (
        make_step(lm(), optax.sgd(1.0), losses.next_token, clip=c).init(jax.random.key(0)) for c in (0.01, None)
    )
    before = clipped.params
    step = make_step(lm(), optax.sgd(1.0), losses.next_token, clip=0.01)
    start = jax.tree.map(jnp.copy, before)
    state, metrics = step(clipped, batch())
    moved = global_norm(jax.tree.map(jnp.subtract, state.params, start))
    assert metrics["grad_norm"] > 0.01 and moved == pytest.approx(0.01, rel=1e-3)
    del free


@pytest.mark.slow
def test_the_average_follows_the_parameters():
    step = make_step(lm(), optax.adamw(1e-2), losses.next_token, ema=0.9)
    state = step.init(jax.random.key(0))
    expected = jax.tree.map(np.asarray, state.params)
    for i in range(3):
        state, _ = step(state, batch(i))
        expected = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * np.asarray(p), expected, state.params)
    assert apart(state.ema, jax.tree.map(jnp.asarray, expected)) < 1e-5


@dataclasses.dataclass(frozen=True)
class Counting:
    """A model of one's own with a buffer: y = w . x, and a count of batches."""

    def decl(self):
        return dict(w=param.matrix(dict(embed=3), dict(ff=1)), seen=param.buffer(embed=1))


def squares(model, params, batch, key):
    y = (batch["x"] @ params["w"])[:, 0]
    total = jnp.sum((y - batch["y"]) ** 2)
    return Loss(total, jnp.float32(len(y)), dict(loss=total), dict(seen=params["seen"] + 1))


def test_a_users_own_model_loss_and_chain():
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.0), optax.sgd(0.1))
    for accumulate in (1, 2):
        step = make_step(Counting(), tx, squares, accumulate=accumulate)
        state = step.init(jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), (8, 3))
        rows = dict(x=x, y=x.sum(1))
        for _ in range(200):
            state, metrics = step(state, rows)
        assert metrics["loss"] < 1e-6 and state.params["seen"] == 200
    assert jax.tree.leaves(state.opt) == [] or all(v.shape != (1,) for v in jax.tree.leaves(state.opt))


def test_buffers_are_seen_by_no_optimizer():
    step = make_step(Counting(), optax.adamw(0.1, weight_decay=1.0), squares)
    assert len(jax.tree.leaves(step.abstract.opt)) == 3  # count, mu and nu of w


@pytest.mark.slow
def test_a_buffer_written_inside_the_unit_reaches_its_layer():
    @dataclasses.dataclass(frozen=True)
    class Tally:
        width: int
        pointwise = True

        def decl(self):
            return dict(w=param.matrix(dict(embed=self.width), dict(ff=self.width)), n=param.buffer(embed=1))

        def apply(self, params, x, seq):
            return x @ params["w"], Aux(losses=dict(tally=jnp.float32(0.5)), buffers=dict(n=params["n"] + 2))

    model = lm(mixer="gla(heads=2)", depth=3)
    unit = (dataclasses.replace(model.unit[0], channel=Tally(32)),)
    model = dataclasses.replace(model, unit=unit)
    step = make_step(model, optax.sgd(0.1), losses.next_token)
    state, metrics = step(step.init(jax.random.key(0)), batch())
    assert state.params["unit"]["layers"]["0"]["channel"]["mixer"]["n"].ravel().tolist() == [2.0] * 3
    assert metrics["tally"] == pytest.approx(1.5)


def test_the_state_is_donated():
    step = make_step(lm(), optax.adamw(1e-2), losses.next_token)
    state = step.init(jax.random.key(0))
    w = state.params["head"]["w"]
    step(state, batch())
    assert w.is_deleted()


@pytest.mark.slow
def test_bfloat16_compute_keeps_float32_parameters():
    step = make_step(lm(dtype="bfloat16"), optax.adamw(1e-2), losses.next_token)
    state, rows = train(step)
    assert {v.dtype for v in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}
    assert rows[-1]["loss"] == pytest.approx(reference()[1][-1]["loss"], rel=2e-2)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_said():
    step = make_step(lm(), optax.sgd(1e9), losses.next_token)
    rows = train(step, 4)[1]
    assert rows[0]["finite"] == 1 and rows[-1]["finite"] == 0


@pytest.mark.parametrize(
    ("mesh", "model", "said"),
    [
        ("tensor=8", dict(mixer="attention(heads=4)"), "kv_heads=4 does not divide over tensor=8"),
        ("expert=8", dict(), "mesh axis expert=8 shards nothing"),
        ("fsdp=8", dict(width=36, mixer="attention(heads=2)"), "embed=36 does not divide over fsdp=8"),
    ],
)
def test_what_does_not_fit_the_mesh_raises_before_anything_is_compiled(mesh, model, said):
    with pytest.raises(ValueError, match=said) as error:
        make_step(lm(**model), optax.sgd(0.1), losses.next_token, sharding.make_mesh(mesh))
    assert "\n" not in str(error.value)
