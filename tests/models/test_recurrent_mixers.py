"""Recurrent mixers: what each becomes in its limits, fixed cost of decoding, value residuals in a model, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts, whole
from jaxlib_ext.kernels.gla import gla
from jaxlib_ext.models import token_mixers
from jaxlib_ext.models.lm import LM, Block
from jaxlib_ext.models.norms import Rms
from jaxlib_ext.models.positions import NoPosition
from jaxlib_ext.models.residuals import PreNorm
from jaxlib_ext.models.token_mixers import DeltaNet, GatedDeltaNet, Mamba2, MesaLayer, Retention, Rwkv7
from jaxlib_ext.testing.verdict import apart, draw

D, T = 16, 40


@pytest.fixture(autouse=True)
def quick_compilation():
    """Most of the time is compiling, and most of that is optimising what runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


START = np.zeros((2, T), bool)
START[:, 0] = START[0, 17] = True
SEQ = from_starts(START)
X = jax.random.normal(jax.random.key(1), (2, T, D))


def run(mixer, params, x=X, seq=SEQ):
    return jax.jit(lambda params, x, seq: mixer.scan(params, x, param.zeros(mixer.state(2, 0)), seq)[0])(params, x, seq)


def test_retention_is_gla_with_a_constant_decay_a_head():
    mixer = Retention(D, heads=2, position=NoPosition())
    params = draw(mixer.decl(), jax.random.key(0))
    q, k, v, _ = mixer._inputs(params, X, SEQ)
    g = jnp.log(jnp.array([1 - 2.0**-5, 1 - 2.0**-6]))
    wide = jnp.broadcast_to(g[None, None, :, None], k.shape)
    y, _ = jax.jit(gla)(q, k, v, wide, jnp.zeros((2, 2, 8, 16)), SEQ.start)
    assert apart(run(mixer, params), mixer._output(params, X, y)) < 1e-5


def test_retention_sees_differences_of_positions_only():
    mixer = Retention(D, heads=2)
    params = draw(mixer.decl(), jax.random.key(0))
    later = dataclasses.replace(SEQ, position=SEQ.position + 1000)
    assert apart(run(mixer, params, seq=later), run(mixer, params)) < 1e-4  # angles of thousands in float32
    still = dataclasses.replace(mixer, position=NoPosition())
    assert apart(run(still, params), run(mixer, params)) > 1e-2


@pytest.mark.slow
def test_gated_deltanet_that_keeps_all_is_delta_net():
    gated, plain = GatedDeltaNet(D, heads=2, key=8, value=8), DeltaNet(D, heads=2, key=8, value=8)
    params = draw(gated.decl(), jax.random.key(0))
    kept = params | dict(a_log=jnp.full(2, -1e4))  # alpha = exp(-0) = 1
    without = type("Without", (GatedDeltaNet,), dict(_output=DeltaNet._output))(D, heads=2, key=8, value=8)
    assert apart(run(without, kept), run(plain, {n: params[n] for n in plain.decl()})) < 1e-6
    assert apart(run(without, params), run(without, kept)) > 1e-3


@pytest.mark.slow
def test_rwkv7_without_rates_is_gated_linear_attention():
    """a = 0 removes nothing; k becomes k (1 - alpha)."""
    mixer = Rwkv7(D, heads=2, decay_rank=3, rate_rank=3, gate_rank=3)
    params = draw(mixer.decl(), jax.random.key(0)) | dict(a_bias=jnp.full((2, 8), -1e4))
    before = jnp.where(SEQ.start[..., None], 0, jnp.pad(X, ((0, 0), (1, 0), (0, 0)))[:, :-1])
    (r, k, v, _, written, g), _, gate = mixer._inputs(params, X, before, SEQ)
    assert jnp.max(jnp.abs(written)) == 0
    y, _ = jax.jit(gla)(r, k, v, g, jnp.zeros((2, 2, 8, 8)), SEQ.start)
    assert apart(run(mixer, params), mixer._output(params, X, y, r, k, v, gate)) < 1e-5


