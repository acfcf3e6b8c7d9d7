"""Associative recurrent memory: exact recall and overwriting, what it is without a memory, and a loop in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts, whole
from jaxlib_ext.models.positions import NoPosition
from jaxlib_ext.models.token_mixers import Armt, Attention
from jaxlib_ext.models.token_mixers.armt import Memory, dpfp, recall, store
from jaxlib_ext.testing.verdict import TOLERANCE, apart, draw

D, T = 8, 22
X = jax.random.normal(jax.random.key(1), (2, T, D))
MIXER = Armt(D, heads=2, segment=5, memories=3, key=4)
PARAMS = draw(MIXER.decl(), jax.random.key(0))


def run(mixer, params, x=X, seq=None):
    seq = whole(*x.shape[:2]) if seq is None else seq
    scan = lambda params, x, seq: mixer.scan(params, x, param.zeros(mixer.state(len(x), 0)), seq)[0]
    return jax.jit(scan)(params, x, seq)


def test_dpfp_is_its_definition():
    x = np.float64(jax.random.normal(jax.random.key(0), (4,)))
    u = np.maximum(np.concatenate([x, -x]), 0)
    phi = np.array([u[i] * u[(i - n) % 8] for n in (1, 2, 3) for i in range(8)])
    np.testing.assert_allclose(dpfp(jnp.asarray(x, jnp.float32)), phi / np.linalg.norm(phi), atol=1e-6)


def memory_of(phi, v, beta=1.0, old=None):
    old = (jnp.zeros((1, phi.shape[-1], v.shape[-1])), jnp.zeros((1, phi.shape[-1]))) if old is None else old
    return store(*old, phi, v, jnp.full(phi.shape[:2], beta), 1e-5)


def orthonormal(n: int, p: int):
    """n keys that are not negative, of length 1 and orthogonal: [1, n, p]."""
    keys = np.zeros((1, n, p), np.float32)
    for i in range(n):
        keys[0, i, 2 * i : 2 * i + 2] = [0.6, 0.8]
    return jnp.asarray(keys)


def test_orthonormal_keys_recall_every_stored_value_exactly():
    phi, v = orthonormal(4, 8), jax.random.normal(jax.random.key(2), (1, 4, D))
    assert apart(recall(*memory_of(phi, v), phi, 1e-5), v) < 1e-6


def test_a_rewritten_key_has_its_new_value_and_the_others_keep_theirs():
    phi, v = orthonormal(4, 8), jax.random.normal(jax.random.key(2), (1, 4, D))
    new = jax.random.normal(jax.random.key(3), (1, 1, D))
    memory = memory_of(phi[:, 1:2], new, old=memory_of(phi, v))
    assert apart(recall(*memory, phi, 1e-5), v.at[:, 1].set(new[:, 0])) < 1e-6


def test_half_a_strength_moves_half_of_the_way():
    phi, v = orthonormal(1, 2), jax.random.normal(jax.random.key(2), (1, 1, D))
    memory = memory_of(phi, 3 * v, beta=0.5, old=memory_of(phi, v))
    assert apart(recall(*memory, phi, 1e-5), 2 * v) < 1e-6


def test_a_key_that_is_stored_already_does_not_make_the_normaliser_grow():
    phi, v = orthonormal(4, 8), jax.random.normal(jax.random.key(2), (1, 4, D))
    _, z = memory_of(phi, v)
    _, again = memory_of(phi[:, 1:3], -v[:, 1:3], old=memory_of(phi, v))
    assert apart(again, z) < 1e-6
    _, more = memory_of(jnp.full((1, 1, 8), 8**-0.5), v[:, :1], old=memory_of(phi[:, :2], v[:, :2]))
    assert jnp.sum(more) > jnp.sum(memory_of(phi[:, :2], v[:, :2])[1])


def test_nothing_passes_through_the_share_of_a_key_that_is_new():
    phi, v = dpfp(jax.random.normal(jax.random.key(0), (1, 2, 4))), jnp.ones((1, 2, D))
    total = lambda phi: jnp.sum(memory_of(phi, v)[1] * jax.lax.stop_gradient(phi[:, 0]))
    one = jax.grad(total)(phi)
    assert apart(one, jnp.broadcast_to(phi[:, :1], phi.shape)) < 1e-6  # gamma = 1, and no slope of it


@pytest.mark.parametrize("time", [3, 5])
def test_one_segment_is_plain_attention(time):
    plain = Attention(D, heads=2)
    params = {n: PARAMS[n] for n in ("q", "k", "v", "out")}
    params = params | dict(q=params["q"][:, :, None], out=params["out"][:, None])
    assert apart(run(MIXER, PARAMS, X[:, :time]), run(plain, params, X[:, :time])) < 1e-6


def test_with_an_empty_memory_it_is_attention_within_segments():
    plain = Attention(D, heads=2)
    params = {n: PARAMS[n] for n in ("q", "k", "v", "out")}
    params = params | dict(q=params["q"][:, :, None], out=params["out"][:, None])
    segments = from_starts(jnp.broadcast_to(jnp.arange(T) % 5 == 0, (2, T)))
    nothing = PARAMS | dict(write_v=jnp.zeros((D, D)))
    assert apart(run(MIXER, nothing), run(plain, params, seq=segments)) < 1e-6
    assert apart(run(MIXER, PARAMS), run(plain, params, seq=segments)) > 1e-2


@pytest.mark.parametrize("shift", [1, 4, 5, 7])
def test_segments_count_from_the_start_of_a_document_wherever_it_stands(shift):
    """Behind pads, and behind another document."""
    wide = jnp.concatenate([jnp.ones((2, shift, D)), X], 1)
    start = jnp.zeros((2, T + shift), bool).at[:, shift].set(True).at[0, 0].set(True)
    mask = jnp.ones_like(start).at[1, :shift].set(False)
    assert apart(run(MIXER, PARAMS, wide, from_starts(start, mask))[:, shift:], run(MIXER, PARAMS)) < 1e-5


@pytest.mark.parametrize("cut", [1, 5, 8, 10, 13])
def test_a_call_may_end_anywhere_in_a_segment(cut):
    state, seq, rows = param.zeros(MIXER.state(2, T)), whole(2, T), []
    for at in (slice(0, cut), slice(cut, None)):
        y, state, _ = MIXER.scan(PARAMS, X[:, at], state, jax.tree.map(lambda a, at=at: a[:, at], seq))
        rows.append(y)
    assert apart(jnp.concatenate(rows, 1), run(MIXER, PARAMS)) < 1e-5


def test_it_is_the_loop_over_segments_of_the_paper():
    """In float64, with memory tokens, strengths and shares written out one by one."""
    mixer = Armt(D, heads=1, segment=5, memories=3, key=4, floor=1e-2, position=NoPosition())
    params = draw(mixer.decl(), jax.random.key(4))
    p = {n: np.float64(v) for n, v in params.items()}
    flat = lambda w: w.reshape(D, -1)
    soft = lambda a: np.exp(a - a.max()) / np.exp(a - a.max()).sum()
    out = p["out"].reshape(-1, D)

    def phi(x):
        u = np.maximum(np.concatenate([x, -x]), 0)
        made = np.concatenate([u * np.roll(u, n) for n in (1, 2, 3)])
        return made / np.linalg.norm(made)

    a, z, y = np.zeros((24, D)), np.zeros(24), []
    for first in range(0, T, 5):
        rows = np.float64(X[0, first : first + 5])
        r = np.array([a.T @ phi(x @ p["read"]) / max(z @ phi(x @ p["read"]), 1e-2) for x in rows])
        q, k, v = ((rows + r) @ flat(p[n]) for n in "qkv")
        for t in range(len(rows)):
            y.append(r[t] + soft(k[: t + 1] @ q[t] / D**0.5) @ v[: t + 1] @ out)
        if len(rows) < 5:
            break
        new_a, new_z = a.copy(), z.copy()
        for i in range(3):
            m = soft(k @ p["queries"][i, 0] / D**0.5) @ v @ out
            key, beta = phi(m @ p["write_k"]), 1 / (1 + np.exp(-(m @ p["write_b"])[0]))
            new_a += beta * np.outer(key, m @ p["write_v"] - a.T @ key / max(z @ key, 1e-2))
            new_z += np.clip(1 - z @ key / (key @ key), 0, 1) * key
        a, z = new_a, new_z
    assert apart(run(mixer, params, X[:1])[0], jnp.asarray(y, jnp.float32)) < 1e-5


def test_in_bfloat16_a_memory_query_tells_keys_apart_whose_logits_are_one_number_there():
    """100 and 100.2 are 100 in bfloat16, and the difference of two values whose weights are the same is zero."""
    mixer = Armt(2, heads=1, segment=2, memories=1, key=2, position=NoPosition())
    params = draw(mixer.decl(), jax.random.key(0)) | dict(queries=jnp.full((1, 1, 2), 16.0), write_b=jnp.ones((2, 1)))
    k = jnp.array([[[[6.25, 0.0]], [[6.25, 0.0125]]]]).astype(jnp.bfloat16).astype(jnp.float32)
    v = jnp.array([[[[1.0, -1.0]], [[-1.0, 1.0]]]])
    old, at = Memory(k, v, jnp.zeros((1, 12, 2)), jnp.zeros((1, 12))), jnp.zeros(1, jnp.int32)
    a, z = mixer._written(params, old, at, jnp.float32)
    params = param.cast(mixer.decl(), params, jnp.bfloat16)
    assert apart(mixer._written(params, old, at, jnp.bfloat16), (a, z)) < TOLERANCE["bfloat16"]


def remember(key, batch: int, n: int = 6, segment: int = 3):
    """Two segments of keys with values, some keys in both, and one of keys alone, whose targets are their last values.

    x [batch, 3 segment, 2 n], targets [batch, segment], and which of them were rewritten.
    """
    one, two, values, asks = jax.random.split(key, 4)
    rows = jnp.broadcast_to(jnp.arange(n), (batch, n))
    some = lambda key: jax.random.permutation(key, rows, axis=1, independent=True)[:, :segment]
    keys, v = jnp.concatenate([some(one), some(two)], 1), jax.random.randint(values, (batch, 2 * segment), 0, n)
    asked = jnp.take_along_axis(keys, jax.random.randint(asks, (batch, segment), 0, 2 * segment), 1)
    same = keys[:, None] == asked[:, :, None]
    last = jnp.max(jnp.where(same, jnp.arange(2 * segment)[None, None], -1), 2)
    hot = lambda i: 3 * jax.nn.one_hot(i, n)
    told, question = (jnp.concatenate(pair, -1) for pair in ((hot(keys), hot(v)), (hot(asked), 0 * hot(asked))))
    return jnp.concatenate([told, question], 1), jnp.take_along_axis(v, last, 1), jnp.sum(same, 2) > 1


@pytest.mark.slow
@pytest.mark.optimised
def test_it_learns_to_remember_and_to_rewrite_across_segments():
    """Attention alone sees none of it: what is asked was told in other segments."""
    mixer = Armt(12, heads=1, segment=3, memories=6, key=8)
    decl = dict(mixer=mixer.decl(), head=param.matrix(dict(embed=12), dict(vocab=6)))
    params, tx = param.init(decl, jax.random.key(0)), optax.adam(optax.cosine_decay_schedule(0.01, 900))

    def logits(params, x):
        y = mixer.scan(params["mixer"], x, param.zeros(mixer.state(len(x), 0)), whole(*x.shape[:2]))[0]
        return (x + y)[:, -3:] @ params["head"]

    def loss(params, key):
        x, targets, _ = remember(key, 64)
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), targets).mean()

    def update(carry, key):
        params, state = carry
        moved, state = tx.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, moved), state), None

    steps = jax.random.split(jax.random.key(1), 900)
    (params, _), _ = jax.jit(lambda p: jax.lax.scan(update, (p, tx.init(p)), steps))(params)
    x, targets, rewritten = remember(jax.random.key(2), 1000)
    right = jax.jit(logits)(params, x).argmax(-1) == targets
    assert right.mean() > 0.95 and jnp.sum(right & rewritten) / jnp.sum(rewritten) > 0.95


def test_decoding_costs_the_same_after_any_number_of_tokens():
    mixer = Armt(64)
    assert mixer.cost(1, 1024) == mixer.cost(1, 16384)
    assert mixer.state(1, 1024) == mixer.state(1, 16384)


class Leaning(NoPosition):
    def bias(self, q_position, k_position, heads):
        return jnp.zeros((1, heads, q_position.shape[1], k_position.shape[1]))


BAD = {
    "armt: heads=3 does not divide width=8": dict(heads=3),
    "armt: cannot take what Leaning adds to logits": dict(position=Leaning()),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_options_say_what_is_wrong(said):
    with pytest.raises(ValueError) as error:
        Armt(D, **BAD[said])
    assert str(error.value) == said
