"""The report against what real arrays hold, and the check that no mesh axis is idle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxlib_ext import param, sharding
from jaxlib_ext.sharding import RULES, make_mesh

DECL = dict(
    embed=param.embed(vocab=32, embed=16),
    unit=param.stack(
        dict(
            norm=param.gain(embed=16),
            q=param.matrix(dict(embed=16), dict(heads=4, head_dim=4)),
            up=param.matrix(dict(embed=16), dict(gate=2, ff=24), dtype=jnp.bfloat16),
        ),
        layers=3,
    ),
    steps=param.buffer(dtype=jnp.int32),
)
MESHES = ["", "fsdp=8", "fsdp=4,tensor=2", "data=2,tensor=4", "data=2,fsdp=2,tensor=2"]


@pytest.mark.parametrize("text", MESHES)
def test_the_bytes_are_those_of_the_real_arrays(text):
    mesh = make_mesh(text)
    where = sharding.shardings(DECL, mesh)
    params = jax.device_put(param.zeros(DECL), where)

    lines = sharding.report(DECL, mesh).splitlines()
    rows = {line.split()[0]: int(line.split()[-1].replace(",", "")) for line in lines[1:-1]}
    paths, values = jax.tree.leaves(param.paths(DECL)), jax.tree.leaves(params)
    for device in mesh.devices.flat:
        held = [sum(s.data.nbytes for s in v.addressable_shards if s.device == device) for v in values]
        assert rows == dict(zip(paths, held, strict=True))
    whole = sum(v.nbytes for v in values if v.sharding.is_fully_replicated)
    here, total = sum(rows.values()), sum(v.nbytes for v in values)
    assert lines[-1].split(maxsplit=1)[1] == (
        f"{total:,} bytes, {here:,} per device on {sharding.write_mesh(mesh.shape)}; "
        f"{100 * whole / total:.1f}% replicated"
    )
    assert len({len(line) for line in lines[:-1]}) == 1  # columns are aligned


def test_sharded_and_whole_initial_values_are_the_same():
    mesh = make_mesh("fsdp=4,tensor=2")
    parts = param.init(DECL, jax.random.key(0), sharding.shardings(DECL, mesh))
    whole = jax.jit(lambda key: param.init(DECL, key))(jax.random.key(0))
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        # Equal but for the last bits: compiled for other lengths, the normal quantile rounds differently.
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=1e-5)
    assert {v.sharding for v in jax.tree.leaves(parts)} == set(jax.tree.leaves(sharding.shardings(DECL, mesh)))


def test_it_needs_no_devices():
    mesh = jax.sharding.AbstractMesh((32, 8), ("fsdp", "tensor"))
    decl = dict(up=param.matrix(dict(embed=8192), dict(ff=28672)))
    sharding.check(decl, mesh)
    assert sharding.report(decl, mesh).splitlines()[1].split()[-1] == f"{8192 * 28672 * 4 // 256:,}"


def test_a_mesh_axis_that_shards_nothing():
    for text in MESHES:
        sharding.check(DECL, make_mesh(text))
    with pytest.raises(ValueError, match="^mesh axis expert=2 shards nothing: no parameter and not the batch$"):
        sharding.check(DECL, make_mesh("fsdp=4,expert=2"))
    with pytest.raises(ValueError, match="mesh axis tensor=2 shards nothing"):
        sharding.check(DECL, make_mesh("fsdp=4,tensor=2"), RULES | dict.fromkeys(["vocab", "heads", "ff"]))
    sharding.check(DECL, make_mesh("sequence=8"))  # parts of the batch's time axis
    sharding.check(DECL, make_mesh("fsdp=8,expert=1"))  # one part of something is no promise
    vectors = dict(norm=param.gain(embed=16))
    sharding.check(vectors, make_mesh("fsdp=8"))  # no parameter, but the batch
    with pytest.raises(ValueError, match="mesh axis fsdp=8 shards nothing"):
        sharding.check(vectors, make_mesh("fsdp=8"), RULES | {"batch": "data"})


def test_other_faults_are_named():
    with pytest.raises(ValueError, match=r"unit/q: axis heads=4 does not divide over tensor=8"):
        sharding.check(DECL, make_mesh("tensor=8"))
    odd = dict(w=param.matrix(dict(embed=8), dict(odd=8), extra_axes=("odd",)))
    with pytest.raises(ValueError, match="w: the sharding rules have no row for axis 'odd'"):
        sharding.report(odd, make_mesh("fsdp=8"))
    assert "fsdp" in sharding.report(odd, make_mesh("fsdp=8"), RULES | {"odd": None})


def test_the_batch():
    mesh = make_mesh("data=2,fsdp=2,sequence=2")
    assert sharding.batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp"), "sequence")
    assert sharding.batch_sharding(make_mesh("tensor=8")).spec == PartitionSpec()
    assert sharding.batch_sharding(mesh, batch=8, time=6).shard_shape((8, 6)) == (2, 3)
    with pytest.raises(ValueError, match=r"axis batch=6 does not divide over data\*fsdp=4"):
        sharding.batch_sharding(mesh, batch=6, time=6)
    with pytest.raises(ValueError, match="axis time=5 does not divide over sequence=2"):
        sharding.batch_sharding(mesh, batch=8, time=5)
