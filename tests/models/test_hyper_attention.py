"""Sorted blocks and samples: exact where they cover everything, unbiased where they do not."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts, whole
from jaxlib_ext.kernels.attention import PAD, hyper
from jaxlib_ext.kernels.attention.hyper import Rows
from jaxlib_ext.models.token_mixers import Attention, HyperAttention
from jaxlib_ext.testing import dot_flops
from jaxlib_ext.testing.verdict import apart, draw

B, H, T, K = 2, 2, 32, 4


def inputs(scale=1.0):
    keys = iter(jax.random.split(jax.random.key(0), 3))
    q, k, v = (jax.random.normal(next(keys), (B, H, T, K)) for _ in "qkv")
    doc = jnp.zeros((B, 1, T), jnp.int32)
    return Rows(scale * q, doc), Rows(k, doc, v)


def several():
    """The same for later queries and earlier keys of rows of several documents: some meet no key, some pads."""
    q, k = inputs()
    doc = lambda *sizes: jnp.asarray(np.repeat([1, 2, 3, PAD], sizes).reshape(1, 1, T).repeat(B, 0))
    return Rows(q.x, doc(8, 12, 6, 6)), Rows(k.x, doc(10, 14, 0, 8), k.v)


def test_two_sets_of_keys_merge_to_attention_on_their_union():
    q, k = inputs()
    seen = jax.random.bernoulli(jax.random.key(1), 0.3, (B, H, T, T)).at[0, 0, :2].set(False)
    left = jnp.arange(T).reshape(1, 1, 1, -1) < 11
    part = lambda s: hyper.exact(q.x, k.x, k.v, s)
    a, b = jax.jit(lambda: (hyper.merge(part(seen & left), part(seen & ~left)), part(seen)))()
    some = seen.any(-1)
    assert apart(jnp.where(some[..., None], a.y, 0), jnp.where(some[..., None], b.y, 0)) < 1e-5
    assert apart(jnp.where(some, a.total, 0), jnp.where(some, b.total, 0)) < 1e-5
    assert (a.y[0, 0, :2] == 0).all() and (a.total[0, 0, :2] < -1e29).all()


def test_neighbours_in_the_sorting_differ_in_one_sign():
    corners = jnp.array(list(itertools.product((-1.0, 1.0), repeat=4)))[None, None]
    found = corners[0, 0][hyper.order(corners, jnp.eye(4))[0, 0]]
    assert (jnp.sum(found[1:] != found[:-1], -1) == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
def test_exact_parts_are_masked_attention_in_values_and_gradients(causal):
    """A block of everything leaves nothing to estimate; 45 tokens, so that halves are odd."""
    plain = Attention(8, heads=4, kv_heads=2, causal=causal)
    ours = HyperAttention(8, heads=4, kv_heads=2, causal=causal, least=7, block=64)
    params, x = draw(plain.decl(), jax.random.key(0)), jax.random.normal(jax.random.key(1), (B, 45, 8))
    seq = packed(45)
    run = lambda m: lambda p, x: jnp.where(seq.mask[..., None], m.scan(p, x, param.zeros(m.state(B, 0)), seq)[0], 0.0)
    both = lambda f: (f(params, x), jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1))(params, x))
    assert apart(*jax.jit(lambda: (both(run(ours)), both(run(plain))))()) < 1e-5


def test_rows_that_fill_up_the_last_block_weigh_nothing():
    """Logits of -36 beside which a zero would be all: two rows are added to 30, one to a half of 15."""
    q, doc = jnp.full((1, 30, 1, 1, 4), 3.0), jnp.zeros((1, 30), jnp.int32)
    how = dict(scale=1.0, least=15, block=8, samples=4, bits=3)
    run = lambda causal: hyper.hyper_attention(
        q, -q[..., 0, :], jnp.ones((1, 30, 1, 2)), doc, jax.random.key(0), is_causal=causal, **how
    )  # fmt: skip
    for y in jax.jit(lambda: (run(True), run(False)))():
        np.testing.assert_allclose(y, 1.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [inputs, several])
def test_numerators_and_denominators_are_unbiased_over_draws(rows):
    q, k = rows()
    seen = q.doc[..., :, None] == k.doc[..., None, :]
    full = hyper.exact(q.x, k.x, k.v, seen)
    some = np.broadcast_to(seen.any(-1), full.total.shape)

    def one(key):
        part = hyper.unmasked(q, k, key, block=8, samples=8, bits=3)
        total = jnp.exp(part.total - full.total)  # of the exact one
        return total, total[..., None] * part.y

    draws = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 2000))
    for drawn, exact in zip(draws, (jnp.ones_like(full.total), full.y), strict=True):
        drawn, exact = np.asarray(drawn)[:, some], np.asarray(exact)[some]
        error = drawn.std(0) / 2000**0.5
        away = np.abs(drawn.mean(0) - exact) / error
        assert away.max() < 5 and 0.8 < np.mean(away**2) < 1.2, (away.max(), np.mean(away**2))


def packed(time):
    """Two documents and pads in the first row, one document in the second."""
    mask = jnp.ones((B, time), bool).at[0, time - 5 :].set(False)
    return from_starts(jnp.zeros((B, time), bool).at[:, 0].set(True).at[0, 17].set(True), mask)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
def test_estimates_come_near_masked_attention_among_documents_and_pads(causal):
    """Four times as many samples halve the error over 32 draws, so that there is no other one."""
    plain = Attention(8, heads=4, kv_heads=2, causal=causal)
    params, x, seq = draw(plain.decl(), jax.random.key(0)), jax.random.normal(jax.random.key(1), (B, 45, 8)), packed(45)

    def run(mixer, key=None):
        y = mixer.scan(params, x, param.zeros(mixer.state(B, 0)), dataclasses.replace(seq, key=key))[0]
        return jnp.where(seq.mask[..., None], y, 0.0)

    def error(samples):
        mixer = HyperAttention(8, heads=4, kv_heads=2, causal=causal, least=8, block=4, samples=samples, bits=3)
        y = jax.lax.map(lambda key: run(mixer, key), jax.random.split(jax.random.key(2), 32))
        return jnp.sqrt(jnp.mean((y - run(plain)[None]) ** 2))

    few, many = jax.jit(lambda: [error(1000), error(4000)])()
    assert 1.8 < few / many < 2.2


@pytest.mark.slow
def test_the_error_falls_with_the_block_and_with_the_samples():
    q, k = inputs(2.0)
    full = hyper.exact(q.x, k.x, k.v, jnp.ones((1, 1, T, T), bool)).y

    def error(block, samples):
        part = lambda key: hyper.unmasked(q, k, key, block=block, samples=samples, bits=4).y
        y = jax.vmap(part)(jax.random.split(jax.random.key(3), 100))
        return jnp.sqrt(jnp.mean((y - full[None]) ** 2))

    sizes = ((4, 4), (4, 32), (16, 4), (16, 32), (T, 4))
    e = dict(zip(sizes, jax.jit(lambda: [error(*s) for s in sizes])(), strict=True))
    assert e[4, 4] > 1.5 * e[4, 32] > 2 * e[16, 32] and e[4, 4] > 1.5 * e[16, 4] and e[T, 4] < 1e-5


@pytest.mark.slow
def test_only_calls_beyond_the_least_length_are_estimates():
    x, seq = jax.random.normal(jax.random.key(1), (1, 30, 8)), from_starts(jnp.zeros((1, 30), bool).at[0, 0].set(True))
    make = lambda least: HyperAttention(8, heads=2, least=least, block=4, samples=4)
    params = draw(make(1).decl(), jax.random.key(0))
    run = lambda m, length=0: m.scan(params, x, param.zeros(m.state(1, length)), seq)[0]
    calls = (Attention(8, heads=2),), (make(30),), (make(8),), (make(8), 30)
    plain, short, long, followed = jax.jit(lambda: [run(*call) for call in calls])()
    assert apart(short, plain) < 1e-6 and 1e-3 < apart(long, plain) < 1 and apart(followed, plain) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        dict(least=7, block=4, samples=3, bits=2),
        dict(least=7, block=9, samples=3),
        dict(causal=False, least=7, block=4),
    ],
)
@pytest.mark.parametrize("time", [8, 45])
def test_cost_is_what_training_executes_beside_the_projections(options, time):
    mixer = HyperAttention(8, heads=4, kv_heads=2, **options)
    params, x = draw(mixer.decl(), jax.random.key(0)), jnp.ones((B, time, 8))
    run = lambda params, x: mixer.scan(params, x, param.zeros(mixer.state(B, 0)), whole(B, time))[0]
    stated = mixer.cost(B * time, (time + 1) / 2 if mixer.causal else time).flops
    np.testing.assert_allclose(dot_flops(run, params, x), 2 * B * time * param.matmul_size(mixer.decl()) + stated)


def test_cost_grows_nearly_as_the_length_and_that_of_steps_is_attentions():
    mixer, exact = HyperAttention(64), Attention(64)
    training = lambda m, time: m.cost(time, (time + 1) / 2)
    assert training(mixer, 4096) == training(exact, 4096)
    near, signs = 4096 + (256 + 256) * 5 / 2, 5 * 7  # of 5 halvings
    assert training(mixer, 2**17).flops == 2**17 * 64 * (4 * near + 2 * signs)
    assert 2 < training(mixer, 2**18).flops / training(mixer, 2**17).flops < 2.2
    assert mixer.cost(8, 2**17) == exact.cost(8, 2**17)


@pytest.mark.slow
def test_training_on_an_estimate_needs_a_key_and_evaluation_draws_the_same_without():
    mixer = HyperAttention(8, heads=2, least=8, block=4, samples=4)
    params, x = draw(mixer.decl(), jax.random.key(0)), jax.random.normal(jax.random.key(1), (1, 20, 8))

    def run(time=20, **fields):
        return mixer.scan(params, x[:, :time], param.zeros(mixer.state(1, 0)), whole(1, time, **fields))[0]

    with pytest.raises(ValueError, match="^hyper_attention: calls of more than least=8 tokens need seq.key in train"):
        jax.eval_shape(lambda: run(train=True))
    jax.eval_shape(lambda: run(8, train=True))  # exact
    drawn = lambda n: run(key=jax.random.key(n), train=True)
    without, one, other = jax.jit(lambda: [run(), drawn(3), drawn(4)])()
    assert apart(jax.jit(run)(), without) == 0 and apart(one, other) > 1e-3 and apart(one, without) > 1e-3


def test_bad_options_say_what_is_wrong():
    with pytest.raises(ValueError, match="^hyper_attention: samples must be at least 1, not 0$"):
        HyperAttention(8, samples=0)
