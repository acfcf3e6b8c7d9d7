"""The language model: decoding equals training, packing, remat, hybrids, shared depth, cross-attention."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param, testing
from jaxlib_ext.contracts import from_starts, whole
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.depth import REMAT
from jaxlib_ext.models.lm import LM, Block
from jaxlib_ext.models.norms import Rms
from jaxlib_ext.models.residuals import PreNorm
from jaxlib_ext.models.token_mixers import Attention, CrossAttention
from jaxlib_ext.testing.verdict import apart

V, T = 37, 18


def model(**fields) -> LM:
    return build(ModelConfig(**dict(width=16, depth=2) | fields), V)


def params_of(lm: LM):
    return jax.jit(lambda: param.init(lm.decl(), jax.random.key(0)))()


def tokens(batch=2, time=T):
    return jax.random.randint(jax.random.key(1), (batch, time), 0, V)


CONFIGS = {
    "attention": dict(mixer="attention(heads=4, kv_heads=2)"),
    "gla": dict(mixer="gla(heads=2)", tied=True),
    "mamba": dict(mixer="mamba", residual="postnorm", norm="layer"),
    "hybrid": dict(mixer="gla(heads=2),attention(window=5, heads=2)", depth=4, channel="mlp,none"),
    "shared": dict(mixer="attention(heads=2)", weights="shared", position="learned(length=32)"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_and_steps_equal_the_whole(name):
    lm = model(**CONFIGS[name])
    params, ids, seq, cut = params_of(lm), tokens(), whole(2, T), 11

    @jax.jit
    def decoded(params):
        state = param.zeros(lm.state(2, T))
        h, state = lm.prefill(params, ids[:, :cut], state, jax.tree.map(lambda a: a[:, :cut], seq))
        rows = [lm.logits(params, h)]
        for t in range(cut, T):
            y, state = lm.step(params, ids[:, t], state, seq.at(t))
            rows.append(y[:, None])
        return jnp.concatenate(rows, 1)

    assert apart(decoded(params), jax.jit(lm.apply)(params, ids, seq)[0]) < 1e-5


@pytest.mark.slow
def test_packed_documents_equal_separate_ones():
    lm = model(mixer="gla(heads=2),attention(heads=2)", depth=2)
    params, ids = params_of(lm), tokens(1)
    start = np.zeros((1, T), bool)
    start[0, [0, 7]] = True
    packed = lm.apply(params, ids, from_starts(start))[0]
    first, second = (lm.apply(params, part, whole(1, part.shape[1]))[0] for part in (ids[:, :7], ids[:, 7:]))
    assert apart(packed, jnp.concatenate([first, second], 1)) < 1e-5


@pytest.mark.slow
def test_remat_changes_neither_loss_nor_gradient():
    base = model(mixer="attention(heads=2)", depth=2, dropout=0.1)
    params, ids = params_of(base), tokens()
    seq = whole(2, T, key=jax.random.key(5), train=True)

    def gradient(name):
        lm = dataclasses.replace(base, remat=name, unroll=1)
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(lm.apply(p, ids, seq)[0] ** 2)))(params)

    plain = gradient("none")
    for name in REMAT:
        assert apart(gradient(name), plain) < 1e-5, name


@pytest.mark.slow
def test_unrolled_depth_equals_the_scan():
    lm = model(mixer="attention(heads=2)", depth=4)
    params, ids = params_of(lm), tokens()
    unrolled = dataclasses.replace(lm, unroll=4).apply(params, ids, whole(2, T))[0]
    assert apart(dataclasses.replace(lm, unroll=1).apply(params, ids, whole(2, T))[0], unrolled) < 1e-5


@pytest.mark.slow
def test_dropout_needs_a_key_and_only_acts_in_training():
    lm = model(dropout=0.5)
    params, ids = params_of(lm), tokens()
    still = lm.apply(params, ids, whole(2, T))[0]
    assert apart(lm.apply(params, ids, whole(2, T, key=jax.random.key(0)))[0], still) == 0
    a, b = (lm.apply(params, ids, whole(2, T, key=jax.random.key(k), train=True))[0] for k in (0, 1))
    assert apart(a, still) > 0.01 and apart(a, b) > 0.01
    with pytest.raises(ValueError, match="dropout needs seq.key"):
        lm.apply(params, ids, whole(2, T, train=True))


def test_shared_depth_is_one_copy_passed_often():
    shared, plain = model(weights="shared", depth=3), model(depth=3)
    assert param.size(shared.decl()["unit"]) * 3 == param.size(plain.decl()["unit"])
    assert param.matmul_size(shared.decl()) == param.matmul_size(plain.decl())
    written = (
        plain.weights,
        shared.weights.write(
            shared._unit_decl(), 3, jax.tree.map(lambda a: jnp.stack([a] * 3), params_of(shared)["unit"]["shared"])
        ),
    )
    params = params_of(shared)
    as_plain = params | dict(
        unit=dict(shared={}, layers=jax.tree.map(lambda a: jnp.stack([a] * 3), written[1]["shared"]))
    )
    a = shared.apply(params, tokens(), whole(2, T))[0]
    assert apart(plain.apply(as_plain, tokens(), whole(2, T))[0], a) < 1e-6


def test_growing_depth_keeps_the_layers_there_are():
    shallow, deep = (params_of(model(depth=n))["unit"]["layers"] for n in (2, 5))
    assert apart(jax.tree.map(lambda a: a[:2], deep), shallow) == 0


def test_cost_equals_the_contractions_of_a_forward_pass():
    lm = model(mixer="attention(heads=2)", depth=2)
    counted = testing.dot_flops(lambda p: lm.apply(p, tokens(), whole(2, T))[0], params_of(lm))
    assert counted == lm.cost(2 * T, T).flops


@pytest.mark.slow
def test_cross_attention_in_training_and_decoding():
    unit = (Block(Attention(16, heads=2)), Block(CrossAttention(16, heads=2)))
    lm = LM(vocab=V, width=16, unit=unit, repeats=2, residual=PreNorm(Rms(16)))
    params, ids, seq = params_of(lm), tokens(), whole(2, T)
    memory, memory_seq = jax.random.normal(jax.random.key(3), (2, 6, 16)), whole(2, 6)
    trained = jax.jit(lm.apply)(params, ids, seq, memory, memory_seq)[0]
    state = lm.bind(params, memory, param.zeros(lm.state(2, T, 6)), memory_seq)
    h, _ = jax.jit(lm.prefill)(params, ids, state, seq)
    assert apart(lm.logits(params, h), trained) < 1e-5
    assert apart(lm.apply(params, ids, seq, 2 * memory, memory_seq)[0], trained) > 1e-3
    with pytest.raises(ValueError, match="reads a memory and none was given"):
        lm.apply(params, ids, seq)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(mixer="atention"), "unknown token mixer 'atention'; did you mean attention"),
        (dict(mixer="attention(window=0)"), "window must be at least 1, not 0"),
        (dict(mixer="attention(windw=3)"), "has no option 'windw'"),
        (dict(mixer="attention(heads=3)"), "heads=3 does not divide width=16"),
        (dict(mixer="attention(heads=4, kv_heads=3)"), "kv_heads=3 does not divide heads=4"),
        (dict(mixer="gla,mamba", depth=3), "depth=3 is not a multiple of the pattern's 2 blocks"),
        (dict(channel="mlp(act='swish')"), "unknown activation 'swish'"),
        (dict(remat="some"), "unknown remat policy 'some'"),
        (dict(dtype="float16"), "dtype is float32 or bfloat16"),
        (dict(mixer="nowhere.to:Be"), "cannot import token mixer 'nowhere.to:Be'"),
        (dict(width=0), "width and depth must be at least 1"),
    ],
)
def test_bad_configs_say_what_is_wrong(fields, said):
    with pytest.raises(ValueError, match=said) as error:
        model(**fields)
    assert "\n" not in str(error.value)


def test_bidirectional_models_score_but_do_not_decode():
    lm = model(mixer="attention(heads=2, causal=False)")
    y = lm.apply(params_of(lm), tokens(), whole(2, T))[0]
    assert np.isfinite(y).all()
    with pytest.raises(ValueError, match="no decoding state"):
        lm.state(2, T)


def test_what_a_mixer_needs_must_be_given_before_it():
    @dataclasses.dataclass(frozen=True)
    class Needy(Attention):
        needs = ("v_first",)

    with pytest.raises(ValueError, match="Needy needs 'v_first'"):
        LM(vocab=V, width=16, unit=(Block(Needy(16, heads=2)),), repeats=1, residual=PreNorm(Rms(16)))


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_stays_close():
    lm = model(mixer="gla(heads=2),attention(heads=2)", depth=2)
    low = dataclasses.replace(lm, dtype="bfloat16")
    params = params_of(lm)
    h, _ = low.hidden(params, tokens(), whole(2, T))
    y = low.logits(params, h)
    assert h.dtype == jnp.bfloat16 and y.dtype == jnp.float32
    assert apart(y, lm.apply(params, tokens(), whole(2, T))[0]) < 2e-2


def test_an_id_outside_the_vocabulary_is_nan():
    lm = model()
    y = lm.apply(params_of(lm), tokens().at[0, 3].set(V), whole(2, T))[0]
    assert np.isnan(y[0, 3:]).any() and np.isfinite(y[1]).all()
