"""Float32 products of states, filters and their tables, and those that are solved with, ask for all digits, which
accelerators give only when asked."""

import jax
import jax.numpy as jnp
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import whole
from jaxlib_ext.kernels.lti import lti, matrices
from jaxlib_ext.kernels.mesa import mesa
from jaxlib_ext.kernels.triangular import inverse
from jaxlib_ext.models.token_mixers import Hyena, LaughingHyena, LmuFormer, Lssl

D, T = 8, 150
MIXERS = {
    "hyena by blocks": Hyena(D, length=T, form="toeplitz"),
    "hyena by a transform": Hyena(D, length=T, form="fft"),
    "laughing_hyena": LaughingHyena(D, modes=3),
    "lmuformer": LmuFormer(D, order=6),
    "lssl": Lssl(D, n=4),
}


def precisions(jaxpr):
    """Of every product of a float32 factor, in the bodies of loops and branches too."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general" and any(v.aval.dtype == jnp.float32 for v in eqn.invars):
            yield eqn.params["precision"]
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from precisions(inner)


def asked(f, *args):
    """Of every such product, in order: whether it has the highest precision."""
    highest = jax.lax.Precision.HIGHEST
    return [p in (highest, (highest, highest)) for p in precisions(jax.make_jaxpr(f)(*args).jaxpr)]


def ask_for_all(f, *args):
    """Whether there are such products and all of them have the highest precision."""
    found = asked(f, *args)
    return bool(found) and all(found)


def test_a_product_that_does_not_ask_is_seen():
    x = jnp.ones((3, 3))
    loop = lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, None, length=2)[0]
    assert not ask_for_all(loop, x)


@pytest.mark.parametrize("name", MIXERS)
def test_in_a_bfloat16_model_what_is_float32_asks_for_the_highest_precision(name):
    """Products with weights are in bfloat16 there, so that what is left is the state's or the filters'."""
    mixer = MIXERS[name]
    decl = mixer.decl()
    params = param.cast(decl, param.init(decl, jax.random.key(0)), jnp.bfloat16)
    x, seq = jnp.ones((2, T, D), jnp.bfloat16), whole(2, T)

    def loss(params, x, length):
        y, state, _ = mixer.scan(params, x, param.zeros(mixer.state(2, length)), seq)
        return jnp.sum(y.astype(jnp.float32)) + sum(jnp.sum(v) for v in jax.tree.leaves(state))

    for length in (0, T):
        assert ask_for_all(jax.grad(lambda params, x, length=length: loss(params, x, length), (0, 1)), params, x)
    step = lambda params, x, state: mixer.step(params, x, state, seq.at(0))[:2]
    assert ask_for_all(step, params, x[:, 0], param.zeros(mixer.state(2, T)))


def test_a_recurrence_by_matrices_asks_for_the_highest_precision():
    """That by modes is laughing_hyena's."""
    u, row = jnp.ones((2, T, 3)), jnp.ones((2, T), bool)
    arrays = (jnp.ones((3, 4, 4)), jnp.ones((3, 4)), jnp.ones((3, 4)), jnp.ones(3))
    run = lambda u, *arrays: sum(jnp.sum(v) for v in lti(u, jnp.zeros((2, 3, 4)), ~row, row, matrices(*arrays)))
    assert ask_for_all(jax.grad(run, (0, 1, 2, 3)), u, *arrays)


def test_inverses_of_triangles_are_taken_in_full():
    """4 products of the series, 2 of Newton's step, 4 of two halvings, 2 of the gradient."""
    gradient = jax.grad(lambda a: jnp.sum(inverse(a)))
    assert asked(gradient, jnp.zeros((1, 32, 32))) == [True] * 12


def test_sums_that_are_solved_with_are_taken_in_full():
    """k (k, v)^T, k R k^T, q p^T and their product with p; the three that give the output take the default."""
    k, v, start = jnp.ones((1, 64, 2, 8)), jnp.ones((1, 64, 2, 8)), jnp.zeros((1, 64), bool)
    run = lambda k: mesa(k, k, v, jnp.ones(2), jnp.zeros((1, 2, 8, 16)), start)
    assert asked(run, k) == [True] * 4 + [False] * 3
