"""The chunked recurrences that share one skeleton: each against its loop over tokens, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext.kernels import chunks
from jaxlib_ext.kernels.delta_rule import delta_rule
from jaxlib_ext.kernels.dplr import dplr
from jaxlib_ext.kernels.gla import gla
from jaxlib_ext.kernels.mesa import mesa
from jaxlib_ext.kernels.ssd import ssd
from jaxlib_ext.kernels.triangular import inverse
from jaxlib_ext.testing.verdict import apart

B, H, K, V = 2, 4, 8, 6


@pytest.fixture(autouse=True)
def quick_compilation():
    """Most of the time is compiling, and most of that is optimising what runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def loop(step, state, arrays, start):
    """The recurrence token by token; state is forgotten where start says so."""

    def body(state, x):
        *inputs, first = x
        state = jnp.where(first.reshape((-1,) + (1,) * (state.ndim - 1)), 0.0, state)
        return step(state, *inputs)

    state, y = jax.lax.scan(body, state, tuple(jnp.moveaxis(a, 1, 0) for a in (*arrays, start)))
    return jnp.moveaxis(y, 0, 1), state


def distance(fast, plain, *inputs):
    """Of values and gradients of two functions of the same arrays."""

    def both(f):
        score = lambda *a: sum(jnp.sum(jnp.sin(v)) for v in f(*a))
        return f(*inputs), jax.grad(score, argnums=tuple(range(len(inputs))))(*inputs)

    return apart(*jax.jit(lambda: (both(fast), both(plain)))())


