"""Chunked recurrences against the plain loop over tokens: values, last states and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext.contracts import from_starts
from jaxlib_ext.kernels.decay import grow
from jaxlib_ext.kernels.gla import gla
from jaxlib_ext.kernels.linear_scan import linear_scan
from jaxlib_ext.kernels.linear_scan import xla as linear_xla
from jaxlib_ext.kernels.selective_scan import selective_scan, token
from jaxlib_ext.kernels.selective_scan import xla as scan_xla
from jaxlib_ext.kernels.short_conv import short_conv, short_conv_step, windows, windows_step
from jaxlib_ext.testing.verdict import apart

B, H, K, V = 2, 2, 8, 4


def loop(step, state, arrays, start):
    """The recurrence token by token; state is forgotten where start says so."""

    def body(state, x):
        *inputs, first = x
        state = jnp.where(first.reshape((-1,) + (1,) * (state.ndim - 1)), 0.0, state)
        return step(state, *inputs)

    state, y = jax.lax.scan(body, state, tuple(jnp.moveaxis(a, 1, 0) for a in (*arrays, start)))
    return jnp.moveaxis(y, 0, 1), state


def same(fast, plain, *inputs):
    """Values and gradients of two functions of the same arrays."""

    def both(f):
        score = lambda *a: sum(jnp.sum(jnp.sin(v)) for v in f(*a))
        return f(*inputs), jax.grad(score, argnums=tuple(range(len(inputs))))(*inputs)

    return apart(*jax.jit(lambda: (both(fast), both(plain)))()) < 2e-5


def gla_step(s, q, k, v, g):
    s = s * jnp.exp(g)[..., None] + k[..., None] * v[..., None, :]
    return s, jnp.einsum("bhk,bhkv->bhv", q, s)


def test_grow_is_expm1_to_the_last_digits_at_every_size():
    x = np.concatenate([-np.logspace(-30, np.log10(86), 20_001), [0.0]]).astype(np.float32)
    true = np.expm1(x.astype(np.float64))
    assert np.max(np.abs(np.asarray(jax.jit(grow)(x)) - true) / np.maximum(-true, 1e-38)) < 2e-7
    assert grow(jnp.float32(-1e4)) == grow(jnp.float32(-jnp.inf)) == -1.0


@pytest.mark.slow
@pytest.mark.parametrize("speed", [0.0, 0.02, 1.0, 30.0])
@pytest.mark.parametrize("time", [1, 63, 150])
def test_gla_is_its_recurrence_at_any_decay_and_length(time, speed):
    keys = iter(jax.random.split(jax.random.key(time), 6))
    q, k = (jax.random.normal(next(keys), (B, time, H, K)) for _ in "qk")
    v, state = jax.random.normal(next(keys), (B, time, H, V)), jax.random.normal(next(keys), (B, H, K, V))
    g = -speed * jax.random.exponential(next(keys), (B, time, H, K))
    start = jax.random.bernoulli(next(keys), 0.03, (B, time))
    plain = lambda q, k, v, g, s: loop(gla_step, s, (q, k, v, jnp.where(start[..., None, None], 0.0, g)), start)
    assert same(lambda q, k, v, g, s: gla(q, k, v, g, s, start), plain, q, k, v, g, state)


def test_gla_without_decay_is_linear_attention():
    keys = iter(jax.random.split(jax.random.key(0), 3))
    q, k, v = (jax.random.normal(next(keys), (B, 70, H, n)) for n in (K, K, V))
    none = jnp.zeros((B, 70), bool)
    y, _ = gla(q, k, v, jnp.zeros_like(k), jnp.zeros((B, H, K, V)), none)
    scores = jnp.tril(jnp.einsum("bthk,bshk->bhts", q, k))
    assert apart(y, jnp.einsum("bhts,bshv->bthv", scores, v)) < 1e-5


@pytest.mark.parametrize(("rule", "c"), [("zoh", 3), ("euler", 3), ("zoh", 8)])
def test_selective_scan_is_its_recurrence_across_chunks(rule, c, monkeypatch):
    """Also where db is summed in groups of channels."""
    monkeypatch.setattr(scan_xla, "CHUNK", 16)
    time, n = 50, 4
    keys = iter(jax.random.split(jax.random.key(1), 6))
    x, dt = jax.random.normal(next(keys), (B, time, c)), jax.random.exponential(next(keys), (B, time, c))
    b, cc = (jax.random.normal(next(keys), (B, time, n)) for _ in "bc")
    a, h = -jnp.exp(jax.random.normal(next(keys), (c, n))), jax.random.normal(next(keys), (B, c, n))
    start = jnp.zeros((B, time), bool).at[0, 20].set(True).at[1, 16].set(True)

    def plain(x, dt, a, b, cc, h):
        def step(h, x, dt, b, cc):
            decay = jnp.exp(dt[:, :, None] * a[None])
            gain = (decay - 1) / a[None] if rule == "zoh" else dt[:, :, None]
            h = decay * h + gain * b[:, None] * x[:, :, None]
            return h, jnp.sum(h * cc[:, None], -1)

        return loop(step, h, (x, dt, b, cc), start)

    fast = lambda x, dt, a, b, cc, h: selective_scan(x, dt, a, b, cc, h, start, rule=rule)
    assert same(fast, plain, x, dt, a, b, cc, h)


@pytest.mark.parametrize(("time", "shape"), [(1, (3,)), (15, (3,)), (48, (2, 3)), (50, (3,))])
def test_linear_scan_is_its_recurrence_across_chunks(time, shape, monkeypatch):
    monkeypatch.setattr(linear_xla, "CHUNK", 16)
    keys = iter(jax.random.split(jax.random.key(4), 5))
    a, x = (jax.random.normal(next(keys), (B, time, *shape)) for _ in "ax")
    a, h = jnp.tanh(a), jax.random.normal(next(keys), (B, *shape))
    start = jax.random.bernoulli(next(keys), 0.1, (B, time)).at[0, min(16, time - 1)].set(True)

    def step(h, a, x):
        h = a * h + x
        return h, h

    plain = lambda a, x, h: loop(step, h, (a, x), start)
    assert same(lambda a, x, h: linear_scan(a, x, h, start), plain, a, x, h)


def test_linear_scan_of_ones_is_a_sum_and_a_start_cuts_it():
    x = jax.random.normal(jax.random.key(5), (1, 9, 2))
    start = jnp.zeros((1, 9), bool).at[0, 4].set(True)
    run = lambda a: linear_scan(a, x, jnp.zeros((1, 2)), start)
    y, last = run(jnp.ones_like(x))
    assert apart(y, jnp.concatenate([jnp.cumsum(x[:, :4], 1), jnp.cumsum(x[:, 4:], 1)], 1)) < 1e-6
    assert apart(last, y[:, -1]) == 0
    slope = jax.grad(lambda a: jnp.sum(run(a)[0]))(jnp.ones_like(x))
    assert float(jnp.max(jnp.abs(slope[:, 4]))) == 0


def test_linear_scan_in_half_precision_is_kept_in_float32():
    a, x = jnp.full((1, 300, 1), 0.99, jnp.bfloat16), jnp.ones((1, 300, 1), jnp.bfloat16)
    y, last = linear_scan(a, x, jnp.zeros((1, 1)), jnp.zeros((1, 300), bool))
    kept = float(a[0, 0, 0])
    assert y.dtype == last.dtype == jnp.float32
    assert apart(last[0, 0], jnp.float32((1 - kept**300) / (1 - kept))) < 1e-5


def test_one_channel_of_the_selective_scan_is_a_gated_average():
    """Gu and Dao 2023, theorem 1: N = 1, A = -1, B = 1 gives h_t = (1 - g) h_{t-1} + g x with g = sigmoid(z)."""
    z, x, h = jax.random.normal(jax.random.key(0), (3, 5, 1))
    one = jnp.ones((5, 1))
    new, _ = token(h[:, :, None], x, jax.nn.softplus(z), -jnp.ones((1, 1)), one, one, rule="zoh")
    g = jax.nn.sigmoid(z)
    assert apart(new[..., 0], (1 - g) * h + g * x) < 1e-6


def test_constant_parameters_make_the_selective_scan_a_convolution():
    time, n = 40, 3
    keys = iter(jax.random.split(jax.random.key(2), 4))
    x, a = jax.random.normal(next(keys), (1, time, 1)), -jnp.exp(jax.random.normal(next(keys), (1, n)))
    b, c, dt = jax.random.normal(next(keys), (n,)), jax.random.normal(next(keys), (n,)), 0.3
    spread = lambda v: jnp.broadcast_to(v[None, None], (1, time, n))
    none = jnp.zeros((1, time), bool)
    y, _ = selective_scan(x, jnp.full_like(x, dt), a, spread(b), spread(c), jnp.zeros((1, 1, n)), none)
    decay = jnp.exp(dt * a[0])
    lags = decay[None] ** jnp.arange(time)[:, None]
    filter_ = jnp.sum((c * (decay - 1) / a[0] * b)[None] * lags, -1)
    assert apart(y[0, :, 0], jnp.convolve(x[0, :, 0], filter_)[:time]) < 1e-5


@pytest.mark.slow
def test_short_conv_is_its_step_and_stops_at_documents():
    time, c, w = 12, 3, 4
    keys = iter(jax.random.split(jax.random.key(3), 3))
    x, taps = jax.random.normal(next(keys), (B, time, c)), jax.random.normal(next(keys), (c, w))
    start = jnp.zeros((B, time), bool).at[0, 0].set(True).at[0, 5].set(True)
    seq, held = from_starts(start), jax.random.normal(next(keys), (B, w - 1, c))
    y, last = short_conv(x, taps, held, seq)
    state, rows = held, []
    for t in range(time):
        row, state = short_conv_step(x[:, t], taps, state, seq.at(t))
        rows.append(row)
    assert apart(y, jnp.stack(rows, 1)) < 1e-6 and apart(last, state) == 0
    assert apart(y[0, 5], x[0, 5] * taps[:, -1]) < 1e-6


@pytest.mark.parametrize("w", [1, 3])
def test_windows_are_their_steps_and_stop_at_documents(w):
    time, c = 12, 3
    keys = iter(jax.random.split(jax.random.key(3), 2))
    x, held = jax.random.normal(next(keys), (B, time, c)), jax.random.normal(next(keys), (B, w - 1, c))
    seq = from_starts(jnp.zeros((B, time), bool).at[0, 5].set(True))
    y, last = windows(x, held, seq)
    state, rows = held, []
    for t in range(time):
        row, state = windows_step(x[:, t], state, seq.at(t))
        rows.append(row)
    assert y.shape == (B, time, w, c)
    assert apart(y, jnp.stack(rows, 1)) == 0 and apart(last, state) == 0
    assert apart(y[0, 5, -1], x[0, 5]) == 0 and float(jnp.sum(jnp.abs(y[0, 5, :-1]))) == 0
