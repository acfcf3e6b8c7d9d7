"""What the core does once for all rules: formats, rounding, guard, groups, masks, metrics, memory, placing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxlib_ext import optim
from jaxlib_ext.optim import formats, guard
from jaxlib_ext.optim.rule import Leaf, Slot

FORMATS = ("f32", "bf16", "fp8:128", "int8:128", "coat:128")


def tree(dtype=jnp.float32):
    return dict(b=jnp.full((6,), 0.5, dtype), w=jnp.linspace(-1, 1, 4 * 256, dtype=dtype).reshape(4, 256))


def steps(tx, params, grad, n):
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(n):
        delta, state = update(grad(params, t), state, params)
        params = optax.apply_updates(params, delta)
    return params, state


def test_stochastic_rounding_keeps_the_mean():
    x = jnp.full((100_000,), 1.00123, jnp.float32)
    y = formats.to_bf16(x, formats.hashed(x.shape, jnp.uint32(3))).astype(jnp.float32)
    assert set(np.unique(y)) == {1.0, 1.0078125}
    assert abs(float(jnp.mean(y)) - 1.00123) < 5 * 0.0078 / np.sqrt(4e5)


def test_stochastic_rounding_keeps_what_is_not_finite_and_what_is_exact():
    x = jnp.array([jnp.inf, -jnp.inf, jnp.nan, 0.0, 1.0, -2.5, 3.3e38], jnp.float32)
    y = formats.to_bf16(x, jnp.full(x.shape, 0xFFFF, jnp.uint32)).astype(jnp.float32)
    assert y[0] == jnp.inf and y[1] == -jnp.inf and jnp.isnan(y[2])
    assert (y[3:6] == x[3:6]).all() and jnp.isfinite(y[6])


def test_rounded_parameters_land_where_apply_updates_puts_them():
    """What update returns is exactly new minus old, so no second rounding happens."""
    params = dict(w=jnp.linspace(-2, 2, 512, dtype=jnp.bfloat16))
    tx = optim.sgd(1e-3, momentum=0.0)
    delta, _ = tx.update(dict(w=jnp.ones(512)), tx.init(params), params)
    exact = params["w"].astype(jnp.float32) + delta["w"]
    assert (exact.astype(jnp.bfloat16).astype(jnp.float32) == exact).all()


# The five ways in which bfloat16 parameters break optax 0.2.8 silently.
def test_bf16_scheduled_adamw_is_finite_on_step_one():
    params, _ = steps(optim.adamw(lambda t: 1e-3 / (t + 1), b2=0.999), tree(jnp.bfloat16), lambda p, t: p, 1)
    assert all(bool(jnp.isfinite(v).all()) for v in params.values())


def test_bf16_distance_estimates_grow():
    grad = lambda p, t: jax.tree.map(lambda v: v - 3, p)
    _, state = steps(optim.dadapt_sgd(1.0, d0=1e-6), tree(jnp.bfloat16), grad, 40)
    assert float(state.shared["d"]) > 1e-4


def test_bf16_norm_over_many_leaves_is_right():
    params = {f"p{i}": jnp.ones((), jnp.bfloat16) for i in range(400)}
    tx = optim.sgd(1.0, momentum=0.0, clip_norm=1.0, stochastic_rounding=False)
    delta, _ = tx.update(params, tx.init(params), params)
    assert float(delta["p0"]) == pytest.approx(-1 / 20, rel=1e-6)


@pytest.mark.parametrize("slot_format", ["f32", "bf16"])
def test_bf16_second_moment_does_not_stall(slot_format):
    params = dict(w=jnp.ones((64, 64), jnp.bfloat16))
    tx = optim.adam(0.0, b2=0.999, formats=slot_format)
    _, state = steps(tx, params, lambda p, t: dict(w=jnp.ones((64, 64), jnp.bfloat16)), 400)
    mean = float(jnp.mean(state.slots["v"]["w"].astype(jnp.float32)))
    assert mean == pytest.approx(1 - 0.999**400, rel=0.02)


def test_bf16_weights_move_under_small_updates():
    start = jax.random.normal(jax.random.key(0), (256, 256), jnp.bfloat16)
    params, _ = steps(optim.sgd(1e-4, momentum=0.0), dict(w=start), lambda p, t: dict(w=jnp.ones_like(p["w"])), 1)
    moved = params["w"].astype(jnp.float32) - start.astype(jnp.float32)
    assert float(jnp.mean(moved)) == pytest.approx(-1e-4, rel=0.2)


@pytest.mark.parametrize("name", FORMATS[1:])
@pytest.mark.parametrize("signed", [True, False])
def test_storing_is_unbiased_and_close(name, signed):
    """Relative to the spread of the block; the mean over many draws of the noise is the value."""
    slot, fmt = Slot(signed=signed), formats.Format.parse(name)
    x = jax.random.normal(jax.random.key(1), (2, 256)) * 1e-3
    x = x if signed else x**2
    draw = lambda i: fmt.decode(fmt.encode(x, slot, formats.hashed(x.shape, i)), slot, jnp.float32)
    many = jax.jit(jax.vmap(draw))(jnp.arange(512, dtype=jnp.uint32))
    rms = lambda v: float(jnp.sqrt(jnp.mean(v**2)))
    assert rms(many[0] - x) < {"bf16": 0.004, "fp8:128": 0.05, "int8:128": 0.02, "coat:128": 0.06}[name] * rms(x)
    # int8 of what is not negative and coat round in another scale, so they are not unbiased to first order.
    assert rms(jnp.mean(many, 0) - x) < (0.01 if name in ("bf16", "fp8:128") else 0.02) * rms(x)


@pytest.mark.slow
def test_coat_fills_the_range_and_undoes_itself():
    fmt, slot = formats.Format.parse("coat:128"), Slot()
    x = jnp.exp(jnp.linspace(-1, 1, 128))[None]
    stored = fmt.encode(x, slot, jnp.zeros(x.shape, jnp.uint32))
    q = np.abs(np.asarray(stored["q"], np.float32))
    assert q.max() == 448 and q.min() <= 448 / formats.FP8_RANGE * 4
    for odd in (jnp.zeros((1, 128)), jnp.ones((1, 128)), jnp.eye(1, 128)):
        back = fmt.decode(fmt.encode(odd, slot, jnp.full(odd.shape, 1 << 31, jnp.uint32)), slot, jnp.float32)
        np.testing.assert_allclose(back, odd, rtol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_memory_report_is_what_is_held(name):
    tx = optim.transform(optim.rules.Adam(), 1e-3, formats=name)
    params = tree()
    held = sum(v.nbytes for v in jax.tree.leaves(tx.init(params)))
    size = sum(v.size for v in jax.tree.leaves(params))
    assert optim.slot_bytes(tx, params)["all"] * size == pytest.approx(held, abs=1e-6)


@pytest.mark.parametrize("name", FORMATS[1:])
def test_training_in_a_format_follows_float32(name):
    grad = lambda p, t: jax.tree.map(lambda v: v - 0.3 + 0.1 * jnp.sin(7.0 * v + t), p)
    wide, _ = steps(optim.adam(0.01), tree(), grad, 60)
    low, _ = steps(optim.adam(0.01, formats=name), tree(), grad, 60)
    far = float(jnp.linalg.norm(wide["w"] - tree()["w"]))
    assert float(jnp.linalg.norm(wide["w"] - low["w"])) < 0.08 * far


def test_independent_decay_does_not_know_the_peak():
    for peak in (1e-3, 1e-1):
        tx = optim.adamw(peak, weight_decay=optim.independent(1e-4, peak))
        zero = jax.tree.map(jnp.zeros_like, tree())
        delta, _ = tx.update(zero, tx.init(tree()), tree())
        np.testing.assert_allclose(delta["w"], -1e-4 * tree()["w"], rtol=1e-5)


def test_scheduled_numbers_are_data():
    """Another peak and another length of the schedule: the same program."""
    tx = optim.adam(optim.make_schedule("cosine", 1e-3, 100, 10))
    update = jax.jit(tx.update)
    state = tx.init(tree())
    _, state = update(tree(), state, tree())
    assert float(state.hyper["learning_rate"]) == pytest.approx(1e-4)
    other = optim.set_hyper(state, learning_rate=optim.make_schedule("cosine", 2e-3, 50, 5))
    _, after = update(tree(), other, tree())
    assert float(after.hyper["learning_rate"]) == pytest.approx(8e-4) and update._cache_size() == 1


def test_vmap_over_learning_rates():
    def end(rate):
        tx = optim.sgd(rate, momentum=0.0)
        delta, _ = tx.update(tree(), tx.init(tree()), tree())
        return delta["b"][0]

    np.testing.assert_allclose(jax.vmap(end)(jnp.array([0.1, 1.0])), [-0.05, -0.5], rtol=1e-6)


def test_spikes_are_skipped_and_counted():
    tx = optim.sgd(0.1, momentum=0.0, skip_spikes=6.0, clip_norm=1e6)
    grad = lambda p, t: jax.tree.map(lambda v: jnp.full_like(v, 1.0 + 0.1 * np.sin(t)), p)
    params, state = steps(tx, tree(), grad, 40)
    for factor, taken in ((1.05, True), (100.0, False), (jnp.nan, False), (0.95, True)):
        big = jax.tree.map(lambda v, f=factor: jnp.full_like(v, f), params)
        delta, after = tx.update(big, state, params)
        assert bool(jnp.any(delta["w"] != 0)) == taken
        assert int(after.taken) == int(state.taken) + taken and int(after.step) == int(state.step) + 1
        assert float(after.shared["skipped"]) == float(state.shared["skipped"]) + (not taken)
        state = after


def test_clipping_is_of_all_leaves_together_and_counted():
    tx = optim.sgd(1.0, momentum=0.0, clip_norm=1.0, metrics=True)
    delta, state = tx.update(tree(), tx.init(tree()), tree())
    size = float(guard.norm(list(tree().values())))
    assert float(guard.norm(list(delta.values()))) == pytest.approx(1.0, rel=1e-5)
    assert float(state.metrics["grad_norm"]) == pytest.approx(size, rel=1e-5)
    assert float(state.shared["clipped"]) == 1.0
    assert float(state.metrics["update_ratio/matrix"]) == pytest.approx(1 / size, rel=1e-5)


def test_groups():
    groups = {
        "matrices": optim.Group(optim.rules.Lion(), kinds=("matrix",)),
        "rest": optim.Group(optim.rules.Adam(), factor=0.5),
    }
    tx = optim.grouped(groups, 0.01, decay_mask=dict(w=True, b=True))
    params, state = steps(tx, tree(), lambda p, t: p, 3)
    lion, _ = steps(optim.lion(0.01), tree(), lambda p, t: p, 3)
    adam, _ = steps(optim.adam(0.005), tree(), lambda p, t: p, 3)
    np.testing.assert_allclose(params["w"], lion["w"], rtol=1e-6)
    np.testing.assert_allclose(params["b"], adam["b"], rtol=1e-6)
    assert len(jax.tree.leaves(state["matrices"].slots)) == 1 and len(jax.tree.leaves(state["rest"].slots)) == 2
    assert "1 matrix: decayed" in optim.report(tx, tree())
    specs = tx.specs(tree(), dict(b=P(), w=P(None, "tensor")), dict(tensor=2))
    assert tuple(specs["matrices"].slots["m"]["w"]) == (None, "tensor")


def test_options_of_groups_may_be_for_some_of_them():
    """A mask that lets no leaf of one group decay, a format of a slot and a pattern of copies that one group has."""
    groups = {"matrices": optim.Group(optim.rules.Adamw(), kinds=("matrix",)), "rest": optim.Group(optim.rules.Lion())}
    mask, params = dict(w=True, b=False), dict(tree(), w=tree()["w"][None])
    tx = optim.grouped(groups, 0.1, decay_mask=mask, formats=dict(v="bf16"), copies=dict(w=1))
    state = tx.init(params)
    assert state["matrices"].slots["v"]["w"].dtype == jnp.bfloat16
    delta, _ = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
    assert not np.any(delta["b"]) and np.any(delta["w"])
    assert "1 matrix: decayed\n1 vector: not decayed" in optim.report(tx, params)


def test_specs_with_zero():
    tx = optim.adam(1e-3, formats=dict(v="fp8:128"))
    specs = tx.specs(tree(), dict(b=P(), w=P("fsdp", None)), dict(data=2, fsdp=2, tensor=2), zero=("data",))
    assert tuple(specs.slots["m"]["w"]) == ("fsdp", "data") and tuple(specs.slots["m"]["b"]) == ("data",)
    assert (
        tuple(specs.slots["v"]["w"]["q"]) == ("fsdp", "data")
        and tuple(specs.slots["v"]["w"]["scale"]) == (("fsdp", "data"),)
        or (tuple(specs.slots["v"]["w"]["scale"]) == ("fsdp", "data"))
    )
    assert specs.step == P()


@pytest.mark.slow
def test_fused_scan_equals_backward_then_update():
    rng = np.random.default_rng(0)
    layers = dict(w=jnp.asarray(rng.normal(size=(3, 8, 8)) * 0.3, jnp.float32), b=jnp.zeros((3, 8)))
    x = jnp.asarray(rng.normal(size=(5, 8)), jnp.float32)
    block = lambda p, x: x + jnp.tanh(x @ p["w"] + p["b"][None])
    value = lambda y: jnp.sum(y**2)
    rule = optim.rules.Lamb()
    scan = optim.FusedScan(block, optim.transform(rule, 0.05))
    tx = optim.transform(rule, 0.05, copies={"": 1})
    params, state, fused, held = layers, tx.init(layers), layers, scan.init(layers)
    assert jax.tree.structure(state) == jax.tree.structure(held)

    @jax.jit
    def fused_step(layers, state):
        y, saved = scan.forward(layers, x)
        return scan.backward(layers, state, saved, jax.grad(value)(y))

    for _ in range(3):
        run = lambda layers: value(jax.lax.scan(lambda x, p: (block(p, x), None), x, layers)[0])
        delta, state = tx.update(jax.grad(run)(params), state, params)
        params = optax.apply_updates(params, delta)
        _, fused, held = fused_step(fused, held)
    np.testing.assert_allclose(fused["w"], params["w"], rtol=1e-5, atol=1e-6)
    assert int(held.step) == int(state.step)


def test_fused_scan_holds_the_gradient_of_one_layer():
    n, d = 8, 64
    layers = dict(w=jnp.zeros((n, d, d)))
    x = jnp.ones((2, d))
    block = lambda p, x: x + jnp.tanh(x @ p["w"])
    scan, tx = optim.FusedScan(block, optim.adam(0.1)), optim.adam(0.1, copies={"": 1})

    def fused(layers, state):
        y, saved = scan.forward(layers, x)
        return scan.backward(layers, state, saved, y)[1:]

    def plain(layers, state):
        run = lambda layers: jnp.sum(jax.lax.scan(lambda x, p: (block(p, x), None), x, layers)[0] ** 2) / 2
        delta, state = tx.update(jax.grad(run)(layers), state, layers)
        return optax.apply_updates(layers, delta), state

    temp = lambda f, state: (
        jax.jit(f, donate_argnums=(0, 1)).lower(layers, state).compile().memory_analysis().temp_size_in_bytes
    )
    whole = 4 * n * d * d
    assert temp(fused, scan.init(layers)) < 0.7 * whole < temp(plain, tx.init(layers))


GROUP, ADAM = optim.Group, optim.rules.Adam()
BAD = {
    "mask for nothing": (lambda: optim.adamw(1e-3, decay_mask=dict(w=False, b=False)), "decay_mask: True for none"),
    "mask without a leaf": (lambda: optim.adamw(1e-3, decay_mask=dict(w=True)), "b: decay_mask has no entry"),
    "negative rate": (lambda: optim.adam(-1.0), "learning_rate must be finite and not negative"),
    "nan rate": (lambda: optim.adam(float("nan")), "learning_rate must be finite"),
    "unknown format": (lambda: optim.adam(1e-3, formats="fp4"), "unknown slot format 'fp4'"),
    "format without block": (lambda: optim.adam(1e-3, formats="fp8"), "unknown slot format 'fp8'"),
    "unknown slot": (lambda: optim.adam(1e-3, formats=dict(q="bf16")), "Adam has no slot 'q'; its slots are m, v"),
    "block that does not divide": (lambda: optim.adam(1e-3, formats="fp8:96"), "w: blocks of 96 do not divide"),
    "empty group": (
        lambda: optim.grouped({"a": GROUP(ADAM, kinds=("conv",)), "b": GROUP(ADAM)}, 1e-3),
        "group 'a' takes no parameter",
    ),
    "leaf without a group": (
        lambda: optim.grouped({"a": GROUP(ADAM, kinds=("matrix",))}, 1e-3),
        "b: no group takes this parameter",
    ),
    "mask for nothing in any group": (
        lambda: optim.grouped({"a": GROUP(ADAM)}, 1e-3, decay_mask=dict(w=False, b=False)),
        "decay_mask: True for none of 2 parameters",
    ),
    "format of no group": (
        lambda: optim.grouped({"a": GROUP(ADAM)}, 1e-3, formats=dict(q="bf16")),
        "formats: no group has a slot 'q'; there are all, m, v",
    ),
    "mask with a leaf too many": (
        lambda: optim.adamw(1e-3, decay_mask=dict(w=True, b=False, x=True)),
        "x: decay_mask has an entry for a parameter that is not there",
    ),
    "negative decay": (lambda: optim.adamw(1e-3, weight_decay=-0.1), "weight_decay must be finite and not negative"),
    "unknown format of a slot": (lambda: optim.adam(1e-3, formats=dict(m="int4:32")), "unknown slot format 'int4:32'"),
    "bad b1": (lambda: optim.adam(1e-3, b1=1.0), "b1 must be in [0, 1)"),
    "copies for nothing": (lambda: optim.adam(1e-3, copies=dict(layers=1)), "'layers' matches no parameter"),
    "scales without a leaf": (lambda: optim.adam(1e-3, scales=dict(w=1.0)), "b: scales has no entry"),
    "clip of zero": (lambda: optim.adam(1e-3, clip_norm=0.0), "clip_norm must be positive"),
    "a name twice": (lambda: optim.cautious(1e-3, inner="cautious"), "both have a hyperparameter 'floor'"),
    "unknown inner": (lambda: optim.cautious(1e-3, inner="adamm"), "unknown optimizer 'adamm'; did you mean adam"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_that_names_it(name):
    make, said = BAD[name]
    with pytest.raises(ValueError) as error:
        make().init(tree())
    assert said in str(error.value) and "\n" not in str(error.value)


NEEDS = {
    "value_fn": (optim.sam(1e-3), optim.mars(1e-3, exact=True)),
    "sampled_grads": (optim.sophia_g(1e-3),),
    "microbatch_grads": (optim.agvm(1e-3),),
    "task": (optim.mt_adamw(1e-3, shares=(0.5, 0.5)),),
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_extra_argument_is_named(name):
    for tx in NEEDS[name]:
        assert tx.needs == (name,)
        with pytest.raises(ValueError, match=rf"^\w+: update needs the extra argument {name}=\.\.\.$"):
            tx.update(tree(), tx.init(tree()), tree())


def test_gradients_that_do_not_fit_are_named():
    tx = optim.adam(1e-3)
    with pytest.raises(ValueError, match="w: no gradient for this parameter"):
        tx.update(dict(b=tree()["b"]), tx.init(tree()), tree())
    with pytest.raises(ValueError, match="update needs the parameters"):
        tx.update(tree(), tx.init(tree()))


def test_in_an_optax_chain_and_without_gradients_for_some():
    tx = optax.chain(optax.clip_by_global_norm(1.0), optim.adamw(1e-3))
    params = dict(tree(), frozen=None)
    state = tx.init(params)
    delta, _ = tx.update(params, state, params)
    assert delta["frozen"] is None and bool(jnp.isfinite(delta["w"]).all())


def test_noise_of_hash_is_uniform_and_without_pattern():
    noise = np.asarray(formats.hashed((512, 512), jnp.uint32(1)) >> 16, np.float64) / 65536
    assert abs(noise.mean() - 0.5) < 5 / np.sqrt(12 * noise.size)
    for axis in (0, 1):
        pair = np.corrcoef(np.delete(noise, 0, axis).ravel(), np.delete(noise, -1, axis).ravel())[0, 1]
        assert abs(pair) < 5 / np.sqrt(noise.size)


def test_leaf_statistics_do_not_cross_copies():
    leaf = Leaf("w", (2, 3, 4), jnp.float32, "matrix", copies=1)
    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_allclose(leaf.norm(x)[:, 0, 0], jnp.linalg.norm(x.reshape(2, 12), axis=1), rtol=1e-6)
    assert leaf.size == 12 and leaf.matrix and leaf.scalar == (2, 1, 1)
