"""Which tokens a query sees: sinks, bands and the factorised patterns against index sets written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts, whole
from jaxlib_ext.kernels.attention import PAD, Tokens, attention
from jaxlib_ext.models.positions import NoPosition
from jaxlib_ext.models.token_mixers import Attention, SparseTransformer
from jaxlib_ext.testing.verdict import apart, draw

T, D = 23, 8


def reach(mixer, seq=None):
    """bool [T, T]: which token's output depends on which token's input."""
    seq = whole(1, T) if seq is None else seq
    params = draw(mixer.decl(), jax.random.key(0))
    x, weight = jax.random.normal(jax.random.key(1), (2, 1, T, D))
    f = lambda x: jnp.sum(mixer.scan(params, x, param.zeros(mixer.state(1, 0)), seq)[0] * weight, -1)[0]
    return np.asarray(jnp.abs(jax.jit(jax.jacrev(f))(x))[:, 0].max(-1)) > 0


def sets(inside):
    return np.array([[s <= t and inside(t, s) for s in range(T)] for t in range(T)])


def pattern(kind, l, c=2):
    """Near and far sets of the paper by their definitions."""
    if kind == "strided":
        return sets(lambda t, s: s >= max(0, t - l)), sets(lambda t, s: (t - s) % l == 0)
    return sets(lambda t, s: s // l == t // l), sets(lambda t, s: s % l in range(l - c, l))


@pytest.mark.slow
def test_sinks_stay_in_sight_of_a_window_in_every_document():
    mixer = Attention(D, heads=2, window=3, sinks=2)
    assert (reach(mixer) == sets(lambda t, s: t - s < 3 or s < 2)).all()
    start = jnp.zeros((1, T), bool).at[0, jnp.array([0, 9])].set(True)
    packed = sets(lambda t, s: (t >= 9) == (s >= 9) and (t - s < 3 or s - 9 * (t >= 9) < 2))
    assert (reach(mixer, from_starts(start)) == packed).all()


def test_sinks_without_a_window_that_hides_anything_change_nothing():
    x, plain = jax.random.normal(jax.random.key(1), (1, T, D)), Attention(D, heads=2)
    params = draw(plain.decl(), jax.random.key(0))
    run = lambda m: m.scan(params, x, param.zeros(m.state(1, 0)), whole(1, T))[0]
    assert apart(run(Attention(D, heads=2, window=T, sinks=3)), run(plain)) == 0


@pytest.mark.parametrize("window", [2, 3, 7])
def test_a_band_equals_the_whole_matrix_in_values_and_gradients(window):
    keys = iter(jax.random.split(jax.random.key(0), 3))
    q = jax.random.normal(next(keys), (2, T, 2, 3, 4))
    k, v = (jax.random.normal(next(keys), (2, T, 2, 4)) for _ in "kv")
    doc = jnp.asarray(np.repeat([[0] * 10 + [PAD] * 2 + [1] * 11], 2, 0))
    at = Tokens(doc, jnp.broadcast_to(jnp.arange(T)[None], (2, T)))

    def both(form):
        f = lambda *a: attention(*a, at, at, scale=0.5, window=window, cap=3.0, implementation=form)
        return f(q, k, v), jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2))(q, k, v)

    assert apart(*jax.jit(lambda: (both("xla_banded"), both("xla")))()) < 1e-5


def test_a_band_refuses_keys_that_are_not_the_queries_own():
    q, k = jnp.zeros((1, 4, 1, 1, 2)), jnp.zeros((1, 6, 1, 2))
    at, to = (Tokens(jnp.zeros((1, n), jnp.int32), jnp.arange(n)[None]) for n in (4, 6))
    with pytest.raises(ValueError, match="xla_banded needs a window, no bias, and the keys of the queries' own tokens"):
        attention(q, k, k, at, to, scale=1.0, window=2, implementation="xla_banded")


@pytest.mark.parametrize("kind", ["strided", "fixed"])
def test_the_halves_see_the_sets_of_the_paper(kind):
    halves = SparseTransformer(D, heads=4, pattern=kind, stride=5, columns=2, position=NoPosition()).halves
    for name, expected in zip(("near", "far"), pattern(kind, 5), strict=True):
        own = np.eye(T, dtype=bool) & (expected.sum(1, keepdims=True) > 1)  # a query matters where there is a choice
        assert (reach(halves[name]) == expected | own).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strided", "fixed"])
def test_output_and_gradient_are_those_of_dense_attention_with_the_same_mask(kind):
    mixer = SparseTransformer(D, heads=4, pattern=kind, stride=5, columns=2, position=NoPosition())
    params, x = draw(mixer.decl(), jax.random.key(0)), jax.random.normal(jax.random.key(1), (1, T, D))

    def dense(params, x):
        y = 0.0
        for name, seen in zip(("near", "far"), pattern(kind, 5), strict=True):
            q, k, v, out = (params[name][n] for n in ("q", "k", "v", "out"))
            z = jnp.einsum("btd,dngk,bse,enk->bngts", x, q, x, k) * q.shape[-1] ** -0.5
            weights = jnp.exp(z - 10.0) * seen.astype(np.float32)[None, None, None]
            total = jnp.sum(weights, -1, keepdims=True)
            weights = weights / jnp.where(total > 0, total, 1.0)
            y = y + jnp.einsum("bngts,bsd,dnk,ngke->bte", weights, x, v, out)
        return y

    ours = lambda params, x: mixer.scan(params, x, param.zeros(mixer.state(1, 0)), whole(1, T))[0]
    both = lambda f: (f(params, x), jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1))(params, x))
    assert apart(*jax.jit(lambda: (both(ours), both(dense)))()) < 1e-5
    assert apart(*jax.jit(lambda: (both(jax.checkpoint(ours)), both(ours)))()) < 1e-6


@pytest.mark.parametrize("kind", ["strided", "fixed"])
def test_every_earlier_token_is_two_steps_away(kind):
    """By one step of each kind: near and then far where strided; where fixed, to a column and then near it, but for
    the token's own block, which it sees at once.
    """
    near, far = pattern(kind, 5)
    two = near @ far if kind == "strided" else near | far @ near
    assert (two == np.tril(np.ones((T, T), bool))).all()
    assert not (two == near | far).all()


def test_sights_grow_as_n_to_the_power_of_3_halves():
    """By what a step of each half looks at, from its cost, with stride and columns as the paper's: sqrt n and a few."""
    for kind in ("strided", "fixed"):
        pairs = []
        for n in (256, 1024, 4096):
            mixer = SparseTransformer(64, heads=2, head_dim=1, pattern=kind, stride=int(n**0.5), columns=1)
            pairs.append(sum(mixer.cost(1, t + 1).flops for t in range(0, n, n // 64)) / 64 * n / 4)
        growth = np.log(pairs[1:]) - np.log(pairs[:-1])
        np.testing.assert_allclose(growth / np.log(4), 1.5, atol=0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(pattern="random"), 'pattern is "strided" or "fixed", not \'random\''),
        (dict(stride=1), "needs stride >= 2 and columns in 1..stride, not columns=8, stride=1"),
        (dict(pattern="fixed", stride=4), "needs stride >= 2 and columns in 1..stride, not columns=8, stride=4"),
        (dict(heads=3), "heads must be even, one half near and one far, not 3"),
        (dict(heads=4, kv_heads=1), "kv_heads must be even, one half near and one far, not 1"),
        (dict(heads=6), "heads=6 does not divide width=8; give head_dim"),
    ],
)
def test_bad_options_say_what_is_wrong(options, said):
    with pytest.raises(ValueError) as error:
        SparseTransformer(D, **options)
    assert str(error.value) == f"sparse_transformer: {said}"


def test_a_window_on_either_side_costs_the_keys_of_both_and_no_state():
    plain, near = Attention(8, heads=2, causal=False), Attention(8, heads=2, causal=False, window=4)
    assert near.cost(100, 100).flops == plain.cost(100, 7).flops
    assert near.cost(100, 100).state_bytes == plain.cost(100, 100).state_bytes == 0
    assert near.state(1, 100) == {}
