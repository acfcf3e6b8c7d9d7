"""rglru, lstm, quasi_lstm and qrnn: equations in numpy, what each becomes in its limits, bad input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts, whole
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.token_mixers import Attention, Lstm, Qrnn, QuasiLstm, RgLru
from jaxlib_ext.testing.verdict import apart, draw

D, T, H = 8, 12, 6


@pytest.fixture(autouse=True)
def quick_compilation():
    """Most of the time is compiling, and most of that is optimising what runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


START = np.zeros((2, T), bool)
START[:, 0] = START[0, 5] = True
SEQ = from_starts(START)
X = jax.random.normal(jax.random.key(1), (2, T, D))
GOES_ON = dataclasses.replace(SEQ, start=jnp.zeros_like(SEQ.start))  # the document that the state holds


def drawn(mixer, key=0):
    return draw(mixer.decl(), jax.random.key(key))


@functools.partial(jax.jit, static_argnums=0)
def _run(mixer, params, state, seq):
    return mixer.scan(params, X, state, seq)[:2]


def run(mixer, params, state=None, seq=SEQ):
    """y and the last state."""
    return _run(mixer, params, param.zeros(mixer.state(2, 0)) if state is None else state, seq)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def wide(params):
    return {name: np.asarray(value, np.float64) for name, value in params.items()}


def by_hand(token):
    """Rows and tokens in numpy float64: token(x [D], past inputs, state or None) -> y, state."""
    y = np.zeros((2, T, D))
    x = np.asarray(X, np.float64)
    for b in range(2):
        state, first = None, 0
        for t in range(T):
            if START[b, t]:
                state, first = None, t
            y[b, t], state = token(x[b, t], x[b, first:t], state)
    return y


def lstm_by_hand(mixer, params):
    """Greff et al. 2015, sections II and III, a loop that is ours."""
    p, n = wide(params), mixer.cells
    names = [name for name in "ifo" if name in mixer.gates]

    def token(x, _, state):
        c, y, old = state or (np.zeros(n), np.zeros(n), dict.fromkeys("ifo", np.zeros(n)))
        row = lambda k: x @ p["into"][:, k] + y @ p["back"][:, k] + p["bias"][k]

        def gate(name, c):
            if name not in names:
                return np.ones(n)
            k = names.index(name)
            total = row(1 + k)
            if mixer.peepholes:
                total = total + p["peepholes"][k] * c
            if mixer.gate_recurrence:
                for j, other in enumerate(names):
                    total = total + old[other] @ p["gates"][j * n : (j + 1) * n, k]
            return sigmoid(total)

        z, i = np.tanh(row(0)) if mixer.input_tanh else row(0), gate("i", c)
        f = 1 - i if mixer.coupled else gate("f", c)
        c = z * i + c * f
        o = gate("o", c)
        y = (np.tanh(c) if mixer.output_tanh else c) * o
        return y @ p["out"], (c, y, dict(i=i, f=f, o=o))

    return by_hand(token)


ODYSSEY = {
    "vanilla": dict(), "NIG": dict(input_gate=False), "NFG": dict(forget_gate=False), "NOG": dict(output_gate=False),
    "NIAF": dict(input_tanh=False), "NOAF": dict(output_tanh=False), "CIFG": dict(coupled=True),
    "NP": dict(peepholes=False), "FGR": dict(gate_recurrence=True),
    "CIFG and FGR": dict(coupled=True, gate_recurrence=True),
    "no gate": dict(input_gate=False, forget_gate=False, output_gate=False),
}  # fmt: skip


@pytest.mark.parametrize("name", ODYSSEY)
def test_the_odysseys_variants_are_its_equations(name):
    mixer = Lstm(D, inner=H, **ODYSSEY[name])
    params = drawn(mixer)
    assert apart(run(mixer, params)[0], jnp.asarray(lstm_by_hand(mixer, params))) < 1e-5


@pytest.mark.parametrize("name", ["vanilla", "CIFG", "FGR", "CIFG and FGR", "NP"])
def test_the_slopes_of_an_lstm_are_differences_of_its_equations(name):
    """Along a random direction of each parameter: the equations by hand, in float64, at both ends of a short way."""
    mixer, h = Lstm(D, inner=H, **ODYSSEY[name]), 1e-5
    params = drawn(mixer)
    weight = jax.random.normal(jax.random.key(5), (2, T, D))
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(weight * run(mixer, p)[0])))(params)
    exact, rng = wide(params), np.random.default_rng(0)
    score = lambda p: np.sum(np.asarray(weight, np.float64) * lstm_by_hand(mixer, p))
    for changed, slope in wide(slopes).items():
        way = rng.normal(size=slope.shape)
        ends = (score(exact | {changed: exact[changed] + side * h * way}) for side in (1, -1))
        difference = next(ends) / (2 * h) - next(ends) / (2 * h)
        assert abs(np.sum(slope * way) - difference) < 1e-5 * np.linalg.norm(slope) * np.linalg.norm(way), changed
        assert abs(difference) > 1e-3, changed


