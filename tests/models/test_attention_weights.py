"""What stands in the place of softmax: sigmoid attention, normalised attention, head scale, a sink's logit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import whole
from jaxlib_ext.kernels.attention import Tokens, attention, normalized, sigmoid, softmax, sunk, xla
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.positions import NoPosition
from jaxlib_ext.models.token_mixers import Attention, NopeHeadScale, NormalizedAttention, SigmoidAttention
from jaxlib_ext.testing.verdict import apart, draw

B, T, N, G, K = 2, 11, 2, 2, 4


def inputs(seed=0):
    keys = iter(jax.random.split(jax.random.key(seed), 3))
    q = jax.random.normal(next(keys), (B, T, N, G, K))
    k, v = (jax.random.normal(next(keys), (B, T, N, K)) for _ in "kv")
    return q, k, v, row(T)


def row(time):
    return Tokens(jnp.zeros((B, time), jnp.int32), jnp.broadcast_to(jnp.arange(time)[None], (B, time)))


def logits(seed=0):
    """And which keys each query sees, at least one."""
    seen = (
        jax.random.bernoulli(jax.random.key(seed + 1), 0.6, (B, 1, 1, T, T)) | jnp.eye(T, dtype=bool)[None, None, None]
    )
    return 3 * jax.random.normal(jax.random.key(seed), (B, N, G, T, T)), seen


def run(mixer, params, x):
    return mixer.scan(params, x, param.zeros(mixer.state(len(x), 0)), whole(*x.shape[:2]))[0]


@pytest.mark.parametrize(
    "weigh", [sigmoid(None), sigmoid(7), sunk(jnp.ones((N, G)))], ids=["sigmoid", "length", "sunk"]
)
def test_blocked_equals_whole_for_any_weights(weigh, monkeypatch):
    monkeypatch.setattr(xla, "BLOCK", 4)
    q, k, v, at = inputs()
    go = lambda form: lambda q, k, v: attention(q, k, v, at, at, scale=0.5, weigh=weigh, implementation=form)
    both = lambda form: (
        go(form)(q, k, v),
        jax.grad(lambda *a: jnp.sum(jnp.sin(go(form)(*a))), argnums=(0, 1, 2))(q, k, v),
    )
    assert apart(*jax.jit(lambda: (both("xla_blocked"), both("xla")))()) < 1e-5


def test_rows_of_zero_logits_sum_to_n_by_n_plus_1():
    z, seen = logits()
    n = np.broadcast_to(np.asarray(seen).sum(-1), z.shape[:-1])
    np.testing.assert_allclose(sigmoid(None)(0 * z, seen)[0].sum(-1), n / (n + 1), rtol=1e-5)
    all_ = sigmoid(T)(0 * z, jnp.ones_like(seen))[0]
    np.testing.assert_allclose(all_.sum(-1), T / (T + 1), rtol=1e-5)


def test_sigmoid_attention_is_the_dense_sum_with_masked_entries_zero_and_its_gradient():
    q, k, v, at = inputs()

    def dense(q, k, v):
        z = jnp.einsum("btngk,bsnk->bngts", q, k) / K**0.5 - jnp.log(T)
        return jnp.einsum("bngts,bsnv->btngv", jnp.tril(1 / (1 + jnp.exp(-z))), v)

    ours = lambda *a: attention(*a, at, at, scale=K**-0.5, weigh=sigmoid(T))
    grad = lambda f: jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2))(q, k, v)
    assert apart((ours(q, k, v), grad(ours)), (dense(q, k, v), grad(dense))) < 1e-5


def test_sigmoid_attention_to_two_sets_of_keys_adds_up():
    q, k, v, at = inputs()
    part = lambda s: attention(q, k[:, s], v[:, s], at, jax.tree.map(lambda a: a[:, s], at), scale=0.5, causal=False,
                               weigh=sigmoid(T))  # fmt: skip
    assert apart(part(slice(0, 4)) + part(slice(4, None)), part(slice(None))) < 1e-5


@pytest.mark.parametrize("mixer", [SigmoidAttention, NormalizedAttention, NopeHeadScale])
def test_without_positions_order_matters_to_a_causal_mask_alone(mixer):
    where = {} if mixer is NopeHeadScale else dict(position=NoPosition())
    both, causal = (mixer(8, heads=2, causal=c, **where) for c in (False, True))
    params, x = draw(both.decl(), jax.random.key(0)), jax.random.normal(jax.random.key(1), (B, T, 8))
    order = jax.random.permutation(jax.random.key(2), T)
    assert apart(run(both, params, x[:, order]), run(both, params, x)[:, order]) < 1e-5
    assert apart(run(causal, params, x[:, order]), run(causal, params, x)[:, order]) > 1e-2


def test_normalized_rows_have_the_learned_mean_and_deviation():
    z, seen = logits()
    gain, bias = jnp.array([[0.5, 2.0], [1.0, -3.0]]), jnp.array([[0.1, 0.0], [-1.0, 0.3]])
    a, seen = np.asarray(normalized(gain, bias, 1e-9)(z, seen)[0]), np.asarray(seen)
    assert (a[~np.broadcast_to(seen, a.shape)] == 0).all()
    for t in range(T):
        kept = a[..., t, :][1][:, :, seen[1, 0, 0, t]]
        np.testing.assert_allclose(kept.mean(-1), bias, atol=1e-5)
        if kept.shape[-1] > 1:
            np.testing.assert_allclose(kept.std(-1), np.abs(gain), rtol=1e-4)


def test_normalized_weights_ignore_scale_and_offset_of_the_logits():
    z, seen = logits()
    weigh = normalized(jnp.ones((N, G)), jnp.zeros((N, G)), 1e-6)
    assert apart(weigh(7 * z - 2, seen)[0], weigh(z, seen)[0]) < 1e-5
    assert apart(weigh(-z, seen)[0], weigh(z, seen)[0]) > 1


def test_without_gain_normalized_attention_pools_the_mean_or_the_sum():
    q, k, v, at = inputs()
    pool = lambda bias: attention(q, k, v, at, at, scale=1.0, causal=False,
                                  weigh=normalized(jnp.zeros((N, G)), jnp.full((N, G), bias), 1e-3))  # fmt: skip
    total = jnp.broadcast_to(jnp.sum(v, 1)[:, None, :, None], (B, T, N, G, K))
    assert apart(pool(1.0), total) < 1e-5 and apart(pool(1 / T), total / T) < 1e-5


def test_normalized_attention_leaves_the_hull_of_the_values():
    """Two values 0 and 1: softmax stays between them, normalised logits 1 and -1 give -1."""
    z, seen = jnp.array([3.0, -3.0]).reshape(1, 1, 1, 1, 2), jnp.ones((1, 1, 1, 1, 2), bool)
    v = jnp.array([0.0, 1.0])
    weights, total = softmax(z, seen)
    assert 0 <= float((weights @ v / total)[0, 0, 0, 0]) <= 1
    np.testing.assert_allclose(normalized(jnp.ones((1, 1)), jnp.zeros((1, 1)), 0.0)(z, seen)[0] @ v, -1.0, rtol=1e-6)


def test_one_key_alone_has_a_finite_gradient():
    z, seen = jnp.ones((1, 1, 1, 1, 3)), jnp.array([True, False, False]).reshape(1, 1, 1, 1, 3)
    weigh = lambda z: jnp.sum(
        normalized(jnp.ones((1, 1)), jnp.ones((1, 1)), 1e-3)(z, seen)[0] * jnp.arange(3.0).reshape(1, 1, 1, 1, 3)
    )
    assert jnp.isfinite(jax.grad(weigh)(z)).all()


def test_a_head_scale_of_1_is_plain_and_another_can_be_folded_into_the_queries():
    x = jax.random.normal(jax.random.key(1), (B, T, 8))
    scaled, plain = NopeHeadScale(8, heads=4, kv_heads=2), Attention(8, heads=4, kv_heads=2, position=NoPosition())
    params = draw(plain.decl(), jax.random.key(0))
    assert apart(run(scaled, params | dict(focus=jnp.ones((2, 2))), x), run(plain, params, x)) == 0
    focus = jnp.array([[1.5, 1.0], [3.0, 2.0]])
    folded = params | dict(q=params["q"] * focus[None, :, :, None])
    assert apart(run(scaled, params | dict(focus=focus), x), run(plain, folded, x)) < 1e-6


def test_attention_sharpens_with_the_head_scale_up_to_a_hard_choice():
    z, seen = logits()

    def entropy(scale):
        weights, total = softmax(scale * z, seen)
        p = weights / total[..., None]
        return jnp.sum(jax.scipy.special.entr(p), -1), p

    rows = jnp.stack([entropy(s)[0] for s in (1.0, 1.2, 1.6, 3.0)])
    many = jnp.sum(seen, -1)[:, :, :] > 1
    assert jnp.where(many[None], rows[1:] < rows[:-1], True).all()
    best = jnp.argmax(jnp.where(seen, z, -jnp.inf), -1)
    assert apart(entropy(1e5)[1], jax.nn.one_hot(best, T)) < 1e-6
    even = jnp.zeros_like(z)
    assert apart(softmax(9 * even, seen)[0], softmax(even, seen)[0]) == 0


def test_a_head_scale_below_its_bound_acts_as_the_bound_and_can_come_back():
    mixer, x = NopeHeadScale(8, heads=2, start=1.5, low=1.2), jax.random.normal(jax.random.key(1), (B, T, 8))
    params = param.init(mixer.decl(), jax.random.key(0))
    assert params["focus"].tolist() == [[1.5], [1.5]]
    at = lambda focus: params | dict(focus=jnp.full((2, 1), focus))
    assert apart(run(mixer, at(0.3), x), run(mixer, at(1.2), x)) < 1e-6
    g = jax.grad(lambda p: jnp.sum(jnp.sin(run(mixer, p, x))))(at(0.3))["focus"]
    assert (jnp.abs(g) > 1e-6).all()


@pytest.mark.slow
def test_tuning_the_head_scale_moves_one_number_a_layer_and_head():
    lm = build(ModelConfig(width=16, depth=3, mixer="nope_head_scale(heads=2)"), vocab=7)
    decl = lm.decl()
    chosen = param.fold(lambda path, p: "tune" if path.endswith("focus") else "keep", decl)
    tx = optax.multi_transform({"tune": optax.sgd(0.1), "keep": optax.set_to_zero()}, chosen)
    params, tokens = param.init(decl, jax.random.key(0)), jnp.arange(10).reshape(1, 10) % 7
    g = jax.jit(jax.grad(lambda p: jnp.sum(lm.apply(p, tokens, whole(1, 10))[0][..., 0])))(params)
    new = optax.apply_updates(params, tx.update(g, tx.init(params), params)[0])
    moved = jax.tree.map(lambda a, b: int((a != b).sum()), params, new)
    assert sum(jax.tree.leaves(moved)) == 3 * 2


def test_a_sink_is_one_more_key_of_value_zero():
    q, k, v, at = inputs()
    sink = jnp.array([[0.5, -1.0], [2.0, 0.0]])
    extra = lambda a: jnp.concatenate([jnp.zeros_like(a[:, :1]), a], 1)
    to = Tokens(extra(at.doc), extra(at.place))
    bias = jnp.zeros((1, N, G, T, T + 1)).at[..., 0].set(sink[None, :, :, None])
    with_key = attention(q, extra(k), extra(v), at, to, scale=0.5, bias=bias)
    assert apart(attention(q, k, v, at, at, scale=0.5, weigh=sunk(sink)), with_key) < 1e-5
    far = attention(q, k, v, at, at, scale=0.5, weigh=sunk(jnp.full((N, G), -1e9)))
    assert apart(far, attention(q, k, v, at, at, scale=0.5)) < 1e-6


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SigmoidAttention(8, length=0), "sigmoid_attention: length must be at least 1, not 0"),
        (lambda: NopeHeadScale(8, low=2.0), "nope_head_scale: low=2.0 is above start=1.0"),
        (lambda: Attention(8, sinks=2), "attention: sinks=2 needs sinks >= 0, and a causal window that they stay in"),
        (lambda: NormalizedAttention(8, heads=3), "attention: heads=3 does not divide width=8; give head_dim"),
    ],
)
def test_bad_options_say_what_is_wrong(make, said):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == said
