"""Native sparse attention: what is chosen, that fetching equals masking, full attention as the limit of a branch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts
from jaxlib_ext.kernels.attention import PAD, Tokens, attention
from jaxlib_ext.models.token_mixers import NativeSparseAttention, _nsa
from jaxlib_ext.testing.verdict import apart, draw

B, T, N, G, K = 2, 29, 2, 3, 4
SIZES = _nsa.Sizes(block=4, stride=2, select=6, top=3)
BLOCKS = -(-T // SIZES.select)


def tokens():
    """Two documents and pads in the first row, one document in the second."""
    doc = jnp.zeros((B, T), jnp.int32).at[0, 13:].set(1).at[0, 26:].set(PAD)
    place = jnp.arange(T)[None].repeat(B, 0).at[0, 13:].add(-13)
    return Tokens(doc, place.at[0, 26:].set(12))


def arrays():
    keys = iter(jax.random.split(jax.random.key(0), 4))
    q = jax.random.normal(next(keys), (B, T, N, G, K))
    k, v = (jax.random.normal(next(keys), (B, T, N, K)) for _ in "kv")
    return q, k, v, jax.random.normal(next(keys), (T, T))


def chosen(at, p=None, top=SIZES.top):
    """Blocks for probabilities that are drawn if not given."""
    _, to = _nsa.ends(at, SIZES)
    p = jax.random.uniform(jax.random.key(5), (B, N, T, to.place.shape[1])) if p is None else p
    seen = (at.doc[:, :, None] == to.doc[:, None]) & (at.place[:, :, None] >= to.place[:, None])
    return _nsa.choose(p * seen[:, None], to.place, at.place, BLOCKS, _nsa.Sizes(4, 2, 6, top))


def test_compressed_blocks_are_those_that_end_in_time_and_in_one_document():
    at = tokens()
    row, to = _nsa.ends(at, SIZES)
    for b, documents in ((0, [(0, 13), (13, 26)]), (1, [(0, T)])):
        wanted = [
            (first, last) for first, end in documents for last in range(first + 3, end) if (last - first - 3) % 2 == 0
        ]
        n = len(wanted)
        assert row[b, :n].tolist() == [last for _, last in wanted] and (row[b, n:] == T).all()
        assert to.place[b, :n].tolist() == [last - first for first, last in wanted] and (to.doc[b, n:] < PAD).all()


def test_importance_is_the_summed_overlap_written_as_loops():
    blocks = np.array([3, 5, 7, 9, 11, 13, 15])  # places of the last tokens
    got = _nsa.overlap(jnp.asarray(blocks)[None], 3, SIZES)[0]
    for j in range(3):
        for i, last in enumerate(blocks):
            strides = range((last - 3) // 2, (last - 3) // 2 + 2)  # of the compressed block, in units of the stride
            assert got[i, j] == sum(s in range(3 * j, 3 * j + 3) for s in strides)
    p = np.random.default_rng(0).uniform(size=len(blocks))
    by_paper = [
        sum(p[3 * j + m - n] for m in range(3) for n in range(2) if 0 <= 3 * j + m - n < len(p)) for j in range(3)
    ]
    np.testing.assert_allclose(p @ np.asarray(got), by_paper, rtol=1e-6)


@pytest.mark.slow
def test_a_group_chooses_its_own_block_the_one_before_the_first_and_the_best_of_the_rest():
    at = tokens()
    picked, counts = chosen(at, top=4)
    assert picked.shape == (B, N, T, 4)  # one choice a group, whatever its heads
    _, to = _nsa.ends(at, SIZES)
    p = np.asarray(jax.random.uniform(jax.random.key(5), (B, N, T, to.place.shape[1])))[1, 0]
    shared = np.asarray(_nsa.overlap(to.place[1:], BLOCKS, SIZES)[0])
    picked, counts, last, doc = (np.asarray(a[1]) for a in (picked, counts, to.place, to.doc))
    for t in range(T):  # the second row, where tokens are at their places
        own = t // 6
        score = (p[t] * (last <= t) * (doc == 0)) @ shared
        forced = {own, max(own - 1, 0), 0}
        rest = sorted((m for m in range(own + 1) if m not in forced), key=lambda m: -score[m])
        wanted = forced | set(rest[: 4 - len(forced)])
        assert {int(m) for m, c in zip(picked[0, t], counts[0, t], strict=True) if c} == wanted


@pytest.mark.slow
def test_fetched_blocks_equal_a_mask_over_all_keys_in_values_and_gradients(monkeypatch):
    monkeypatch.setattr(_nsa, "QUERIES", 8)
    q, k, v, _ = arrays()
    at = tokens()
    picked, counts = chosen(at)
    real = (at.doc >= 0)[:, :, None, None, None]
    fetched = lambda q, k, v: jnp.where(real, _nsa.gathered(q, k, v, at, picked, counts, 0.5, SIZES), 0.0)
    masked = lambda q, k, v: jnp.where(real, _nsa.masked(q, k, v, at, at, picked, counts, BLOCKS, 0.5, SIZES), 0.0)
    both = lambda f: (f(q, k, v), jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2))(q, k, v))
    assert apart(*jax.jit(lambda: (both(fetched), both(masked)))()) < 1e-5


def test_choosing_all_blocks_is_full_attention_and_fewer_are_not():
    q, k, v, _ = arrays()
    at = tokens()
    real = (at.doc >= 0)[:, :, None, None, None]

    def run(top):
        return jnp.where(real, _nsa.gathered(q, k, v, at, *chosen(at, top=top), 0.5, _nsa.Sizes(4, 2, 6, top)), 0.0)

    full = jnp.where(real, attention(q, k, v, at, at, scale=0.5), 0.0)
    assert apart(run(BLOCKS), full) < 1e-5 and apart(run(2), full) > 1e-2


def test_probabilities_add_up_over_a_group_and_nothing_whole_reads_zero():
    q, k, v, _ = arrays()
    at = tokens()
    row, to = _nsa.ends(at, SIZES)
    take = lambda a: jax.vmap(lambda a, i: a[i])(a, jnp.minimum(row, T - 1))
    y, p = _nsa.look(q, take(k), take(v), at, to, 0.5)
    some = (at.place >= 3)[:, None] & (at.doc >= 0)[:, None]
    np.testing.assert_allclose(jnp.sum(p, -1), jnp.broadcast_to(G * some, (B, N, T)), atol=1e-5)
    assert (jnp.where(some[:, 0, :, None, None, None], 0.0, y) == 0).all() and (jnp.abs(y[1, 3:]) > 0).all()


@pytest.mark.slow
def test_fetching_is_what_training_does_where_few_blocks_are_chosen(monkeypatch):
    mixer = NativeSparseAttention(16, heads=4, kv_heads=2, block=4, stride=2, select=4, top=3, window=5)
    params, x = draw(mixer.decl(), jax.random.key(0)), jax.random.normal(jax.random.key(1), (1, 60, 16))
    seq = from_starts(jnp.zeros((1, 60), bool).at[0, jnp.array([0, 33])].set(True))
    run = lambda: jax.jit(lambda: mixer.scan(params, x, param.zeros(mixer.state(1, 0)), seq)[0])()
    calls, gathered = [], _nsa.gathered
    monkeypatch.setattr(_nsa, "gathered", lambda *a: calls.append(1) or gathered(*a))
    fetched = run()
    masked = lambda q, k, v, at, picked, counts, *rest: _nsa.masked(q, k, v, at, at, picked, counts, 15, *rest)
    monkeypatch.setattr(_nsa, "gathered", masked)
    assert calls and apart(run(), fetched) < 1e-5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(stride=5), "stride=5 does not divide block=32"),
        (dict(select=40), "stride=16 does not divide select=40"),
        (dict(top=0), "top must be at least 1, not 0"),
    ],
)
def test_bad_options_say_what_is_wrong(options, said):
    with pytest.raises(ValueError) as error:
        NativeSparseAttention(16, **options)
    assert str(error.value) == f"native_sparse_attention: {said}"
    with pytest.raises(ValueError, match="^attention: heads=3 does not divide width=16"):
        NativeSparseAttention(16, heads=3)
