"""Whole mixers against their equations, written out in numpy and float64 from the papers, a token at a time.

The contract compares scan with step, which share their projections, gates and outputs; these loops share nothing with
either. An eps that is large, a cap that is low: what a norm or a bound would hide is then seen.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts, whole
from jaxlib_ext.models.token_mixers import (
    Attention,
    DeltaNet,
    GatedDeltaNet,
    Gla,
    MesaLayer,
    NormalizedAttention,
    SigmoidAttention,
)
from jaxlib_ext.testing.verdict import apart

D, T = 8, 70  # more than a chunk of each
START = np.zeros((2, T), bool)
START[:, 0] = START[0, 5] = START[0, 41] = True
SEQ = from_starts(START)
X = jax.random.normal(jax.random.key(1), (2, T, D))


def drawn(mixer, seed=0):
    """Parameters of which none is where it starts: a gain of 1 or a bias of 0 could be left out unseen."""
    params = param.init(mixer.decl(), jax.random.key(seed))
    keys = jax.random.split(jax.random.key(seed + 100), len(params))
    stirred = lambda p, key: p + 0.3 * jax.random.normal(key, p.shape)
    return {name: stirred(p, key) for (name, p), key in zip(params.items(), keys, strict=True)}


def run(mixer, params, x=X, seq=SEQ):
    """y and the last state."""
    return jax.jit(mixer.scan)(params, x, param.zeros(mixer.state(len(x), 0)), seq)[:2]


def by_hand(mixer, params):
    """y of all tokens: EQUATIONS[name](mixer, params) gives token(x [D], x of the document before it, state) -> y,
    state; the state of a document that begins is 0."""
    token = EQUATIONS[type(mixer).__name__](mixer, {n: np.asarray(p, np.float64) for n, p in params.items()})
    x, y = np.asarray(X, np.float64), np.zeros((2, T, D))
    for b in range(2):
        state, first = 0.0, 0
        for t in range(T):
            state, first = (0.0, t) if START[b, t] else (state, first)
            y[b, t], state = token(x[b, t], x[b, first:t], state)
    return jnp.asarray(y, jnp.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def unit(x):
    return x / np.sqrt(np.sum(x**2, -1, keepdims=True) + 1e-6)  # as in the code of DeltaNet's authors


def rms(x, gain, eps):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * gain


def heads(x, w):
    return np.einsum("d,dhk->hk", x, w)


def outer(k, v):
    return k[:, :, None] * v[:, None, :]


def recalled(s, q):
    """S^T q of every head."""
    return np.einsum("hkv,hk->hv", s, q)


def joined(y, w):
    return np.einsum("hv,hvd->d", y, w)


def gla(mixer, p):
    """Yang et al. 2023, section 4."""

    def token(x, _, s):
        q, k, v = (heads(x, p[n]) for n in "qkv")
        a = sigmoid(heads(x @ p["gate_down"], p["gate_up"]) + p["gate_bias"]) ** (1 / mixer.tau)
        s = a[..., None] * s + outer(k, v)
        o = rms(recalled(s, q) / np.sqrt(mixer.key), p["norm"], mixer.eps)
        return joined(o * silu(heads(x, p["read"])), p["out"]), s

    return token


def mesa(mixer, p):
    """Von Oswald et al. 2023, the layer's definition: a fit to all tokens so far, anew at each."""

    def token(x, past, _):
        seen = np.concatenate([past, x[None]])
        keys, values = unit(np.einsum("sd,dhk->hsk", seen, p["k"])), np.einsum("sd,dhv->hsv", seen, p["v"])
        q, y = unit(heads(x, p["q"])), []
        for h, ridge in enumerate(np.exp(p["log_ridge"])):
            gram = keys[h].T @ keys[h] + ridge * np.eye(mixer.key)
            y.append(np.linalg.solve(gram, keys[h].T @ values[h]).T @ q[h])
        return joined(np.stack(y), p["out"]), 0.0

    return token


