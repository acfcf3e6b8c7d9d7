"""Sorted blocks and samples: exact where they cover everything, unbiased where they do not."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts
from jaxlib_ext.kernels.attention import hyper
from jaxlib_ext.kernels.attention.hyper import Rows
from jaxlib_ext.models.token_mixers import Attention, HyperAttention
from jaxlib_ext.testing.verdict import apart, draw

B, H, T, K = 2, 2, 32, 4


def inputs(scale=1.0):
    keys = iter(jax.random.split(jax.random.key(0), 3))
    q, k, v = (jax.random.normal(next(keys), (B, H, T, K)) for _ in "qkv")
    doc = jnp.zeros((B, 1, T), jnp.int32)
    return Rows(scale * q, doc), Rows(k, doc, v)


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
def test_the_recursion_over_exact_parts_is_masked_attention_in_values_and_gradients():
    """A block of everything leaves nothing to estimate; 45 tokens, so that halves are odd."""
    plain = Attention(8, heads=4, kv_heads=2)
    ours = HyperAttention(8, heads=4, kv_heads=2, least=7, block=64)
    params, x = draw(plain.decl(), jax.random.key(0)), jax.random.normal(jax.random.key(1), (B, 45, 8))
    mask = jnp.ones((B, 45), bool).at[0, 40:].set(False)
    seq = from_starts(jnp.zeros((B, 45), bool).at[:, 0].set(True).at[0, 17].set(True), mask)
    run = lambda m: lambda p, x: jnp.where(mask[..., None], m.scan(p, x, param.zeros(m.state(B, 0)), seq)[0], 0.0)
    both = lambda f: (f(params, x), jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1))(params, x))
    assert apart(*jax.jit(lambda: (both(run(ours)), both(run(plain))))()) < 1e-5


@pytest.mark.slow
def test_numerators_and_denominators_are_unbiased_over_draws():
    q, k = inputs()
    full = hyper.exact(q.x, k.x, k.v, jnp.ones((1, 1, T, T), bool))

    def one(key):
        part = hyper.unmasked(q, k, key, block=8, samples=8, bits=3)
        total = jnp.exp(part.total - full.total)  # of the exact one
        return total, total[..., None] * part.y

    draws = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 2000))
    for drawn, exact in zip(draws, (jnp.ones_like(full.total), full.y), strict=True):
        error = np.asarray(drawn).std(0) / 2000**0.5
        away = np.abs(np.asarray(drawn).mean(0) - exact) / error
        assert away.max() < 5 and 0.8 < np.mean(away**2) < 1.2, (away.max(), np.mean(away**2))


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


def test_bad_options_say_what_is_wrong():
    with pytest.raises(ValueError, match="^hyper_attention: samples must be at least 1, not 0$"):
        HyperAttention(8, samples=0)