def test_the_odysseys_variants_have_the_parameters_of_their_gates():
    count = lambda **options: param.size(Lstm(D, inner=H, **options).decl())
    gate = D * H + H * H + H  # what a gate has beside its peephole
    assert count() == 4 * gate + 3 * H + H * D
    for name in ("input_gate", "forget_gate", "output_gate"):
        assert count() - count(**{name: False}) == gate + H
    assert count() - count(coupled=True) == gate + H
    assert count() - count(peepholes=False) == 3 * H
    assert count(gate_recurrence=True) - count() == 9 * H * H
    assert count(input_tanh=False) == count(output_tanh=False) == count()


def test_peepholes_of_zero_are_none():
    mixer, without = Lstm(D, inner=H), Lstm(D, inner=H, peepholes=False)
    params = drawn(mixer)
    none = params | dict(peepholes=jnp.zeros_like(params["peepholes"]))
    assert apart(run(mixer, none)[0], run(without, {n: params[n] for n in without.decl()})[0]) < 1e-6
    assert apart(run(mixer, params)[0], run(mixer, none)[0]) > 1e-4


def test_gates_of_which_nothing_comes_back_are_those_without_recurrence():
    mixer, plain = Lstm(D, inner=H, gate_recurrence=True), Lstm(D, inner=H)
    params = drawn(mixer)
    none = params | dict(gates=jnp.zeros_like(params["gates"]))
    assert apart(run(mixer, none)[0], run(plain, {n: params[n] for n in plain.decl()})[0]) < 1e-6
    assert apart(run(mixer, params)[0], run(mixer, none)[0]) > 1e-4


@pytest.mark.parametrize("gate", ["input_gate", "forget_gate", "output_gate"])
def test_a_gate_forced_open_is_no_gate(gate):
    mixer, without = Lstm(D, inner=H), Lstm(D, inner=H, **{gate: False})
    params, k = drawn(mixer), mixer.gates.index(gate[0])
    forced = params | dict(bias=params["bias"].at[1 + k].set(1e4))
    rest = [n for n in range(4) if n != 1 + k]
    cut = dict(into=params["into"][:, jnp.array(rest)], back=params["back"][:, jnp.array(rest)])
    cut |= dict(bias=params["bias"][jnp.array(rest)], out=params["out"])
    cut |= dict(peepholes=jnp.delete(params["peepholes"], k, axis=0))
    assert apart(run(mixer, forced)[0], run(without, cut)[0]) < 1e-6


def test_an_lstm_that_does_not_look_back_is_a_quasi_lstm():
    mixer, quasi = Lstm(D, inner=H, peepholes=False), QuasiLstm(D, inner=H)
    params = drawn(quasi)
    shifted = params["bias"].at[2].add(quasi.forget)
    same = dict(into=params["into"], back=jnp.zeros((H, 4, H)), bias=shifted, out=params["out"])
    y = run(quasi, params | dict(out_bias=jnp.zeros(D)))[0]
    assert apart(run(mixer, same)[0], y) < 1e-5


def test_quasi_lstm_is_its_sequential_reference():
    mixer = QuasiLstm(D, inner=H)
    params = drawn(mixer)
    p = wide(params)

    def token(x, _, c):
        z, i, f, o = (x @ p["into"][:, k] + p["bias"][k] for k in range(4))
        c = sigmoid(f + 1) * (0 if c is None else c) + sigmoid(i) * np.tanh(z)
        return (sigmoid(o) * np.tanh(c)) @ p["out"] + p["out_bias"], c

    assert apart(run(mixer, params)[0], jnp.asarray(by_hand(token))) < 1e-5


def test_quasi_lstm_that_forgets_nothing_sums():
    mixer = QuasiLstm(D, inner=H, forget=1e4)
    params = drawn(mixer)
    z, i, _, _ = jnp.moveaxis(jnp.einsum("btd,dgh->btgh", X, params["into"]) + params["bias"][None, None], 2, 0)
    held = jnp.full((2, H), 0.3)
    _, state = run(mixer, params, dict(c=held), GOES_ON)
    assert apart(state["c"], held + jnp.sum(jax.nn.sigmoid(i) * jnp.tanh(z), 1)) < 1e-5


