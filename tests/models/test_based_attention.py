"""The Taylor feature map, its chunks against pairs and recurrence, and softmax attention as its limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext.kernels.taylor import features, taylor_attention, width
from jaxlib_ext.models.token_mixers import BasedAttention
from jaxlib_ext.testing.verdict import apart

B, H, K, V = 2, 2, 3, 4


def inputs(time, scale=1.0):
    keys = iter(jax.random.split(jax.random.key(time), 3))
    q, k = (scale * jax.random.normal(next(keys), (B, time, H, K)) for _ in "qk")
    return q, k, jax.random.normal(next(keys), (B, time, H, V)), jnp.zeros((B, H, width(K), V + 1))


def test_products_of_features_are_the_taylor_polynomial():
    q, k = np.random.default_rng(0).normal(size=(2, 50, 16)).astype(np.float32)
    z = np.einsum("nk,nk->n", q, k) / 4
    got = jnp.einsum("nf,nf->n", features(jnp.asarray(q)), features(jnp.asarray(k)))
    np.testing.assert_allclose(got, 1 + z + z * z / 2, rtol=2e-5, atol=1e-5)
    assert features(jnp.asarray(q)).shape[-1] == width(16) == 1 + 16 + 136


@pytest.mark.slow
@pytest.mark.parametrize("time", [1, 130])
def test_chunks_equal_pairs_and_the_recurrence_in_values_state_and_gradients(time):
    q, k, v, empty = inputs(time)
    state = empty.at[..., :-1].set(0.3).at[..., -1].set(features(jnp.ones(K)))  # a sum of one key's features
    start = jnp.zeros((B, time), bool).at[0, 70:71].set(True).at[1, 0].set(True)
    mask = jnp.ones((B, time), bool).at[1, 90:].set(False)

    def recurrence(q, k, v, state):
        one = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)

        def body(s, x):
            q, k, u, start, mask = x
            s = jnp.where(start[:, None, None, None], 0.0, s)
            s = s + jnp.where(mask[:, None, None, None], features(k)[..., None] * u[:, :, None], 0.0)
            y = jnp.einsum("bhf,bhfv->bhv", features(q), s)
            return s, y[..., :-1] / jnp.where(mask[:, None, None], y[..., -1:], 1.0)

        s, y = jax.lax.scan(body, state, tuple(jnp.moveaxis(a, 1, 0) for a in (q, k, one, start, mask)))
        return jnp.where(mask[:, :, None, None], jnp.moveaxis(y, 0, 1), 0.0), s

    def chunks(q, k, v, state):
        y, s = taylor_attention(q, k, v, state, start, mask)
        return jnp.where(mask[:, :, None, None], y, 0.0), s

    def both(f):
        score = lambda *a: sum(jnp.sum(jnp.sin(r)) for r in f(*a))
        return f(q, k, v, state), jax.grad(score, argnums=(0, 1, 2, 3))(q, k, v, state)

    assert apart(*jax.jit(lambda: (both(chunks), both(recurrence)))()) < 2e-5


def test_without_a_state_it_is_the_masked_sum_over_pairs_divided_by_a_positive_one():
    time = 100
    q, k, v, empty = inputs(time, 3.0)

    def dense(q, k, v):
        z = jnp.einsum("bthk,bshk->bhts", q, k) * K**-0.5
        weights = jnp.tril(1 + z + z * z / 2)
        total = jnp.sum(weights, -1)
        return jnp.einsum("bhts,bshv->bthv", weights / total[..., None], v), jnp.min(total)

    all_ = jnp.ones((B, time), bool)
    y, least = jax.jit(dense)(q, k, v)
    assert least >= 0.5  # 1 + z + z^2 / 2 is never below a half
    assert apart(jax.jit(taylor_attention)(q, k, v, empty, ~all_, all_)[0], y) < 1e-5


def test_for_short_queries_it_tends_to_softmax_attention_with_an_error_of_third_order():
    time = 40
    q, k, v, empty = inputs(time)
    all_ = jnp.ones((B, time), bool)

    def error(scale):
        z = jnp.einsum("bthk,bshk->bhts", scale * q, k) * K**-0.5
        exact = jnp.einsum(
            "bhts,bshv->bthv", jax.nn.softmax(jnp.where(jnp.tril(all_[:1].T & all_[:1]), z, -1e30), -1), v
        )
        return jnp.linalg.norm(taylor_attention(scale * q, k, v, empty, ~all_, all_)[0] - exact)

    errors = [float(e) for e in jax.jit(lambda: [error(s) for s in (0.4, 0.2, 0.1)])()]
    for more, less in zip(errors, errors[1:], strict=False):
        assert 6 < more / less < 10, errors


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="^based_attention: heads=3 does not divide width=16; give value$"):
        BasedAttention(16, heads=3)
