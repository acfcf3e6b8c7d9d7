"""Methods as Flax modules: the same values, names and training steps as the plain functions."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from jaxlib_ext import interop, param
from jaxlib_ext.contracts import Aux, Seq, whole
from jaxlib_ext.models.channel_mixers import Glu
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.norms import Rms
from jaxlib_ext.models.positions import Rope
from jaxlib_ext.models.residuals import PreNorm
from jaxlib_ext.models.token_mixers import Attention, Gla, Mamba

B, T, D = 2, 8, 16
LANGUAGE = ModelConfig(width=D, depth=2, mixer="attention(heads=2)", tied=False)
METHODS = {
    "attention": Attention(D, heads=4, kv_heads=2),
    "gla": Gla(D, heads=2),
    "mamba": Mamba(D, n=4),
    "glu": Glu(D),
    "rms": Rms(D),
    "lm": build(LANGUAGE, vocab=11),
}


@dataclasses.dataclass(frozen=True)
class Centre:
    """A norm with a running mean: leaves of both sorts, one of them nested beside a trained one."""

    width: int
    pointwise: ClassVar[bool] = True

    def decl(self):
        mean = param.buffer(embed=self.width)
        return dict(mean=mean, inner=dict(gain=param.gain(embed=self.width), steps=param.buffer()))

    def apply(self, params, x, seq: Seq):
        rows = x.reshape(-1, self.width)
        new = dict(mean=0.5 * params["mean"] + 0.5 * rows.mean(0), inner=dict(steps=params["inner"]["steps"] + 1))
        y = (rows - params["mean"][None]) * params["inner"]["gain"][None]
        return y.reshape(x.shape), Aux(buffers=new)


def arguments(method):
    """What the method's main function takes after params."""
    seq = whole(B, T)
    if hasattr(method, "vocab"):
        return jax.random.randint(jax.random.key(1), (B, T), 0, method.vocab), seq
    x = jax.random.normal(jax.random.key(1), (B, T, method.width))
    return (x, param.zeros(method.state(B, 0)), seq) if hasattr(method, "scan") else (x, seq)


def run(method, params, *args):
    return (method.scan if hasattr(method, "scan") else method.apply)(params, *args)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


@pytest.mark.slow
def test_linen_gives_the_same_values(method):
    args, module = arguments(method), interop.to_linen(method)
    variables = jax.jit(module.init)(jax.random.key(0), *args)
    params = interop.params_of(variables)
    assert jax.tree.structure(params) == jax.tree.structure(param.abstract(method.decl()))
    ours = jax.jit(functools.partial(run, method))(params, *args)
    same(jax.jit(module.apply)(variables, *args), ours)
    same(jax.jit(module.apply)({"params": params}, *args), ours)


@pytest.mark.slow
def test_nnx_gives_the_same_values_and_draws_them_by_the_declaration(method):
    args, module = arguments(method), interop.to_nnx(method, rngs=nnx.Rngs(params=3))
    params = param.init(method.decl(), nnx.Rngs(params=3).params())
    same(interop.params_of(module), params)
    same(nnx.jit(module)(*args), jax.jit(functools.partial(run, method))(params, *args))
    again = interop.to_nnx(method, params=params)
    same(interop.params_of(again), params)


def test_axis_names_stay(method):
    axes = param.fold(lambda _, p: PartitionSpec(*p.axes), method.decl())
    shapes = jax.eval_shape(interop.to_linen(method).init, jax.random.key(0), *arguments(method))
    assert nn.get_partition_spec(shapes)["params"] == axes
    module = interop.to_nnx(method, rngs=nnx.Rngs(0))
    logical = jax.tree.map(
        lambda v: PartitionSpec(*v.logical), module.values, is_leaf=lambda v: isinstance(v, nnx.Param)
    )
    assert logical == axes


def test_a_mesh_in_scope_does_not_take_axis_names_for_its_own():
    method = METHODS["glu"]
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        args, module = arguments(method), interop.to_linen(method)
        variables = module.init(jax.random.key(0), *args)
        assert module.apply(variables, *args)[0].shape == (B, T, D)
        assert nn.unbox(variables)["params"]["down"].shape == (48, D)
        rules = [("ff", "fsdp"), ("embed", None), ("gate", None)]
        shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(variables), mesh, rules)
        assert shardings["params"]["down"].spec == PartitionSpec("fsdp", None)


def loss_of(method, params, *args):
    logits = run(method, params, *args)[0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[..., 0])