@pytest.mark.parametrize(("pool", "window"), [("f", 3), ("fo", 2), ("ifo", 1), ("ifo", 4)])
def test_qrnn_is_its_equations(pool, window):
    """Bradbury et al. 2016, section 2, in a loop that is ours."""
    mixer = Qrnn(D, window=window, pool=pool)
    params = drawn(mixer)
    p = wide(params)

    def token(x, past, c):
        seen = np.concatenate([np.zeros((window, D)), past, x[None]])[-window:]
        made = np.einsum("kd,kdgc->gc", seen, p["into"]) + p["bias"]
        z, f = np.tanh(made[0]), sigmoid(made[1])
        i = sigmoid(made[3]) if pool == "ifo" else 1 - f
        c = f * (0 if c is None else c) + i * z
        return (c if pool == "f" else sigmoid(made[2]) * c), c

    assert apart(run(mixer, params)[0], jnp.asarray(by_hand(token))) < 1e-5


@pytest.mark.parametrize(("open_", "said"), [(-1e4, "f = 0 gives c = z"), (1e4, "f = 1 keeps c_0")])
def test_qrnn_at_the_ends_of_its_forget_gate(open_, said):
    mixer = Qrnn(D, pool="f")
    params, held = drawn(mixer), jnp.full((2, D), 0.3)
    params = params | dict(bias=params["bias"].at[1].set(open_))
    y, state = run(mixer, params, param.zeros(mixer.state(2, 0)) | dict(c=held), GOES_ON)
    if said == "f = 1 keeps c_0":
        assert apart(y, jnp.broadcast_to(held[:, None], y.shape)) < 1e-6 and apart(state["c"], held) == 0
    else:
        before = jnp.pad(X, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        z = jnp.einsum("kbtd,kdc->btc", jnp.stack([before, X]), params["into"][:, :, 0])
        assert apart(y, jnp.tanh(z + params["bias"][0][None, None])) < 1e-6


def test_qrnn_with_a_window_of_one_is_a_wider_one_that_sees_nothing_before():
    one, three = Qrnn(D, window=1), Qrnn(D, window=3)
    params = drawn(one)
    into = jnp.pad(params["into"], ((2, 0), (0, 0), (0, 0), (0, 0)))
    assert apart(run(three, params | dict(into=into))[0], run(one, params)[0]) < 1e-6


def test_qrnns_poolings_become_each_other():
    """An output gate of 1: fo is f. An input gate of 1 - f: ifo is fo."""
    f, fo, ifo = (Qrnn(D, pool=pool) for pool in ("f", "fo", "ifo"))
    params = drawn(ifo)
    less = lambda n: dict(into=params["into"][:, :, :n], bias=params["bias"][:n])
    tied = lambda a, axis, flip: jnp.concatenate([a[(slice(None),) * axis + (slice(0, 3),)], flip], axis)
    same = dict(
        into=tied(params["into"], 2, -params["into"][:, :, 1:2]), bias=tied(params["bias"], 0, -params["bias"][1:2])
    )
    assert apart(run(ifo, same)[0], run(fo, less(3))[0]) < 1e-5
    open_ = less(3) | dict(bias=params["bias"][:3].at[2].set(1e4))
    assert apart(run(fo, open_)[0], run(f, less(2))[0]) < 1e-6


def test_a_pattern_of_qrnns_and_attention_has_the_parameters_of_its_blocks():
    """The catalogue's qrnn_hybrid: the pattern is the architecture, and one of attention alone is the base model."""
    sized = lambda mixer: param.size(build(ModelConfig(width=16, depth=6, mixer=mixer), vocab=11).decl())
    attention, one = sized("attention"), param.size(Qrnn(16).decl()) - param.size(Attention(16).decl())
    patterns = {"attention,attention": 0, "qrnn,attention": 3, "qrnn,qrnn,attention": 4, "attention,qrnn,qrnn": 4,
                "qrnn": 6}  # fmt: skip
    assert one == 2 * 16 * 3 * 16 + 3 * 16 - 4 * 16 * 16
    for pattern, qrnns in patterns.items():
        assert sized(pattern) == attention + qrnns * one, pattern


def test_a_pattern_of_attention_alone_is_the_base_model():
    made = lambda mixer: build(ModelConfig(width=16, depth=4, mixer=mixer), vocab=11)
    base, pattern, mixed = made("attention"), made("attention,attention"), made("qrnn,attention")
    params, tokens = draw(base.decl(), jax.random.key(0)), jax.random.randint(jax.random.key(1), (2, 9), 0, 11)
    layers = params["unit"]["layers"]["0"]
    pairs = {str(i): jax.tree.map(lambda a, i=i: a[i::2], layers) for i in (0, 1)}  # every other depth
    same = params | dict(unit=params["unit"] | dict(layers=pairs))
    y = jax.jit(base.apply)(params, tokens, whole(2, 9))[0]
    assert apart(jax.jit(pattern.apply)(same, tokens, whole(2, 9))[0], y) < 1e-6
    assert [type(block.token) for block in mixed.unit] == [Qrnn, Attention]


def shut(mixer, params, gate: int, value: float):
    return params | dict(gates_bias=params["gates_bias"].at[gate].set(value))


def test_rglru_with_a_gate_of_0_holds_its_state():
    mixer = RgLru(D, heads=2)
    params, held = drawn(mixer), jnp.full((2, 2, 4), 0.3)
    state = param.zeros(mixer.state(2, 0)) | dict(h=held)
    closed = shut(mixer, params, 0, -1e4)
    assert apart(run(mixer, closed, state, GOES_ON)[1]["h"], held) == 0
    assert apart(run(mixer, params, state, GOES_ON)[1]["h"], held) > 1e-2
    slope = jax.jit(jax.grad(lambda p: jnp.sum(mixer.scan(p, X, state, SEQ)[0] ** 2)))(closed)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(slope))  # the root's slope is bounded


