"""constrain changes where arrays lie and nothing else."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlib_ext.sharding import RULES, constrain, make_mesh

X = np.arange(8 * 4 * 16, dtype=np.float32).reshape(8, 4, 16) / 100


def layout_of(array) -> tuple:
    """The part of one device along each dimension."""
    return array.sharding.shard_shape(array.shape)


def collectives(f, *arguments) -> set[str]:
    text = jax.jit(f).lower(*arguments).compile().as_text() or ""
    return {name for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if name in text}


def test_without_a_mesh_or_on_one_device_it_is_the_identity():
    x = jnp.asarray(X)
    assert constrain(x, "batch time embed") is x
    with jax.set_mesh(make_mesh("fsdp=1", jax.devices()[:1])):
        assert constrain(x, "batch time embed") is x
        assert "sharding" not in str(jax.make_jaxpr(lambda x: constrain(x, "batch time embed"))(x))


@pytest.mark.parametrize("mesh", ["fsdp=4,tensor=2", None])
def test_faults_name_what_is_wrong_with_and_without_a_mesh(mesh):
    x = jnp.asarray(X)
    with jax.set_mesh(make_mesh(mesh)) if mesh else contextlib.nullcontext():
        with pytest.raises(ValueError, match=r"^'batch time' names 2 axes, the array has shape \(8, 4, 16\)$"):
            constrain(x, "batch time")
        with pytest.raises(ValueError, match="no row for axis 'tme'"):
            constrain(x, "batch tme embed")
        with pytest.raises(ValueError, match="an axis is named twice"):
            constrain(x, "batch time time")


def test_a_size_that_does_not_divide_is_named():
    with jax.set_mesh(make_mesh("fsdp=4,tensor=2")):
        with pytest.raises(ValueError, match="'batch time ff'.*axis batch=6 does not divide over fsdp=4"):
            jax.jit(lambda x: constrain(x, "batch time ff"))(X[:6])


def test_a_mesh_with_explicit_axes_is_refused():
    with jax.set_mesh(jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Explicit,))):
        with pytest.raises(ValueError, match="needs a mesh with Auto axes, 'fsdp' is Explicit"):
            constrain(jnp.asarray(X), "batch time embed")


def test_it_decides_where_the_compiled_program_keeps_the_array():
    with jax.set_mesh(make_mesh("fsdp=4,tensor=2")):
        x = jnp.asarray(X)
        for names, part in (("batch time embed", (2, 4, 16)), ("batch time ff", (2, 4, 8))):
            compiled = jax.jit(lambda x, names=names: constrain(x * 2, names)).lower(x).compile()
            assert compiled.output_shardings.shard_shape(x.shape) == part
            assert f"f32[{','.join(map(str, part))}]" in str(compiled.as_text())
        plain = jax.jit(lambda x: x * 2).lower(x).compile()
        assert plain.output_shardings.shard_shape(x.shape) == X.shape  # what the test would see if it did nothing
        assert layout_of(constrain(x, "batch time ff")) == (2, 4, 8)  # outside of jit too


def test_it_decides_which_collectives_run():
    mesh = make_mesh("fsdp=4,tensor=2")
    w = jax.device_put(np.ones((16, 32), np.float32), NamedSharding(mesh, PartitionSpec(None, "tensor")))
    with jax.set_mesh(mesh):

        def f(x, w, held):
            y = jnp.tanh(held(x) @ w)
            return (held(y) ** 2).sum()

        names = {16: "batch time embed", 32: "batch time ff"}
        free = collectives(lambda x, w: f(x, w, lambda y: y), X, w)
        held = collectives(lambda x, w: f(x, w, lambda y: constrain(y, names[y.shape[-1]])), X, w)
        whole = collectives(lambda x, w: f(x, w, lambda y: constrain(y, "batch time embed")), X, w)
    assert "all-reduce" in free and "all-reduce" in held
    assert "all-gather" not in held and "all-gather" in whole  # embed is whole, so the product is gathered


def test_values_and_gradients_under_jit_scan_checkpoint_and_vmap():
    w = np.linspace(-1, 1, 16 * 16, dtype=np.float32).reshape(16, 16) / 4

    def loss(w, x, held):
        @jax.checkpoint
        def body(y, _):
            y = held(jnp.tanh(y @ w), "batch time embed")
            return y, held(y.sum(1), "batch embed").sum()

        y, sums = jax.lax.scan(body, held(x, "batch time embed"), None, length=3)
        return (y**2).sum() + sums.sum()

    def both(held):
        return jax.jit(jax.value_and_grad(functools.partial(loss, held=held)))

    expected = both(lambda x, names: x)(w, X)
    with jax.set_mesh(make_mesh("fsdp=4,tensor=2")):
        found = both(constrain)(w, X)
        copies = jax.jit(jax.vmap(lambda x: constrain(x * 2, "time embed")))(X)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))
    np.testing.assert_array_equal(copies, 2 * X)


def test_under_vmap_the_new_dimension_stays_free():
    mesh = make_mesh("fsdp=4,tensor=2")
    x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("fsdp")))
    with jax.set_mesh(mesh):
        y = jax.jit(jax.vmap(lambda x: constrain(x * 2, "time ff")))(x)
    assert layout_of(y) == (2, 4, 8)


def test_inside_shard_map_only_the_axes_left_to_the_compiler_count():
    mesh = make_mesh("fsdp=4,tensor=2")
    seen = []

    def f(x):
        y = constrain(x * 2, "batch time ff")
        seen.append(str(jax.make_jaxpr(lambda x: constrain(x, "batch time ff"))(x)))
        return y

    with jax.set_mesh(mesh):
        part = PartitionSpec("fsdp")
        g = jax.shard_map(f, in_specs=part, out_specs=part, axis_names={"fsdp"})
        np.testing.assert_array_equal(jax.jit(g)(X), 2 * X)
        assert layout_of(jax.jit(g)(X)) == (2, 4, 8)
        manual = jax.shard_map(f, in_specs=part, out_specs=part)
        np.testing.assert_array_equal(jax.jit(manual)(X), 2 * X)
    assert "tensor" in seen[0] and "sharding_constraint" not in seen[-1]


def test_own_rules():
    with jax.set_mesh(make_mesh("fsdp=4,tensor=2")):
        y = jax.jit(lambda x: constrain(x * 2, "batch time embed", RULES | {"batch": None}))(X)
    assert layout_of(y) == (8, 4, 4)