def heads(a):
    return jnp.repeat(a, H // a.shape[1], axis=1)


def read(s, q):
    return jnp.einsum("bhk,bhkv->bhv", heads(q), s)


def ssd_step(s, q, k, v, g):
    s = jnp.exp(g)[..., None, None] * s + heads(k)[..., None] * v[..., None, :]
    return s, read(s, q)


def delta_step(s, q, k, v, beta, g):
    s = jnp.exp(g)[..., None, None] * s
    s = s + heads(k)[..., None] * (beta[..., None] * (v - read(s, k)))[..., None, :]
    return s, read(s, q)


def dplr_step(s, q, k, v, a, b, g):
    s = jnp.exp(g)[..., None] * s + b[..., None] * read(s, a)[..., None, :] + k[..., None] * v[..., None, :]
    return s, read(s, q)


def mesa_step(s, q, k, v, ridge):
    s = s + k[..., None] * jnp.concatenate([k, v], -1)[..., None, :]
    gram = s[..., :K] + ridge[:, :, None, None] * jnp.eye(K)[None, None]
    return s, read(s[..., K:], jnp.linalg.solve(gram, q[..., None])[..., 0])


def drawn(time, speed, groups=H, seed=0):
    """Random inputs by name; g by key, which the kernels with one decay a head take the first channel of."""
    keys = iter(jax.random.split(jax.random.key(seed), 12))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    rows = (B, time)
    x = dict(q=normal(*rows, groups, K), k=unit(normal(*rows, groups, K)), v=normal(*rows, H, V), s=normal(B, H, K, V))
    x |= dict(g=-speed * jax.random.exponential(next(keys), (*rows, H, K)), beta=jax.nn.sigmoid(normal(*rows, H)))
    a = unit(normal(*rows, H, K))
    x |= dict(a=-a, b=a * jax.nn.sigmoid(normal(*rows, H, K)), start=jax.random.bernoulli(next(keys), 0.03, rows))
    return x


def forms(name, start):
    """(chunked, plain) of inputs without start; a start forgets all, so its decay does not count."""
    still = lambda g: jnp.where(start.reshape(*start.shape, *(1,) * (g.ndim - 2)), 0.0, g)
    return {
        "ssd": (
            lambda q, k, v, g, s: ssd(q, k, v, g, s, start),
            lambda q, k, v, g, s: loop(ssd_step, s, (q, k, v, still(g)), start),
        ),
        "delta_rule": (
            lambda q, k, v, beta, g, s: delta_rule(q, k, v, beta, g, s, start),
            lambda q, k, v, beta, g, s: loop(delta_step, s, (q, k, v, beta, still(g)), start),
        ),
        "dplr": (
            lambda q, k, v, a, b, g, s: dplr(q, k, v, a, b, g, s, start),
            lambda q, k, v, a, b, g, s: loop(dplr_step, s, (q, k, v, a, b, still(g)), start),
        ),
    }[name]


ARRAYS = {"ssd": "q k v g s", "delta_rule": "q k v beta g s", "dplr": "q k v a b g s"}


@pytest.mark.parametrize("speed", [0.1, 30.0])
@pytest.mark.parametrize("name", ARRAYS)
def test_chunks_are_the_recurrence_at_any_decay(name, speed, monkeypatch):
    monkeypatch.setattr(chunks, "GROUP", 64)  # so that 100 tokens are two groups
    x = drawn(100, speed, groups=H if name == "dplr" else 2)
    x["g"] = x["g"] if name == "dplr" else x["g"][..., 0]
    assert distance(*forms(name, x["start"]), *(x[n] for n in ARRAYS[name].split())) < 2e-5


@pytest.mark.parametrize("name", ARRAYS)
def test_a_short_call_is_the_recurrence(name):
    for time in (1, 3):
        x = drawn(time, 0.1)
        x["g"] = x["g"] if name == "dplr" else x["g"][..., 0]
        assert distance(*forms(name, x["start"]), *(x[n] for n in ARRAYS[name].split())) < 2e-5


@pytest.mark.parametrize("name", [*ARRAYS, "gla"])
def test_small_decays_after_an_enormous_one_keep_their_digits(name):
    """A difference of prefix sums would be 1e5 plus and minus a tenth, of which float32 keeps two digits."""
    x = drawn(60, 0.1)
    x["g"] = x["g"].at[:, 5].set(-1e5)
    none = jnp.zeros_like(x["start"])
    if name == "gla":
        fast = lambda q, k, v, g, s: gla(q, k, v, g, s, none)
        step = lambda s, q, k, v, g: dplr_step(s, q, k, v, k, jnp.zeros_like(k), g)
        plain = lambda q, k, v, g, s: loop(step, s, (q, k, v, g), none)
        assert distance(fast, plain, *(x[n] for n in "qkvgs")) < 2e-6
        return
    x["g"] = x["g"] if name == "dplr" else x["g"][..., 0]
    assert distance(*forms(name, none), *(x[n] for n in ARRAYS[name].split())) < 2e-6


def test_ssd_is_gla_with_one_gate_a_head():
    x = drawn(70, 0.1)
    g = x["g"][..., 0]
    wide = jnp.broadcast_to(g[..., None], x["k"].shape)
    run = lambda kernel, g: jax.jit(kernel)(x["q"], x["k"], x["v"], g, x["s"], x["start"])
    assert apart(run(ssd, g), run(gla, wide)) < 2e-6


def test_ssd_is_its_quadratic_dual():
    """Dao and Gu 2024, the dual form: y = (L * Q K^T) V with L_ij = exp(sum of g after j up to i)."""
    x = drawn(70, 0.1)
    g, none = x["g"][..., 0], jnp.zeros_like(x["start"])
    y, _ = jax.jit(ssd)(x["q"], x["k"], x["v"], g, jnp.zeros_like(x["s"]), none)
    q, k, v, g = (np.asarray(a, np.float64) for a in (x["q"], x["k"], x["v"], g))
    total = np.cumsum(g, 1).transpose(0, 2, 1)
    mask = np.tril(np.exp(np.minimum(total[..., :, None] - total[..., None, :], 0)))
    assert apart(y, jnp.asarray(np.einsum("bhts,bthk,bshk,bshv->bthv", mask, q, k, v), jnp.float32)) < 2e-6


def test_the_delta_rule_without_decay_recalls_and_overwrites_orthonormal_keys():
    """beta = 1: each of K keys gives back its last value exactly, whatever was written before."""
    order = jnp.array([0, 3, 1, 3, 2, 0, 5, 4, 7, 6])
    k = jnp.broadcast_to(jnp.eye(K)[order][None, :, None], (B, 10, H, K))
    v = jax.random.normal(jax.random.key(0), (B, 10, H, V))
    ones, none = jnp.ones((B, 10, H)), jnp.zeros((B, 10), bool)
    y, s = jax.jit(delta_rule)(k, k, v, ones, 0 * ones, jnp.zeros((B, H, K, V)), none)
    assert apart(y, v) < 1e-6
    last = {int(key): i for i, key in enumerate(order)}
    assert apart(s, jnp.stack([v[:, last[i]] for i in range(K)], 2)) < 1e-6


def test_the_delta_rule_that_writes_nothing_only_decays():
    x = drawn(70, 0.1)
    g = x["g"][..., 0]
    y, s = jax.jit(delta_rule)(x["q"], x["k"], x["v"], 0 * x["beta"], g, x["s"], jnp.zeros_like(x["start"]))
    decay = jnp.exp(jnp.cumsum(g, 1))
    assert apart(y, jnp.einsum("bth,bthk,bhkv->bthv", decay, x["q"], x["s"])) < 2e-6
    assert apart(s, decay[:, -1, :, None, None] * x["s"]) < 2e-6


def test_dplr_that_removes_nothing_is_gla():
    x = drawn(70, 0.1)
    y = jax.jit(dplr)(x["q"], x["k"], x["v"], x["a"], 0 * x["b"], x["g"], x["s"], x["start"])
    assert apart(y, jax.jit(gla)(x["q"], x["k"], x["v"], x["g"], x["s"], x["start"])) < 2e-6


def test_dplr_that_removes_what_it_writes_is_the_delta_rule():
    """a = -exp(g) k, b = beta k and k beta: RWKV-7 contains the gated delta rule."""
    x = drawn(70, 0.1)
    g, k = x["g"][..., 0], x["k"]
    b = x["beta"][..., None] * k
    wide = jnp.broadcast_to(g[..., None], k.shape)
    y = jax.jit(dplr)(x["q"], b, x["v"], -jnp.exp(wide) * k, b, wide, x["s"], x["start"])
    g = jnp.where(x["start"][..., None], 0.0, g)
    assert apart(y, jax.jit(delta_rule)(x["q"], k, x["v"], x["beta"], g, x["s"], x["start"])) < 5e-6


def test_mesa_is_its_recurrence():
    x = drawn(70, 0.1)
    start, ridge = x["start"], jnp.array([0.5, 1.0, 2.0, 4.0])
    sums = jnp.concatenate([jnp.zeros((B, H, K, K)), x["s"]], -1)
    fast = lambda q, k, v, ridge: mesa(q, k, v, ridge, sums, start)

    def plain(q, k, v, ridge):
        wide = jnp.broadcast_to(ridge[None, None], (*k.shape[:2], H))
        return loop(mesa_step, sums, (q, k, v, wide), start)

    assert distance(fast, plain, x["q"], x["k"], x["v"], ridge) < 2e-5


def test_the_gradient_of_mesa_by_what_came_before():
    """Its backward pass is written by hand; a start in row 1 forgets the sums that earlier tokens left."""
    x, before, ridge = drawn(40, 0.1), drawn(12, 0.1, seed=1), jnp.array([0.5, 1.0, 2.0, 4.0])
    start = jnp.zeros((B, 40), bool).at[1, 20].set(True)
    wide = jnp.ones((B, 40, H))
    sums = lambda k, v: jnp.einsum("bthk,bthj->bhkj", k, jnp.concatenate([k, v], -1))
    fast = lambda q, k, v, ridge, *left: mesa(q, k, v, ridge, sums(*left), start)
    plain = lambda q, k, v, ridge, *left: loop(mesa_step, sums(*left), (q, k, v, wide * ridge[None, None]), start)
    assert distance(fast, plain, x["q"], x["k"], x["v"], ridge, before["k"], before["v"]) < 2e-5


@pytest.mark.parametrize("name", ["gla", "mesa"])
def test_two_groups_are_the_recurrence(name):
    """A group of 256 tokens hands its state on, and is made again in the backward pass."""
    x = {n: a[:1] for n, a in drawn(chunks.GROUP + 44, 0.1).items()}
    start, wide = x["start"].at[:, 240:].set(False), jnp.ones((1, chunks.GROUP + 44, H))  # the second sees the first
    if name == "gla":
        g = jnp.where(start[..., None, None], 0.0, x["g"])
        step = lambda s, q, k, v, g: dplr_step(s, q, k, v, k, jnp.zeros_like(k), g)
        fast = lambda q, k, v, g, s: gla(q, k, v, g, s, start)
        plain = lambda q, k, v, g, s: loop(step, s, (q, k, v, g), start)
        assert distance(fast, plain, x["q"], x["k"], x["v"], g, x["s"]) < 2e-5
        return
    sums, ridge = jnp.concatenate([jnp.zeros((1, H, K, K)), x["s"]], -1), jnp.array([0.5, 1.0, 2.0, 4.0])
    fast = lambda q, k, v, ridge: mesa(q, k, v, ridge, sums, start)
    plain = lambda q, k, v, ridge: loop(mesa_step, sums, (q, k, v, wide * ridge[None, None]), start)
    assert distance(fast, plain, x["q"], x["k"], x["v"], ridge) < 2e-5


def test_mesa_is_the_ridge_regression_of_every_prefix():
    """Von Oswald et al. 2023: the argmin written out with numpy in float64."""
    x = drawn(40, 0.1)
    none = jnp.zeros_like(x["start"])
    y, _ = jax.jit(mesa)(x["q"], x["k"], x["v"], jnp.full(H, 0.3), jnp.zeros((B, H, K, K + V)), none)
    q, k, v = (np.asarray(x[n], np.float64) for n in "qkv")
    for t in (0, 4, 31, 32, 39):
        keys, values = k[1, : t + 1, 2], v[1, : t + 1, 2]
        fit = np.linalg.solve(keys.T @ keys + 0.3 * np.eye(K), keys.T @ values)
        np.testing.assert_allclose(y[1, t, 2], q[1, t, 2] @ fit, rtol=2e-4, atol=2e-5)


def test_mesa_under_a_heavy_ridge_is_linear_attention():
    x = drawn(40, 0.0)
    none, ridge = jnp.zeros_like(x["start"]), 1e6
    y, _ = jax.jit(mesa)(x["q"], x["k"], x["v"], jnp.full(H, ridge), jnp.zeros((B, H, K, K + V)), none)
    flat, _ = jax.jit(gla)(x["q"], x["k"], x["v"], x["g"], jnp.zeros((B, H, K, V)), none)
    assert apart(ridge * y, flat) < 1e-4


def test_a_step_of_gradient_descent_on_the_examples_is_linear_attention():
    """Von Oswald et al. 2023: from P = 0 by a rate on 1/2 sum |v - P^T k|^2, read by q, is rate times linear attention;
    and the ridge regression is where such steps end."""
    x, rate, ridge = drawn(40, 0.0), 0.1, 2.0
    none = jnp.zeros_like(x["start"])
    flat, _ = jax.jit(gla)(x["q"], x["k"], x["v"], 0 * x["g"], jnp.zeros((B, H, K, V)), none)
    solved, _ = jax.jit(mesa)(x["q"], x["k"], x["v"], jnp.full(H, ridge), jnp.zeros((B, H, K, K + V)), none)
    seen = jnp.tril(jnp.ones((40, 40)))

    def loss(p):  # p [B, T, H, K, V]: one for every prefix
        errors = x["v"][:, None] - jnp.einsum("bthkv,bshk->btshv", p, x["k"])
        return jnp.sum(seen[None, :, :, None, None] * errors**2) / 2

    read = lambda p: jnp.einsum("bthk,bthkv->bthv", x["q"], p)
    first = jnp.zeros((B, 40, H, K, V))
    assert apart(read(first - rate * jax.grad(loss)(first)), rate * flat) < 2e-6
    descend = lambda i, p: p - 0.04 * jax.grad(lambda p: loss(p) + ridge * jnp.sum(p * p) / 2)(p)
    assert apart(read(jax.jit(lambda p: jax.lax.fori_loop(0, 400, descend, p))(first)), solved) < 1e-5


def test_mesa_finds_the_line_behind_its_examples():
    """Noiseless v = W^T k and more examples than dimensions: the exact label but for a share of the ridge."""
    x = drawn(40, 0.0)
    w = jax.random.normal(jax.random.key(5), (K, V))
    none, examples = jnp.zeros_like(x["start"]), 3 * K
    run = jax.jit(lambda r: mesa(x["q"], x["k"], x["k"] @ w, jnp.full(H, r), jnp.zeros((B, H, K, K + V)), none)[0])
    off = lambda r, at: float(apart(run(r)[:, at], (x["q"] @ w)[:, at]))
    later = slice(examples, None)
    assert off(1e-2, later) < 0.03 and off(1e-3, later) < 0.003
    assert off(1e-3, slice(2, 3)) > 0.1  # three examples do not do


def test_the_inverse_of_a_unit_triangle():
    a = np.tril(np.random.default_rng(0).normal(size=(3, 64, 64)), -1) * 0.2
    a[0] = np.tril(np.ones((64, 64)), -1)  # the same key again and again
    exact = np.linalg.inv(a + np.eye(64))
    for c in (1, 4, 8, 64):
        cut = jnp.asarray(a[:, :c, :c], jnp.float32)
        assert apart(inverse(cut), jnp.asarray(exact[:, :c, :c], jnp.float32)) < 1e-5
    score = lambda a, f: jnp.sum(jnp.sin(f(jnp.tril(a, -1))))
    plain = lambda a: jnp.linalg.inv(a + jnp.eye(16)[None])
    a = jnp.asarray(a[:, :16, :16], jnp.float32)
    assert apart(jax.grad(score)(a, inverse), jax.grad(score)(a, plain)) < 1e-5


def test_the_inverse_for_one_key_again_and_again_at_strength_2():
    """The worst chunk of the delta rule: entries of +-2 everywhere, condition 6640 at 64 tokens. Bound: four roundings
    of float32 a token, 64 x 2^-21 = 3e-5; measured 1.3e-5. After 64 mirrors I - 2 k k^T the state is back as near."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(5, 64))
    keys = np.float32(keys / np.linalg.norm(keys, axis=-1, keepdims=True))
    same = np.stack([np.full((64, 64), 2 * (key @ key)) for key in keys])
    noise = 1 + 2.0**-23 * rng.normal(size=same.shape)
    near = keys[:, None] + 0.01 * rng.normal(size=(5, 64, 64))
    near = near / np.linalg.norm(near, axis=-1, keepdims=True)
    a = np.float32(np.tril(np.concatenate([same, same * noise, 2 * near @ near.swapaxes(-1, -2)]), -1))
    exact = np.linalg.inv(np.float64(a) + np.eye(64))
    off = np.linalg.norm(jax.jit(inverse)(jnp.asarray(a)) - exact, axis=(-2, -1)) / np.linalg.norm(exact, axis=(-2, -1))
    assert off.max() < 64 * 2.0**-21
    k, s = jnp.asarray(keys[:, None, None]).repeat(64, 1), jnp.asarray(rng.normal(size=(5, 1, 64, V)), jnp.float32)
    flat = jnp.zeros((5, 64, 1))
    last = jax.jit(delta_rule)(k, k, jnp.zeros((5, 64, 1, V)), flat + 2, flat, s, jnp.zeros((5, 64), bool))[1]
    assert apart(last, s) < 64 * 2.0**-21


@pytest.mark.parametrize("name", ["ssd", "delta_rule"])
def test_heads_that_cannot_share_raise(name):
    x = drawn(4, 0.1, groups=3)
    inputs = [x[n][..., 0] if n == "g" else x[n] for n in ARRAYS[name].split()]
    with pytest.raises(ValueError, match=f"{name}: 3 groups of queries do not divide 4 heads"):
        (ssd if name == "ssd" else delta_rule)(*inputs, x["start"])