def test_rglru_that_forgets_at_once_is_its_gated_input():
    mixer = RgLru(D, heads=2, conv=2)
    params = shut(mixer, drawn(mixer), 0, 1e4) | dict(speed=jnp.full((2, 4), 20.0))
    branch = lambda n: jnp.einsum("btd,dhk->bthk", X, params[n]) + params[f"{n}_bias"][None, None]
    u = branch("x")
    before = jnp.pad(u, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1] * ~SEQ.start[:, :, None, None]
    u = before * params["conv"][None, None, ..., 0] + u * params["conv"][None, None, ..., 1]
    u = u + params["conv_bias"][None, None]
    i = jax.nn.sigmoid(jnp.einsum("bthk,hkj->bthj", u, params["gates"][:, :, 1]) + params["gates_bias"][1][None, None])
    y = jnp.einsum("bthk,hkd->btd", jax.nn.gelu(branch("y")) * i * u, params["out"]) + params["out_bias"][None, None]
    assert apart(run(mixer, params)[0], y) < 1e-5


def test_rglru_keeps_the_size_of_what_comes_in():
    """a^2 + (1 - a^2) = 1: white noise of variance 1 makes states of variance 1, however long the memory."""
    mixer = RgLru(D, heads=2)
    params = shut(mixer, shut(mixer, drawn(mixer), 0, 0.0), 1, 1e4) | dict(gates=jnp.zeros((2, 4, 2, 4)))
    u = jax.random.normal(jax.random.key(3), (2, T, 2, 4))
    a, new = mixer._inputs(params, u, dataclasses.replace(SEQ, start=jnp.zeros_like(SEQ.start).at[:, 0].set(True)))
    assert apart(a[:, 1:] ** 2 + (new / u)[:, 1:] ** 2, jnp.ones_like(a[:, 1:])) < 1e-5
    assert apart(new[:, 0], u[:, 0]) < 1e-6  # the first token enters whole


def test_rglru_starts_in_the_papers_range():
    speed = RgLru(512, low=0.9, high=0.999).decl()["speed"]
    kept = jax.jit(lambda key: jnp.exp(-8.0 * jax.nn.softplus(speed.init(key, speed.shape, speed.dtype))))(
        jax.random.key(0)
    )
    assert 0.9 <= float(kept.min()) < 0.905 and 0.995 < float(kept.max()) <= 0.999
    assert abs(float(kept.mean()) - 0.9495) < 5e-3  # uniform


@pytest.mark.parametrize("mixer", [RgLru(64), Lstm(64), QuasiLstm(64), Qrnn(64)], ids=lambda m: type(m).__name__)
def test_decoding_costs_the_same_after_any_number_of_tokens(mixer):
    assert mixer.cost(1, 1024) == mixer.cost(1, 16384)
    assert mixer.state(1, 1024) == mixer.state(1, 16384) == mixer.state(1, 0)
    assert param.nbytes(mixer.state(1, 1024)) == mixer.cost(1, 1024).state_bytes


BAD = {
    "rglru: heads=3 does not divide inner=16": lambda: RgLru(16, heads=3),
    "rglru: conv must be at least 2, not 1": lambda: RgLru(16, conv=1),
    "rglru: needs 0 < low < high < 1, not low=0.9, high=1.0": lambda: RgLru(16, high=1.0),
    "lstm: inner must be at least 1, not 0": lambda: Lstm(16, inner=0),
    "lstm: coupled makes the forget gate of the input gate": lambda: Lstm(16, coupled=True, input_gate=False),
    "lstm: gate_recurrence needs a gate": lambda: Lstm(16, gate_recurrence=True, **ODYSSEY["no gate"]),
    "quasi_lstm: inner must be at least 1, not 0": lambda: QuasiLstm(16, inner=0),
    "qrnn: window must be at least 1, not 0": lambda: Qrnn(16, window=0),
    "qrnn: pool is one of f, fo, ifo, not 'of'": lambda: Qrnn(16, pool="of"),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_sizes_are_named_by_the_constructor(said):
    with pytest.raises(ValueError) as error:
        BAD[said]()
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