def test_rwkv7_decays_no_faster_than_the_papers_bound():
    mixer = Rwkv7(D, heads=2)
    params = draw(mixer.decl(), jax.random.key(0)) | dict(w_bias=jnp.full((2, 8), 1e4))
    (_, _, _, _, _, g), _, _ = mixer._inputs(params, X, X, SEQ)
    assert jnp.allclose(jnp.exp(g), np.exp(-np.exp(-0.5)), rtol=1e-6)


@pytest.mark.slow
def test_value_residuals_pass_from_a_first_layer_to_the_others():
    first, rest = Rwkv7(D, heads=2), Rwkv7(D, heads=2, residual=True)
    options = dict(width=D, repeats=2, residual=PreNorm(Rms(D)))
    with pytest.raises(ValueError, match="Rwkv7 needs 'v_first', which no layer before it gives"):
        LM(11, unit=(Block(rest),), **options)
    lm = LM(11, prefix=(Block(first),), unit=(Block(rest),), **options)
    params = draw(lm.decl(), jax.random.key(0))
    ids = jax.random.randint(jax.random.key(2), (2, 9), 0, 11)
    y = jax.jit(lm.apply)(params, ids, whole(2, 9))[0]
    state, rows, step = param.zeros(lm.state(2, 9)), [], jax.jit(lm.step)
    for t in range(9):
        row, state = step(params, ids[:, t], state, whole(2, 9).at(t))
        rows.append(row)
    assert apart(jnp.stack(rows, 1), y) < 1e-5


RECURRENT = ("delta_net", "gated_deltanet", "gla", "mamba", "mamba2", "mesa_layer", "retention", "rwkv7")


@pytest.mark.parametrize("name", RECURRENT)
def test_decoding_costs_the_same_after_any_number_of_tokens(name):
    mixer = token_mixers.TOKEN_MIXERS[name](64)
    assert mixer.cost(1, 1024) == mixer.cost(1, 16384)
    assert mixer.state(1, 1024) == mixer.state(1, 16384) == mixer.state(1, 0)
    assert param.nbytes(mixer.state(1, 1024)) == mixer.cost(1, 1024).state_bytes


@pytest.mark.slow
def test_mamba2_with_a_head_a_group_is_a_sum_of_mamba2s_of_one_head():
    """Each with B, C and a norm of its own."""
    all_, one = Mamba2(D, head_dim=8, n=4, groups=4), Mamba2(D, inner=8, head_dim=8, n=4)
    params, decl = draw(all_.decl(), jax.random.key(0)), all_.decl()

    def own(i):
        axis = lambda name: next(n for n, a in enumerate(decl[name].axes) if a in ("heads", "kv_heads"))
        return {name: jnp.take(value, jnp.array([i]), axis(name)) for name, value in params.items()}

    assert apart(run(all_, params), sum(run(one, own(i)) for i in range(4))) < 1e-6


BAD = {
    "mamba2: head_dim=5 does not divide inner=32": lambda: Mamba2(D, head_dim=5),
    "mamba2: groups=3 does not divide 4 heads": lambda: Mamba2(D, head_dim=8, groups=3),
    "mamba2: conv must be at least 2, not 1": lambda: Mamba2(D, conv=1),
    "retention: heads=3 does not divide width=16": lambda: Retention(D, heads=3),
    "retention: first must be positive, not 0": lambda: Retention(D, first=0),
    "delta_net: heads=3 does not divide width=16": lambda: DeltaNet(D, heads=3),
    "delta_net: beta_max must be in (0, 2], not 3": lambda: DeltaNet(D, beta_max=3),
    "gated_deltanet: heads=5 does not divide 3/4 of width=16": lambda: GatedDeltaNet(D, heads=5),
    "gated_deltanet: conv must be at least 2, not 1": lambda: GatedDeltaNet(D, conv=1),
    "rwkv7: heads=3 does not divide width=16": lambda: Rwkv7(D, heads=3),
    "mesa_layer: heads=3 does not divide width=16": lambda: MesaLayer(D, heads=3),
    "mesa_layer: ridge must be positive, not 0": lambda: MesaLayer(D, ridge=0),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_sizes_are_named_by_the_constructor(said):
    with pytest.raises(ValueError) as error:
        BAD[said]()
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
