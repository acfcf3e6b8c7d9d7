"""Attention: blocked equals whole, and both the sum written out; an implementation that is not there raises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import whole
from jaxlib_ext.kernels.attention import PAD, Tokens, attention, xla
from jaxlib_ext.models.token_mixers import Attention
from jaxlib_ext.testing.verdict import apart

B, T, N, G, K = 2, 45, 2, 3, 4


def inputs():
    keys = iter(jax.random.split(jax.random.key(0), 4))
    q = jax.random.normal(next(keys), (B, T, N, G, K))
    k, v = (jax.random.normal(next(keys), (B, T, N, K)) for _ in "kv")
    doc = np.repeat(np.array([[0] * 20 + [1] * 20 + [PAD] * 5]), B, 0)
    tokens = Tokens(jnp.asarray(doc), jnp.broadcast_to(jnp.arange(T)[None], (B, T)))
    return q, k, v, tokens, jax.random.normal(next(keys), (1, N, G, T, T))


OPTIONS = {
    "causal": dict(causal=True),
    "window": dict(causal=True, window=7),
    "both sides": dict(causal=False, window=4),
    "cap": dict(causal=True, cap=2.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_blocked_equals_whole_in_values_and_gradients(name, monkeypatch):
    monkeypatch.setattr(xla, "BLOCK", 16)
    q, k, v, at, bias = inputs()

    def run(form, q, k, v, bias):
        return attention(q, k, v, at, at, scale=0.5, bias=bias, implementation=form, **OPTIONS[name])

    def both(form):
        score = lambda *a: jnp.sum(jnp.sin(run(form, *a)))
        return run(form, q, k, v, bias), jax.grad(score, argnums=(0, 1, 2, 3))(q, k, v, bias)

    assert apart(*jax.jit(lambda: (both("xla_blocked"), both("xla")))()) < 1e-5


def test_whole_equals_the_sum_written_out():
    q, k, v, at, _ = inputs()
    y = np.asarray(attention(q, k, v, at, at, scale=0.5, window=7))
    q, k, v, doc = (np.asarray(a, np.float64) for a in (q, k, v, at.doc))
    for t in (0, 6, 19, 20, 33, 44):
        seen = [s for s in range(t + 1) if doc[0, s] == doc[0, t] and t - s < 7]
        for n in range(N):
            for g in range(G):
                p = np.exp([0.5 * q[0, t, n, g] @ k[0, s, n] for s in seen])
                np.testing.assert_allclose(y[0, t, n, g], (p / p.sum()) @ v[0, seen, n], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_multi_query_is_multi_head_with_the_same_keys_for_all_heads():
    one, many = Attention(8, heads=4, kv_heads=1), Attention(8, heads=4)
    params = param.init(one.decl(), jax.random.key(0))
    tiled = {n: jnp.tile(params[n], (1, 4, 1)) for n in "kv"}
    tiled |= dict(q=params["q"].reshape(8, 4, 1, 2), out=params["out"].reshape(4, 1, 2, 8))
    x, seq = jax.random.normal(jax.random.key(1), (2, 9, 8)), whole(2, 9)
    run = lambda m, p: m.scan(p, x, param.zeros(m.state(2, 0)), seq)[0]
    assert apart(run(many, tiled), run(one, params)) < 1e-5
    assert param.nbytes(many.state(1, 64), "cache") == 4 * param.nbytes(one.state(1, 64), "cache")


def test_a_window_that_reaches_everything_is_no_window():
    x, seq = jax.random.normal(jax.random.key(1), (2, 9, 8)), whole(2, 9)
    params = param.init(Attention(8, heads=2).decl(), jax.random.key(0))
    run = lambda m: m.scan(params, x, param.zeros(m.state(2, 0)), seq)[0]
    assert apart(run(Attention(8, heads=2, window=9)), run(Attention(8, heads=2))) == 0
    assert apart(run(Attention(8, heads=2, window=3)), run(Attention(8, heads=2))) > 1e-3


def test_an_unknown_implementation_raises():
    q, k, v, at, _ = inputs()
    with pytest.raises(ValueError, match="attention has no implementation 'flash'; it has xla, xla_blocked"):
        attention(q, k, v, at, at, scale=1.0, implementation="flash")
