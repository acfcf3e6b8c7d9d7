"""Hyena: the matrices that its forms stand for, what it becomes with special filters, and how far it sees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts, whole
from jaxlib_ext.kernels.short_conv import short_conv
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.token_mixers import Hyena
from jaxlib_ext.models.token_mixers._hyena import projected
from jaxlib_ext.testing.verdict import apart, draw
from jaxlib_ext.training import losses
from jaxlib_ext.training.data.tasks import make_task
from jaxlib_ext.training.step import make_step

D, T = 6, 40
START = np.zeros((2, T), bool)
START[:, 0] = START[0, 17] = True
SEQ = from_starts(START)
X = jax.random.normal(jax.random.key(1), (2, T, D))


def run(mixer, params, x=X, seq=SEQ):
    return jax.jit(lambda params, x: mixer.scan(params, x, param.zeros(mixer.state(len(x), 0)), seq)[0])(params, x)


def parts(mixer, params):
    """v, x^1, ..., x^N as float64 [N + 1, 2, T, D]."""
    held = param.zeros(mixer.state(2, 0))["conv"]
    return np.moveaxis(np.float64(projected(short_conv, params, X, held, SEQ)[0]), 2, 0)


@pytest.mark.parametrize("form", ["direct", "toeplitz", "fft"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_is_the_product_of_diagonal_and_toeplitz_matrices(order, form):
    """y = W_o D_x^N S_h^N ... D_x^1 S_h^1 v, the matrices written out for each row and channel."""
    mixer = Hyena(D, order=order, length=30, form=form)
    params = draw(mixer.decl(), jax.random.key(0))
    v, *gates = parts(mixer, params)
    h = np.float64(mixer.filters(params, jnp.arange(30)))
    doc, lag = np.asarray(SEQ.doc), np.arange(T)[:, None] - np.arange(T)[None]
    z = np.empty_like(v)
    for b in range(2):
        seen = (lag >= 0) & (lag < 30) & (doc[b][:, None] == doc[b][None])
        for d in range(D):
            product = np.eye(T)
            for n in range(order):
                s = np.where(seen, h[np.clip(lag, 0, 29), n, d], 0.0)
                product = np.diag(gates[n][b, :, d]) @ s @ product
            z[b, :, d] = product @ v[b, :, d]
    assert apart(run(mixer, params), jnp.asarray(z @ np.float64(params["out"]), jnp.float32)) < 1e-5


def with_filters(make, **options):
    """A hyena whose filters are make(own filters, lag)."""
    own = lambda self, params, lag: make(Hyena.filters(self, params, lag), lag)
    return type("Filtered", (Hyena,), dict(filters=own))(D, **options)


def delta(h, lag):
    return jnp.broadcast_to((lag == 0)[..., None, None], h.shape).astype(jnp.float32)


def test_with_delta_filters_it_is_pure_gating():
    mixer = with_filters(delta, order=3)
    params = draw(mixer.decl(), jax.random.key(0))
    z = np.prod(parts(mixer, params), 0) @ np.float64(params["out"])
    assert apart(run(mixer, params), jnp.asarray(z, jnp.float32)) < 1e-5


def test_two_filters_of_which_the_first_is_a_delta_are_the_gates_of_h3():
    """y = q (h * (k v)) with q = x^2 and k = x^1."""
    mixer = with_filters(lambda h, lag: h.at[..., 0, :].set(delta(h, lag)[..., 0, :]))
    params = draw(mixer.decl(), jax.random.key(0))
    v, k, q = parts(mixer, params)
    h = np.float64(Hyena.filters(mixer, params, jnp.arange(T))[:, 1])
    z = np.zeros_like(v)
    doc = np.asarray(SEQ.doc)
    for t in range(T):
        for s in range(t + 1):
            z[:, t] += np.where((doc[:, t] == doc[:, s])[:, None], h[t - s] * k[:, s] * v[:, s], 0.0)
    z = (q * z) @ np.float64(params["out"])
    assert apart(run(mixer, params), jnp.asarray(z, jnp.float32)) < 1e-5


def test_filters_reach_their_length_and_no_further():
    mixer = Hyena(D, order=1, length=8, conv=2)
    params = draw(mixer.decl(), jax.random.key(0))
    seq = whole(1, T)
    last = lambda x: jnp.sum(mixer.scan(params, x, param.zeros(mixer.state(1, 0)), seq)[0][0, -1])
    reach = np.asarray(jnp.abs(jax.jit(jax.grad(last))(X[:1])).max(-1))[0]
    assert (reach[-9:] > 0).all() and (reach[:-9] == 0).all()  # 8 tokens, and one more of the short convolution


def test_later_tokens_and_a_longer_row_change_nothing():
    mixer = Hyena(D, length=64)
    params = draw(mixer.decl(), jax.random.key(0))
    other = X.at[:, 25:].add(1.0)
    assert jnp.array_equal(run(mixer, params, other)[:, :25], run(mixer, params)[:, :25])
    short = jax.tree.map(lambda a: a[:, :25], SEQ)
    assert apart(run(mixer, params, X[:, :25], short), run(mixer, params)[:, :25]) < 1e-6


def test_filters_keep_the_size_of_what_they_filter_at_first():
    mixer = Hyena(64, length=256)
    h = mixer.filters(param.init(mixer.decl(), jax.random.key(0)), jnp.arange(256))
    gain = float(jnp.sqrt(jnp.mean(jnp.sum(h**2, 0))))
    assert 0.1 < gain < 1.0


@pytest.mark.slow
@pytest.mark.optimised
def test_it_learns_to_recall_associations():
    """Two pairs of keys and values: whoever knows the values alone is right half of the time."""
    task = make_task("mqar(time=16,vocab=16,pairs=2)")
    model = build(ModelConfig(width=32, depth=2, mixer="hyena(length=16)"), task.vocab)
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.01, 60, 900)
    step = make_step(model, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)), losses.next_token)
    state, sample = step.init(jax.random.key(0)), jax.jit(lambda key: task.sample(key, 64))
    for key in jax.random.split(jax.random.key(1), 900):
        state, _ = step(state, sample(key))
    batch = jax.jit(lambda key: task.sample(key, 512))(jax.random.key(2))
    found = jax.jit(lambda p, ids: model.apply(p, ids, whole(*ids.shape))[0])(state.params, batch["tokens"]).argmax(-1)
    assert jnp.sum((found == batch["targets"]) & batch["mask"]) / jnp.sum(batch["mask"]) > 0.9


def test_decoding_grows_up_to_the_length_of_the_filters():
    mixer = Hyena(16, length=64)
    assert mixer.cost(1, 32).state_bytes < mixer.cost(1, 64).state_bytes
    assert mixer.cost(1, 64) == mixer.cost(1, 16384)
    assert mixer.state(1, 64) == mixer.state(1, 16384)


BAD = {
    "hyena: conv must be at least 2, not 1": dict(conv=1),
    "hyena: form is one of direct, toeplitz, fft, not 'dft'": dict(form="dft"),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_options_say_what_is_wrong(said):
    with pytest.raises(ValueError) as error:
        Hyena(D, **BAD[said])
    assert str(error.value) == said