def delta(mixer, p):
    """Yang et al. 2024, the delta rule (arXiv 2406.06484), and where there is a decay the gated one (2412.06464)."""
    gated = isinstance(mixer, GatedDeltaNet)

    def token(x, past, s):
        window = np.concatenate([np.zeros((mixer.conv, D)), past, x[None]])[-mixer.conv :]
        short = lambda n: silu(np.einsum("wd,dhk,hkw->hk", window, p[n], p[f"{n}_conv"]))
        q, k, v = unit(short("q")), unit(short("k")), short("v")
        beta, a = mixer.beta_max * sigmoid(x @ p["beta"]), np.ones(mixer.heads)
        if gated:
            a = np.exp(-np.exp(p["a_log"]) * np.log1p(np.exp(x @ p["decay"] + p["dt_bias"])))
        s = a[:, None, None] * (s + np.zeros((*k.shape, v.shape[1])))
        s = s + outer(k, beta[:, None] * (v - recalled(s, k)))
        o = rms(recalled(s, q) / np.sqrt(mixer.key), p["norm"], mixer.eps)
        return joined(o * silu(heads(x, p["read"])) if gated else o, p["out"]), s

    return token


def turned(x, place):
    """Su et al. 2021: numbers x_i + i x_{i+K/2} times e^(i place base^(-2i/K))."""
    half = x.shape[-1] // 2
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * place * 1e4 ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag], -1)


def looked(mixer, p, weights, after=lambda y: y):
    """The heads of attention, weights(z [N, G, S]) of the logits q.k and after(y [N, G, K]) of the sums."""

    def token(x, past, _):
        seen = np.concatenate([past, x[None]])
        place = np.arange(len(seen))[:, None, None]
        k, v = (np.einsum("sd,dnk->snk", seen, p[n]) for n in "kv")
        q = turned(np.einsum("d,dngk->ngk", x, p["q"]), len(past))
        z = np.einsum("ngk,snk->ngs", q, turned(k, place))
        return np.einsum("ngk,ngkd->d", after(np.einsum("ngs,snk->ngk", weights(z), v)), p["out"]), 0.0

    return token


def attention(mixer, p):
    """Vaswani et al. 2017; the cap of Gemma 2; a logit for nothing as in gpt-oss, softmax of K + 1 less the last."""

    def weights(z):
        z = z / np.sqrt(mixer.head_dim)
        z = z if mixer.cap is None else mixer.cap * np.tanh(z / mixer.cap)
        e = np.exp(z)
        return e / (e.sum(-1) + (np.exp(p["sink"]) if mixer.sink_logit else 0))[..., None]

    return looked(mixer, p, weights)


def sigmoid_attention(mixer, p):
    """Ramapuram et al. 2024: b = -log n, n the number of keys."""
    n = lambda z: mixer.length or z.shape[-1]
    return looked(mixer, p, lambda z: sigmoid(z / np.sqrt(mixer.head_dim) - np.log(n(z))))


def normalized_attention(mixer, p):
    """Richter and Wattenhofer 2020, and GELU by tanh as in the authors' code; layer norm over all heads together."""

    def weights(z):
        z = z - z.mean(-1, keepdims=True)
        return p["gain"][..., None] * z / (np.sqrt((z**2).mean(-1, keepdims=True)) + mixer.eps) + p["bias"][..., None]

    def after(y):
        y = (y - y.mean()) / np.sqrt(y.var() + mixer.eps) * p["norm"] + p["norm_bias"]
        return 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))

    return looked(mixer, p, weights, after)


