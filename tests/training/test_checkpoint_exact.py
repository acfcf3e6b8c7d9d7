"""Checkpoints are exact: bit for bit, for every kind of leaf, on any mesh, and although the buffers are donated."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxlib_ext.training.checkpoint import Checkpoints


class Pair(NamedTuple):
    left: jax.Array
    right: dict


def mesh(**axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(jax.sharding.AxisType.Auto,) * len(axes))


def by_eight(leaf):
    """Over 8 devices along the first axis that divides."""
    spec = [None] * leaf.ndim
    for i, size in enumerate(leaf.shape):
        if size and size % 8 == 0:
            spec[i] = "fsdp"
            break
    return NamedSharding(mesh(fsdp=8), PartitionSpec(*spec))


def by_four_and_two(leaf):
    spec = [None] * leaf.ndim
    for i, size in enumerate(leaf.shape):
        if size and size % 4 == 0 and "fsdp" not in spec:
            spec[i] = "fsdp"
        elif size and size % 2 == 0 and "tensor" not in spec:
            spec[i] = "tensor"
    return NamedSharding(mesh(fsdp=4, tensor=2), PartitionSpec(*spec))


def on_one(_):
    return SingleDeviceSharding(jax.devices()[3])


PLACES = {"fsdp=8": by_eight, "fsdp=4,tensor=2": by_four_and_two, "one": on_one}


def abstract(tree, place):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place(a)), tree)


def bits(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(found, want):
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for path, a in jax.tree.leaves_with_path(want):
        b = dict(jax.tree.leaves_with_path(found))[path]
        assert (b.shape, b.dtype) == (a.shape, a.dtype) and bits(b) == bits(a), path


def rich_tree():
    """Every kind of leaf and container that a training state has."""
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.standard_normal((8, 16)), jnp.float32).at[0, :4].set(jnp.array([-0.0, jnp.inf, jnp.nan, 1e-42]))
    params = {"unit": {"0": {"q": w, "scale": jnp.full((16,), 1 / 3, jnp.bfloat16)}}, "odd": jnp.arange(7.0)}
    return {
        "params": params,
        "opt": optax.adamw(1e-3).init(params),
        "pair": Pair(jnp.asarray(rng.integers(-5, 5, (4, 8)), jnp.int32), {"mask": jnp.arange(16) % 3 == 0}),
        "mixed": (jnp.asarray(rng.integers(0, 256, 24), jnp.uint8), [jnp.int32(5)], None, {}),
        "data": jax.random.key_data(jax.random.key(7)),
        "key": jax.random.split(jax.random.key(8), 8),
        "small": jnp.asarray(rng.standard_normal(16), jnp.float8_e4m3fn),
        "empty": {"time": jnp.zeros((0, 8), jnp.bfloat16), "width": jnp.zeros((8, 0), jnp.int32)},
        "none": None,
    }


def restore(checkpoints, tree, step=None):
    found = checkpoints.restore(tree, step)
    assert found is not None
    return found


def test_a_round_trip_on_any_mesh_is_exact_to_the_bit(tmp_path):
    want, extra = rich_tree(), dict(data=dict(samples=12, seed=3), config=dict(lr=0.1, name="é"))
    tree = want
    with Checkpoints(tmp_path / "new" / "checkpoints") as checkpoints:
        assert checkpoints.restore(abstract(tree, on_one)) is None
        for step, (before, after) in enumerate(
            [("fsdp=8", "fsdp=4,tensor=2"), ("fsdp=4,tensor=2", "one"), ("one", "fsdp=8")], 1
        ):
            tree = jax.device_put(tree, jax.tree.map(PLACES[before], tree))
            checkpoints.save(step, tree, extra)
            checkpoints.wait()
            assert checkpoints.latest() == step and checkpoints.read_extra(step) == extra
            aim = abstract(tree, PLACES[after])
            found_step, tree, found_extra = restore(checkpoints, aim)
            assert found_step == step and found_extra == extra
            assert_same(tree, want)
            for path, leaf in jax.tree.leaves_with_path(tree):
                aimed = dict(jax.tree.leaves_with_path(aim))[path].sharding
                assert leaf.sharding.is_equivalent_to(aimed, leaf.ndim), path
    assert checkpoints.steps() == [2, 3]


def test_without_shardings_a_tree_comes_to_the_first_device(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jax.device_put(jnp.arange(8.0), by_eight(jnp.arange(8.0)))}, {})
    _, tree, _ = restore(Checkpoints(tmp_path), {"w": jax.ShapeDtypeStruct((8,), jnp.float32)})
    assert tree["w"].devices() == {jax.devices()[0]} and tree["w"].tolist() == list(range(8))


def test_buffers_may_be_donated_as_soon_as_save_returns(tmp_path):
    place = NamedSharding(mesh(fsdp=8), PartitionSpec("fsdp"))
    update = jax.jit(lambda tree: {k: v * 3 + 1 for k, v in tree.items()}, donate_argnums=0)
    tree = {str(i): jax.device_put(jnp.full((1 << 17,), i, jnp.int32), place) for i in range(8)}
    want = {k: np.array(v) for k, v in tree.items()}
    in_place = False
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree, {})
        for _ in range(30):
            before, tree = tree, update(tree)
            in_place |= before["0"].is_deleted()
        jax.tree.map(lambda a: a.delete(), tree)
        checkpoints.wait()
        _, found, _ = restore(checkpoints, {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in want.items()})
    assert in_place, "nothing was donated, so nothing was tried"
    assert_same(found, want)
