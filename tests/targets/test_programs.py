"""Reading compiled programs: known programs on host devices, and the formats of the other compilers as text."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlib_ext import sharding
from jaxlib_ext.targets.collectives import collectives
from jaxlib_ext.targets.flops import matmul_flops
from jaxlib_ext.targets.groups import axes, groups
from jaxlib_ext.targets.hlo import parse
from jaxlib_ext.targets.loops import runs
from jaxlib_ext.targets.topology import coordinates
from jaxlib_ext.targets.traffic import memory_bytes

DEPTH, WIDTH, ROWS = 3, 64, 16


@pytest.fixture(scope="module")
def program():
    """(mesh, text): gradient descent on a chain of matrices, which are gathered over fsdp and split over tensor."""
    mesh = sharding.make_mesh("fsdp=4,tensor=2")
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))

    def update(w, x):
        def body(x, w):
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), place("fsdp", None)), None

        def loss(w):
            return jnp.sum(jax.lax.scan(body, x, w)[0] ** 2)

        return w - 0.1 * jax.grad(loss)(w)

    w = jax.ShapeDtypeStruct((DEPTH, WIDTH, WIDTH), jnp.float32, sharding=place(None, "fsdp", "tensor"))
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=place("fsdp", None))
    return mesh, jax.jit(update, donate_argnums=0).lower(w, x).compile().as_text()


def found(mesh, text):
    module = parse(text)
    return collectives(module, runs(module), coordinates(mesh), mesh.axis_names)


def test_every_collective_is_found_with_its_axis_times_and_bytes(program):
    gathers = [c for c in found(*program) if c.kind == "all-gather" and c.axes == ("fsdp",)]
    assert [c.times for c in gathers] == [DEPTH, DEPTH]  # forwards and backwards
    assert {(c.group, c.nbytes) for c in gathers} == {(4, WIDTH * WIDTH // 2 * 4)}
    reduced = [c for c in found(*program) if c.kind in ("all-reduce", "reduce-scatter") and c.axes == ("fsdp",)]
    assert [(c.times, c.nbytes) for c in reduced] == [(DEPTH, WIDTH * WIDTH // 2 * 4)]
    assert {c.axes for c in found(*program)} == {("fsdp",), ("tensor",)}


SPARSE_CORE = """HloModule s, num_partitions=8

%called (p: bf16[4,32]) -> bf16[32,32] {
  %p = bf16[4,32]{1,0} parameter(0)
  ROOT %g = bf16[32,32]{1,0} all-gather(%p), channel_id=1, replica_groups=mesh['axis_0'=8] {'axis_0'}, dimensions={0}
}

ENTRY %main (a: bf16[4,32]) -> bf16[32,32] {
  %a = bf16[4,32]{1,0} parameter(0)
  %s = ((bf16[4,32]{1,0}), bf16[32,32]{1,0}) call-start(%a), async_execution_thread="sparsecore", to_apply=%called
  ROOT %d = bf16[32,32]{1,0} call-done(%s)
}
"""


def test_a_collective_on_another_engine_is_found():
    (gather,) = found(sharding.make_mesh("fsdp=8"), SPARSE_CORE)
    assert (gather.kind, gather.axes, gather.times, gather.nbytes) == ("all-gather", ("fsdp",), 1, 32 * 32 * 2)


def test_trip_counts_are_read_from_the_loop_where_the_compiler_does_not_print_them(program):
    mesh, text = program
    known = {f'"known_trip_count":{{"n":"{DEPTH}"}}', '"known_init_step":{"init":"0","step":"1"},'}
    bare = text
    for part in known:
        assert part in bare
        bare = bare.replace(part, "")
    assert "known_trip_count" not in bare and runs(parse(bare)).unknown == ()
    assert runs(parse(bare)).times == runs(parse(text)).times


def test_flops_are_those_of_the_products(program):
    flops, hidden = matmul_flops(parse(program[1]), runs(parse(program[1])))
    assert flops == {"f32": 3 * DEPTH * 2 * (ROWS // 4) * WIDTH * (WIDTH // 2)} and hidden == ()


def test_memory_traffic_without_loops_is_the_compilers_own():
    f = lambda a, b: (jnp.sin(a) @ jnp.cos(b) + 1.0, a[:8] * 2.0)
    a = jnp.ones((256, 256))
    compiled = jax.jit(f).lower(a, a).compile()
    module = parse(compiled.as_text())
    said = compiled.cost_analysis()["bytes accessed"]
    assert memory_bytes(module, runs(module)) == pytest.approx(said, rel=0.05)


def test_a_loop_that_depends_on_data_is_named_and_counted_once():
    f = lambda x: jax.lax.while_loop(lambda x: jnp.sum(x) < 100.0, lambda x: x @ x, x)
    text = jax.jit(f).lower(jnp.ones((8, 8))).compile().as_text()
    module = parse(text)
    assert len(runs(module).unknown) == 1
    assert matmul_flops(module, runs(module))[0] == {"f32": 2 * 8**3}


CONVOLUTION = """HloModule c
ENTRY %main (a: bf16[8,16,32], b: bf16[8,32,64]) -> bf16[8,16,64] {
  %a = bf16[8,16,32]{2,1,0} parameter(0)
  %b = bf16[8,32,64]{2,1,0} parameter(1)
  ROOT %c = bf16[8,16,64]{2,1,0} convolution(%a, %b), window={WINDOW}, dim_labels=0bf_0io->0bf
}
"""


def test_a_batched_product_written_as_a_convolution_counts_as_the_product():
    """The form that XLA gives to batch dimensions on a TPU: every tap meets one element, the rest are holes."""
    window = "size=8 stride=7 pad=7_7 lhs_dilate=8 rhs_reversal=1"
    text = CONVOLUTION.replace("{WINDOW}", "{" + window + "}")
    module = parse(text)
    assert matmul_flops(module, runs(module))[0] == {"bf16": 8 * 2 * 16 * 32 * 64}


def test_axes_of_groups():
    at = np.stack(np.unravel_index(np.arange(8), (4, 2)), -1)
    names = ("fsdp", "tensor")
    assert axes(groups("[2,4]<=[4,2]T(1,0)", 8), at, names) == ("fsdp",)
    assert axes(groups("[4,2]<=[8]", 8), at, names) == ("tensor",)
    assert axes(groups("{}", 8), at, names) == names
    ids = "mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}"
    assert groups(ids, 8).tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_groups_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match="cannot read the replica groups"):
        groups("something else", 4)
    with pytest.raises(ValueError, match="no compiled program"):
        parse("nothing")


def test_groups_cover_all_devices_once():
    for text in ("[8,4]<=[4,8]T(1,0)", "mesh['a'=2,'b'=4,'c'=4] {'a','c'}", "mesh['a'=8,'b'=4] {'a':(2)2,'b'}"):
        rows = groups(text, 32)
        assert sorted(rows.ravel().tolist()) == list(range(32)) and math.prod(rows.shape) == 32