EQUATIONS = dict(
    Gla=gla, MesaLayer=mesa, DeltaNet=delta, GatedDeltaNet=delta, Attention=attention,
    SigmoidAttention=sigmoid_attention, NormalizedAttention=normalized_attention,
)  # fmt: skip
HEADS = dict(heads=4, kv_heads=2, head_dim=6)
MIXERS = {
    "gla": Gla(D, heads=2, key=3, value=5, rank=3, tau=4.0, eps=0.3),
    "mesa": MesaLayer(D, heads=2, key=4, value=5, ridge=0.7),
    "delta_net": DeltaNet(D, heads=2, key=4, value=5, conv=3, eps=0.3),
    "delta_net, beta to 2": DeltaNet(D, heads=2, key=4, value=5, conv=3, beta_max=2.0, eps=0.3),
    "gated_deltanet, beta to 2": GatedDeltaNet(D, heads=2, key=4, value=5, conv=3, beta_max=2.0, eps=0.3),
    "sigmoid": SigmoidAttention(D, **HEADS),
    "sigmoid, n given": SigmoidAttention(D, length=9, **HEADS),
    "normalized": NormalizedAttention(D, eps=0.1, **HEADS),
    "cap": Attention(D, cap=1.5, **HEADS),
    "sink logit": Attention(D, sink_logit=True, **HEADS),
    "cap and sink logit": Attention(D, cap=1.5, sink_logit=True, **HEADS),
}


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_is_its_equations(name):
    mixer = MIXERS[name]
    params = drawn(mixer)
    assert apart(run(mixer, params)[0], by_hand(mixer, params)) < 1e-5


@pytest.mark.parametrize("name", MIXERS)
def test_the_equations_depend_on_every_parameter(name):
    """So that the test above holds all of them."""
    mixer = MIXERS[name]
    params, others = drawn(mixer), drawn(mixer, seed=1)
    y = by_hand(mixer, params)
    for changed in params:
        assert apart(by_hand(mixer, params | {changed: others[changed]}), y) > 1e-2, changed


def test_a_cap_out_of_reach_is_none():
    plain, capped, low = (Attention(D, cap=cap, **HEADS) for cap in (None, 1e4, 1.5))
    params = drawn(plain)
    assert apart(run(capped, params)[0], run(plain, params)[0]) < 1e-6
    assert apart(run(low, params)[0], run(plain, params)[0]) > 1e-2


def test_a_strength_of_2_mirrors_the_state_at_a_key_that_returns():
    """Nothing to write and the same key again and again: I - 2 k k^T, of which two are I (Grazzi et al. 2024).
    Bound: |k|^2 is 1 within two roundings, 2^-22, which every token counts twice."""
    mixer = DeltaNet(D, heads=2, key=4, value=5, conv=2, beta_max=2.0)
    params = drawn(mixer)
    x = jnp.broadcast_to(X[:, :1], X.shape)
    params |= dict(
        v=jnp.zeros_like(params["v"]),
        beta=jnp.ones((D, 2)),
        k=jnp.abs(params["k"]),  # long after silu, so that its unit has no shortfall
        k_conv=jnp.zeros_like(params["k_conv"]).at[..., -1].set(1.0),  # the same key from the first token on
    )
    x = x.at[..., 0].add(50.0 - jnp.sum(x, -1))  # sigmoid(50) is 1 in float32
    k = np.einsum("bd,dhk->bhk", np.asarray(x[:, 0], np.float64), np.asarray(params["k"], np.float64))
    k = unit(silu(k))
    held = jax.random.normal(jax.random.key(3), (2, 2, 4, 5))
    mirror = np.eye(4) - 2 * k[..., :, None] * k[..., None, :]
    once = jnp.asarray(mirror @ np.asarray(held, np.float64), jnp.float32)
    for time, expected in ((1, once), (2, held), (T - 1, once), (T, held)):
        seq = dataclasses.replace(whole(2, time), start=jnp.zeros((2, time), bool))
        state = param.zeros(mixer.state(2, 0)) | dict(s=held)
        assert apart(jax.jit(mixer.scan)(params, x[:, :time], state, seq)[1]["s"], expected) < time * 2.0**-21
