"""Training steps compiled for devices that are absent, and what their reports say."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxlib_ext import optim, sharding, targets
from jaxlib_ext.models.token_mixers import TOKEN_MIXERS
from jaxlib_ext.targets import verify

pytestmark = pytest.mark.targets
FOUR = {"v5e:2x2": 4, "v5p:2x2x1": 4, "v6e:2x2": 4, "tpu7x:2x2x1": 8, "h100x4": 4}
QUICK = (("exec_time_optimization_effort", -1.0),)  # whether it compiles, not how well


@pytest.mark.parametrize("mixer", sorted(TOKEN_MIXERS))
@pytest.mark.parametrize("name", FOUR)
def test_every_token_mixer_compiles_in_a_training_step(compiled, name, mixer):
    options = QUICK if not name.startswith("h") else ()
    report = compiled(name, f"fsdp={FOUR[name]}", options, rows=8, mixer=mixer).report
    assert sum(report.hardware_flops.values()) > 0 and report.memory.needed < report.memory.capacity
    assert report.count("all-gather", "fsdp") > 0
    verify.donated(report, "0/")


@pytest.mark.parametrize("name", ["v5e:2x2", "h100x4"])
class TestReport:
    @pytest.fixture
    def made(self, compiled, name):
        return compiled(name, "fsdp=2,tensor=2")

    def test_state_bytes_are_the_declarations_to_the_byte(self, made):
        decl, mesh = made.step.decl, made.step.mesh
        params = verify.declared_bytes(decl, mesh)
        slots = 2 * verify.declared_bytes(decl, mesh, trained=True)  # AdamW: two float32 averages
        scalars = sum(
            v.size * v.dtype.itemsize for v in jax.tree.leaves(made.step.abstract) if v.ndim <= 1 and v.size <= 2
        )
        assert made.report.argument_bytes("0/params/") == params
        assert made.report.argument_bytes("0/") == params + slots + scalars
        assert made.report.memory.arguments >= made.report.argument_bytes()  # tiles are padded on a TPU

    def test_every_slot_lies_as_declared_and_is_donated(self, made):
        verify.sharded(made.report, "0/params", made.step.decl, made.step.mesh)
        verify.donated(made.report, "0/")
        verify.replicated(made.report, above=4 * 1024)

    def test_faults_are_found(self, made):
        other = sharding.RULES | {"ff": None}
        with pytest.raises(AssertionError, match=r"0/params/unit/layers/0/channel/mixer/up: - fsdp expected"):
            verify.sharded(made.report, "0/params", made.step.decl, made.step.mesh, other)
        with pytest.raises(AssertionError, match="not donated"):
            verify.donated(made.report, "1/")  # the batch is not
        with pytest.raises(AssertionError, match="replicated above 1,023 bytes"):
            verify.replicated(made.report, above=1023)
        with pytest.raises(AssertionError, match=r"all-gather: 1 expected, \d+ found"):
            verify.collectives(made.report, {"all-gather": 1})

    def test_flops_are_the_models_and_what_is_recomputed(self, made, name):
        """Three forward passes' worth, and one more for the layers; causal attention is computed whole."""
        hardware = sum(made.report.hardware_flops.values()) * 4
        assert 1.0 < hardware / made.report.model_flops < 1.75
        assert 0 < made.report.mfu < 1

    def test_the_report_is_printed_and_read_again(self, made):
        import json

        data = json.loads(made.report.to_json())
        assert data["memory"]["needed"] == made.report.memory.needed and "text" not in data
        assert "bound by" in str(made.report) and "peak" in str(made.report)


def test_counts_by_kind_and_axis_cover_everything(compiled):
    report = compiled("v5e:2x2", "fsdp=2,tensor=2").report
    verify.collectives(report, report.counts)
    for kind, n in report.counts.items():
        assert report.count(kind) == n + sum(c.times for c in report.collectives if c.kind == kind and c.small)
    assert report.count("reduce-scatter", "fsdp") > 0  # TPU: fusions called all-reduce-scatter
    channels = {
        line.partition("channel_id=")[2].partition(",")[0]
        for line in report.text.splitlines()
        if " all-gather(" in line
    }
    assert len([c for c in report.collectives if c.kind == "all-gather"]) <= len(channels) <= report.count("all-gather")