def plain_step(method, params, tx, args):
    g = jax.grad(lambda p: loss_of(method, p, *args))(params)
    updates, _ = tx.update(g, tx.init(params), params)
    return optax.apply_updates(params, updates)


@pytest.mark.slow
def test_a_step_through_linen_equals_ours():
    method, tx = METHODS["lm"], optax.adamw(1e-2, mask=param.decayed(METHODS["lm"].decl()))
    args, module = arguments(method), interop.to_linen(method)
    variables = module.init(jax.random.key(0), *args)

    def loss(params):
        logits = module.apply({"params": params}, *args)[0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[..., 0])

    boxed = variables["params"]
    updates, _ = tx.update(jax.grad(loss)(boxed), tx.init(boxed), boxed)
    after = interop.params_of({"params": optax.apply_updates(boxed, updates)})
    before = interop.params_of(variables)
    same(after, plain_step(method, before, tx, args))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), after, before)))


def test_a_step_through_nnx_equals_ours():
    method, tx = METHODS["lm"], optax.adamw(1e-2)
    args, model = arguments(method), interop.to_nnx(method, rngs=nnx.Rngs(0))
    before = interop.params_of(model)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    def loss(model):
        logits = model(*args)[0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[..., 0])

    optimizer.update(model, nnx.grad(loss)(model))
    same(interop.params_of(model), plain_step(method, before, tx, args))


def test_linen_keeps_buffers_in_a_collection_of_their_own():
    method = Centre(D)
    args, module = arguments(method), interop.to_linen(method)
    variables = module.init(jax.random.key(0), *args)
    assert list(variables["params"]) == ["inner"] and set(variables["buffers"]) == {"mean", "inner"}
    assert set(variables["params"]["inner"]) == {"gain"} and not variables["buffers"]["mean"].value.any()
    params = interop.params_of(variables)
    same(params, param.init(method.decl(), jax.random.key(0)))
    y, aux = method.apply(params, *args)
    same(module.apply(variables, *args), (y, aux))
    (_, _), new = module.apply(variables, *args, mutable=["buffers"])
    assert tuple(nn.get_partition_spec(new)["buffers"]["mean"]) == ("embed",)
    same(
        interop.params_of(variables | new),
        {**params, **aux.buffers, "inner": params["inner"] | aux.buffers["inner"]},
    )


def test_nnx_keeps_buffers_out_of_the_optimizer():
    method = Centre(D)
    args, model = arguments(method), interop.to_nnx(method, rngs=nnx.Rngs(0))
    assert isinstance(model.values["mean"], interop.Buffer) and isinstance(model.values["inner"]["gain"], nnx.Param)
    assert len(jax.tree.leaves(nnx.state(model, nnx.Param))) == 1
    _, aux = model(*args)
    model.write(aux)
    assert model.values["inner"]["steps"].get_value() == 1
    same(interop.params_of(model)["mean"], aux.buffers["mean"])


def test_any_function_of_a_method_can_be_run():
    mixer = METHODS["gla"]
    x, _, seq = arguments(mixer)
    state, variables = (
        param.zeros(mixer.state(B, T)),
        interop.to_linen(mixer).init(jax.random.key(0), *arguments(mixer)),
    )
    step = interop.to_linen(mixer, function="step")
    y, state, _ = step.apply(variables, x[:, 0], state, seq.at(0))
    same(y, mixer.step(interop.params_of(variables), x[:, 0], param.zeros(mixer.state(B, T)), seq.at(0))[0])


def test_a_linen_module_may_hold_a_method():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, seq):
            for _ in range(2):
                x = interop.to_linen(METHODS["glu"])(x, seq)[0]
            return x

    args = arguments(METHODS["glu"])
    variables = Twice().init(jax.random.key(0), *args)
    first, second = (interop.params_of({"params": p}) for p in variables["params"].values())
    assert (first["up"] != second["up"]).all()
    y = METHODS["glu"].apply(first, *args)[0]
    same(Twice().apply(variables, *args), METHODS["glu"].apply(second, y, args[1])[0])


WRONG = {
    "Rope has neither apply nor scan": lambda: interop.to_linen(Rope()),
    "Glu has no function 'sacn'": lambda: interop.to_nnx(Glu(D), nnx.Rngs(0), "sacn"),
    "PreNorm is no module of its own": lambda: interop.to_linen(PreNorm(Rms(D)), "read"),
    "needs rngs": lambda: interop.to_nnx(Glu(D)),
    "the collection 'params'; this has param": lambda: interop.params_of({"param": {}}),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_module_says_so(message):
    with pytest.raises(ValueError, match=message) as error:
        WRONG[message]()
    assert "\n" not in str(error.value)
