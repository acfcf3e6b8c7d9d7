"""Native sparse attention: what is chosen, that fetching equals masking, full attention as the limit of a branch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts, whole
from jaxlib_ext.kernels.attention import PAD, Tokens, attention
from jaxlib_ext.models.token_mixers import Attention, NativeSparseAttention, _nsa
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
    return _nsa.choose(p * seen[:, None], at, to, BLOCKS, _nsa.Sizes(4, 2, 6, top))


def overlap(last, blocks, sizes):
    """Strides that compressed blocks, of these last places [C], share with blocks to choose, by loops: [C, blocks]."""
    shared = np.zeros((len(last), blocks))
    for i, end in enumerate(np.asarray(last)):
        for first in range(end + 1 - sizes.block, end + 1, sizes.stride):
            if 0 <= first // sizes.select < blocks:
                shared[i, first // sizes.select] += 1
    return shared


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


def test_overlap_is_the_double_sum_of_the_paper():
    last = np.arange(3, 17, 2)
    p = np.random.default_rng(0).uniform(size=len(last))
    by_paper = [
        sum(p[3 * j + m - n] for m in range(3) for n in range(2) if 0 <= 3 * j + m - n < len(p)) for j in range(3)
    ]
    np.testing.assert_allclose(p @ overlap(last, 3, SIZES), by_paper, rtol=1e-12)


@pytest.mark.parametrize("sizes", [SIZES, _nsa.Sizes(6, 2, 4, 2), _nsa.Sizes(3, 3, 3, 2), _nsa.Sizes(8, 1, 2, 2)])
def test_importance_by_neighbours_is_the_product_with_the_overlaps(sizes):
    """Of several documents, from the queries' own tokens and from slots with empty ones between."""
    at = tokens()
    _, to = _nsa.ends(at, sizes)
    gap = lambda a, fill: jnp.concatenate([a[:, :2], jnp.full((B, 3), fill), a[:, 2:]], 1)
    gapped = Tokens(gap(to.doc, -2), gap(to.place, 5))
    blocks = -(-T // sizes.select)
    full = Tokens(*(a[:, : int((to.doc[1] >= 0).sum())] for a in to))  # as long as the second row has blocks
    for slots in (full, _nsa.packed({}, gapped)[1]):
        p = jax.random.uniform(jax.random.key(5), (B, N, T, slots.place.shape[1]))
        seen = (at.doc[:, :, None] == slots.doc[:, None]) & (at.place[:, :, None] >= slots.place[:, None])
        p = p * seen[:, None]
        dense = np.stack([np.asarray(p[b]) @ overlap(slots.place[b], blocks, sizes) for b in range(B)])
        np.testing.assert_allclose(_nsa.importance(p, at, slots, blocks, sizes), dense, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_group_chooses_its_own_block_the_one_before_the_first_and_the_best_of_the_rest():
    at = tokens()
    picked, counts = chosen(at, top=4)
    assert picked.shape == (B, N, T, 4)  # one choice a group, whatever its heads
    _, to = _nsa.ends(at, SIZES)
    p = np.asarray(jax.random.uniform(jax.random.key(5), (B, N, T, to.place.shape[1])))[1, 0]
    shared = overlap(to.place[1], BLOCKS, SIZES)
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


SMALL = dict(heads=4, kv_heads=2, block=4, stride=2, select=4)


def turned(x, places):
    """x [T, ..., K] rotated as by Rope, channel i with i + K / 2."""
    half = x.shape[-1] // 2
    angle = places[:, None] * 10000.0 ** (-np.arange(half) / half)[None]
    angle = angle.reshape(len(places), *(1,) * (x.ndim - 2), half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], -1)


def weighed(q, k, v):
    """(softmax(k q / sqrt K) v, the softmax) of one query [K] and keys [S, K]."""
    if not len(k):
        return np.zeros_like(q), np.zeros(0)
    z = k @ q / np.sqrt(len(q))
    p = np.exp(z - z.max())
    return p / p.sum() @ v, p / p.sum()


def reference(mixer, params, x):
    """One document [T, D] in float64 by the paper's equations, query by query and head by head."""
    w = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    l, d, select = mixer.block, mixer.stride, mixer.select
    project = lambda name: np.einsum("td,d...->t...", x, w[name])
    time, (_, heads, group, _) = len(x), w["q"].shape
    plain, gate, places = project("q"), 1 / (1 + np.exp(-project("gate"))), np.arange(time)
    q = turned(plain, places)
    keys = {b: turned(project(f"k_{b}"), places) for b in ("chosen", "window")}
    values = {b: project(f"v_{b}") for b in ("chosen", "window")}
    gelu = lambda a: 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))

    def small(name, i, n):  # compressed block i of head n
        rows = project(f"{name}_compressed")[i * d : i * d + l, n] + w[f"{name}_place"]
        return gelu(np.einsum("lk,lkf->f", rows, w[f"{name}_up"])) @ w[f"{name}_down"]

    blocks = range((time - l) // d + 1)
    k_small, v_small = (np.array([[small(name, i, n) for i in blocks] for n in range(heads)]) for name in "kv")
    y = np.zeros_like(x)
    for t, n in np.ndindex(time, heads):
        whole = max(0, (t + 1 - l) // d + 1)
        parts = [weighed(plain[t, n, g], k_small[n, :whole], v_small[n, :whole]) for g in range(group)]
        score = sum(p for _, p in parts) @ overlap(np.arange(whole) * d + l - 1, t // select + 1, mixer._sizes)
        own = t // select
        chosen = list(dict.fromkeys((own, max(own - 1, 0), 0)))
        chosen = (chosen + [j for j in np.argsort(-score) if j not in chosen])[: mixer.top]
        inside = [s for s in range(t + 1) if s // select in chosen]
        near = range(max(0, t + 1 - mixer.window), t + 1)
        for g in range(group):
            far, _ = weighed(q[t, n, g], keys["chosen"][inside, n], values["chosen"][inside, n])
            close, _ = weighed(q[t, n, g], keys["window"][near, n], values["window"][near, n])
            for c, part in enumerate((parts[g][0], far, close)):
                y[t] += gate[t, c, n, g] * part @ w["out"][n, g]
    return y


def trained(mixer, params, x, seq):
    return mixer.scan(params, x, param.zeros(mixer.state(x.shape[0], 0)), seq)[0]


def split(mixer, params, x, seq):
    """Two scans from a state, the second of which goes on with a document that has compressed blocks."""
    state, ys = param.zeros(mixer.state(x.shape[0], x.shape[1])), []
    for part in (slice(0, 25), slice(25, None)):
        y, state, _ = mixer.scan(params, x[:, part], state, jax.tree.map(lambda a, part=part: a[:, part], seq))
        ys.append(y)
    return jnp.concatenate(ys, 1)


def stepped(mixer, params, x, seq, length=None):
    tokens = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (x, seq))
    step = lambda state, token: mixer.step(params, token[0], state, token[1])[1::-1]
    state = param.zeros(mixer.state(x.shape[0], length or x.shape[1]))
    return jnp.moveaxis(jax.lax.scan(step, state, tokens)[1], 0, 1)


@pytest.mark.parametrize(
    ("run", "top"),
    [
        (trained, 4),
        pytest.param(trained, 6, marks=pytest.mark.slow),  # by a mask, where top=4 is fetched
        pytest.param(split, 4, marks=pytest.mark.slow),
        pytest.param(stepped, 4, marks=pytest.mark.slow),
    ],
)
def test_the_whole_mixer_is_the_paper_written_as_loops(run, top):
    mixer = NativeSparseAttention(16, **SMALL, top=top, window=5, hidden=3)
    params, x = draw(mixer.decl(), jax.random.key(0)), jax.random.normal(jax.random.key(1), (1, 42, 16))
    params["gate"] = 3 * params["gate"]
    seq = from_starts(jnp.zeros((1, 42), bool).at[0, jnp.array([0, 9])].set(True))
    said = [reference(mixer, params, np.asarray(x[0, part], np.float64)) for part in (slice(0, 9), slice(9, None))]
    y = jax.jit(functools.partial(run, mixer))(params, x, seq)[0]
    assert apart(y, jnp.asarray(np.concatenate(said), jnp.float32)) < 2e-6


def test_a_window_of_the_whole_length_is_full_attention_and_a_shorter_one_is_not():
    """With nothing in the other branches and all gates one half."""
    make = lambda window: NativeSparseAttention(16, **SMALL, top=3, window=window)
    full, x = Attention(16, heads=4, kv_heads=2), jax.random.normal(jax.random.key(1), (1, 20, 16))
    params = draw(make(20).decl(), jax.random.key(0))
    params |= {name: jnp.zeros_like(params[name]) for name in ("gate", "v_chosen", "v_down")}
    plain = dict(q=params["q"], k=params["k_window"], v=params["v_window"], out=0.5 * params["out"])
    runs = (full, plain), (make(20), params), (make(19), params)
    wanted, long, short = jax.jit(lambda: [trained(*run, x, whole(1, 20)) for run in runs])()
    assert apart(long, wanted) < 1e-6 and apart(short, wanted) > 1e-3


def test_no_token_changes_what_earlier_ones_choose_or_give():
    """Rows that differ from the last one in one token each: no gradient passes through the choice. Compressed blocks
    have no values here, so that they matter by the choice alone.
    """
    time = 36
    mixer = NativeSparseAttention(16, **SMALL, top=4, window=2)
    params, x = draw(mixer.decl(), jax.random.key(0)), jax.random.normal(jax.random.key(1), (time, 16))
    params["v_down"] = jnp.zeros_like(params["v_down"])
    other = 10 * jax.random.normal(jax.random.key(2), (time, 16))
    own = jnp.eye(time, dtype=bool)[..., None]
    rows = jnp.concatenate([jnp.where(own, other[None], x[None]), x[None]])
    y = np.asarray(jax.jit(lambda: trained(mixer, params, rows, whole(time + 1, time)))())
    change = np.abs(y[:-1] - y[-1:]).max(-1)  # of token s in row s, at t
    assert change[np.tril_indices(time, -1)].max() < 1e-6 * np.abs(y).max()
    assert (np.diag(change) > 1e-3).all()


@pytest.mark.slow
def test_until_the_slots_are_full_steps_are_right_and_beyond_they_are_nan():
    """The window, longer than the document was to be, has as many slots as the blocks have, of rounded length."""
    mixer = NativeSparseAttention(16, heads=2, block=4, stride=2, select=8, top=2, window=20)
    params, x = draw(mixer.decl(), jax.random.key(0)), jax.random.normal(jax.random.key(1), (1, 12, 16))
    few, many = jax.jit(lambda: [stepped(mixer, params, x, whole(1, 12), length)[0] for length in (3, 12)])()
    np.testing.assert_array_equal(np.isnan(few).all(1), np.arange(12) >= 8)
    assert apart(few[:8], many[:8]) < 1e-6 and not np.isnan(many).any()


def test_a_step_of_several_rows_costs_so_many_steps_and_training_less_a_token():
    mixer = NativeSparseAttention(16)
    assert mixer.cost(6, 300).flops == 6 * mixer.cost(1, 300).flops
    mlp = 4 * 1 * 16 * (32 + 1) * 16 * (1 - 1 / 16)  # that training does once a stride
    np.testing.assert_allclose(mixer.cost(599, 300).flops, 599 * (mixer.cost(1, 300).flops - mlp))


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