@pytest.mark.parametrize(
    ("name", "axes", "scattered"),
    [
        ("v5e:4x4", "fsdp=16", False),  # a square slice
        ("v5e:4x4", "data=4,fsdp=4", True),  # along one side of it
        ("v5e:4x8", "fsdp=32", True),  # sides that differ
        ("h100x8", "fsdp=8", True),
    ],
)
def test_where_gradients_are_scattered_and_where_they_are_all_reduced(target, name, axes, scattered):
    """A chain of matrices, gathered over fsdp. Over a square slice libtpu all-reduces whole gradients, and the report
    says so."""
    t = target(name)
    mesh = t.mesh(axes)
    place = lambda *a: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*a))
    everywhere = tuple(mesh.axis_names)

    def update(w, x):
        def body(x, w):
            y = jnp.tanh(x @ w.astype(jnp.bfloat16))
            return jax.lax.with_sharding_constraint(y, place(everywhere, None)), None

        loss = lambda w: jnp.sum(jax.lax.scan(jax.checkpoint(body), x, w)[0].astype(jnp.float32) ** 2)
        return w - 0.1 * jax.grad(loss)(w)

    w = jax.ShapeDtypeStruct((4, 1024, 1024), jnp.float32, sharding=place(None, "fsdp", None))
    x = jax.ShapeDtypeStruct((8192, 1024), jnp.bfloat16, sharding=place(everywhere, None))
    update = jax.jit(update, donate_argnums=0, out_shardings=w.sharding)
    options = targets.COUNTABLE if t.chip.platform == "tpu" else {}
    report = targets.compile(update, w, x, target=t, mesh=mesh, options=options)
    print(report)
    whole = 4 * 1024 * 1024 * 2
    if scattered:
        assert report.nbytes("reduce-scatter", "fsdp") == whole and report.nbytes("all-reduce", "fsdp") < whole / 8
        assert not any("reduce-scatter would move half" in n for n in report.notes)
    else:
        assert report.nbytes("reduce-scatter") == 0 and report.nbytes("all-reduce", "fsdp") == whole
        assert any("reduce-scatter would move half" in n for n in report.notes)


@pytest.mark.parametrize("name", ["v5e:2x2", "h100x1"])
def test_memory_traffic_and_flops_of_a_program_without_loops(target, name):
    """On a TPU everything is read and written once; the CUDA compiler states no FLOPs for absent GPUs."""
    t = target(name)
    mesh = t.mesh("data=-1")
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    a = jax.ShapeDtypeStruct((2048, 4096), jnp.bfloat16, sharding=whole)
    b = jax.ShapeDtypeStruct((4096, 8192), jnp.bfloat16, sharding=whole)
    jitted = jax.jit(lambda a, b: (jnp.tanh(a @ b), b * b), out_shardings=whole)
    with jax.set_mesh(mesh):
        compiled = jitted.lower(a, b).compile()
    report = targets.read(t, mesh, compiled, (a, b))
    assert report.hardware_flops == {"bf16": 2 * 2048 * 4096 * 8192}
    least = 2 * (2048 * 4096 + 2 * 4096 * 8192 + 2048 * 8192)
    assert report.memory_bytes >= least
    if t.chip.platform == "tpu":
        assert report.memory_bytes == pytest.approx(least, rel=0.01)
        assert sum(report.hardware_flops.values()) == pytest.approx(compiled.cost_analysis()["flops"], rel=0.05)


@pytest.mark.parametrize("name", ["v5e:2x2", "h100x1"])
def test_too_large_a_batch_is_out_of_memory_with_both_figures(target, small, name):
    t = target(name)
    step, batch = small(t.mesh("fsdp=-1"), rows=1 << 16, time=1024, remat="none")
    with pytest.raises(targets.OutOfMemory) as error:
        targets.compile(step.jitted, step.abstract, batch, target=t)
    assert error.value.needed > error.value.available > 0.9 * t.chip.memory
    assert f"out of memory on {name}: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("mixer", ["mamba", "gla", "rglru(heads=4)"])
def test_no_token_sends_anything_under_tensor_parallelism(compiled, mixer):
    """Twice the tokens, as many collectives."""
    counts = [
        sum(c.times for c in compiled("h100x4", "fsdp=2,tensor=2", rows=8, time=time, mixer=mixer).report.collectives)
        for time in (64, 128)
    ]
    assert counts[0] == counts[1]


def test_several_slices(compiled):
    """Copies on two slices: gradients cross the data-centre network, nothing else does."""
    report, step, *_ = compiled("v5e:2x2*2", "dcn.data=2,fsdp=4")
    (across,) = [c for c in report.collectives if "data" in c.axes and not c.small]
    assert (across.kind, across.axes, across.group) == ("all-reduce", ("data",), 2)
    gradients = verify.declared_bytes(step.decl, step.mesh)
    assert gradients / 2 <= across.nbytes <= gradients * 1.01  # bfloat16 or float32
    assert across.seconds == pytest.approx(across.nbytes / step.mesh.shape["data"] * 2 / 3.125e9)


class TestRefusals:
    def test_a_topology_that_the_compiler_does_not_have(self, target):
        target("v5e:2x2")
        with pytest.raises(ValueError, match="libtpu has no such topology"):
            targets.target("v5e:3x5").devices  # noqa: B018

    def test_a_mesh_that_does_not_multiply(self, target):
        with pytest.raises(ValueError, match="mesh fsdp=3 needs 3 devices, 4 are here"):
            target("v5e:2x2").mesh("fsdp=3")

    def test_arguments_on_other_devices(self, target):
        here = sharding.make_mesh("fsdp=4", jax.devices()[:4])
        x = jax.ShapeDtypeStruct(
            (8,), jnp.float32, sharding=jax.sharding.NamedSharding(here, jax.sharding.PartitionSpec())
        )
        for args in ((x,), (jax.ShapeDtypeStruct((8,), jnp.float32),)):
            with pytest.raises(ValueError, match="need shardings on a mesh of v5e:2x2"):
                targets.compile(jnp.sin, *args, target=target("v5e:2x2"))

    def test_an_option_that_the_compiler_does_not_know(self, target, small):
        step, batch = small(target("v5e:2x2").mesh("fsdp=4"), tx=optax.sgd(0.1))
        with pytest.raises(ValueError, match="xla_no_such_thing"):
            targets.compile(step.jitted, step.abstract, batch, target="v5e:2x2", options={"xla_no_such_thing": "1"})


@pytest.mark.parametrize(("name", "least"), [("adamw", 28), ("lion", 20)])
@pytest.mark.parametrize("shapes", [((8192, 8192),), ((1024, 2000),) * 10], ids=["67M in one leaf", "20M in ten"])
def test_an_update_reads_and_writes_everything_once(target, name, least, shapes):
    """Bytes of a donated float32 update over the fewest: gradient, parameter and averages in, parameter and averages
    out. Of several leaves libtpu takes some into on-chip memory in advance and counts them there again, of optax's
    updates too; so its own number holds for one leaf, and for ten what the program moves to and from main memory."""
    t = target("v5e:2x2")
    mesh = t.mesh("data=4")
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    place = lambda tree: jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=whole), tree)
    tx = getattr(optim, name)(1e-3, weight_decay=0.1)

    def update(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = place({str(i): jax.ShapeDtypeStruct(shape, jnp.float32) for i, shape in enumerate(shapes)})
    args = (params, place(jax.eval_shape(tx.init, params)), params)
    jitted = jax.jit(update, donate_argnums=(0, 1), out_shardings=whole, keep_unused=True)
    with jax.set_mesh(mesh):
        compiled = jitted.lower(*args).compile()
    report, fewest = targets.read(t, mesh, compiled, args), least * sum(v.size for v in params.values())
    said = compiled.cost_analysis()["bytes accessed"] / fewest
    print(f"{name}: {said:.4f} by libtpu, {report.memory_bytes / fewest:.4f} to and from main memory")
    assert 1.0 <= report.memory_bytes / fewest <= 1.02 and (len(shapes) > 1 or 1.0 <= said <= 1.02)
    assert report.memory.temporaries < 0.01 * fewest
    verify.donated(report, "0/")
    verify.donated(report, "1/slots")
