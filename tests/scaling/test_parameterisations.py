"""Tables of scales: exponents, the symmetry between multiplier, start and rate, depth, bad input."""

import dataclasses
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import optim, param, scaling
from jaxlib_ext.scaling import parameterisations as tables
from jaxlib_ext.scaling.parameterisations.roles import STEPS

NAMES = list(tables.ABC)
GOLDEN = Path(__file__).parents[1] / "golden" / "mup_tables.npz"
RULES = dict(sgd="sgd(momentum=0.0)", adam="adam", adafactor="adafactor(min_scale=0.0, clipping_threshold=1e9)")


def mlp(n, depth=2, vocab=5, gated=True):
    """Embedding, `depth` hidden layers with a gate through a bottleneck, readout, a bias and a gain."""
    hidden = dict(w=param.matrix(dict(embed=n), dict(ff=n)))
    if gated:
        hidden |= dict(
            b=param.bias(ff=n), g=param.gain(ff=n),
            down=param.matrix(dict(embed=n), dict(rank=3)), up=param.matrix(dict(rank=3), dict(ff=n)),
        )  # fmt: skip
    return dict(
        embed=param.embed(vocab=vocab, embed=n), hidden=param.stack(hidden, layers=depth),
        head=param.head(dict(embed=n), dict(vocab=vocab)),
    )  # fmt: skip


def features(params, ids, branch=None):
    """What the readout sees; with branch, the layers are residual branches times it."""
    h = params["embed"][ids]
    for i in range(params["hidden"]["w"].shape[0]):
        p = {k: v[i] for k, v in params["hidden"].items()}
        if "down" in p:
            y = jnp.tanh(h @ p["w"] + p["b"][None]) * p["g"][None] * jax.nn.sigmoid(h @ p["down"] @ p["up"])
        else:
            y = jnp.tanh(h @ p["w"])
        h = y if branch is None else h + branch * y
    return h


def forward(params, ids, branch=None):
    return features(params, ids, branch) @ params["head"]


def wide(decl, scales, key=0):
    values = param.init(decl, jax.random.key(key), scales=scales)
    return jax.tree.map(lambda v: v.astype(jnp.float64), values)


def trajectory(decl, scales, spec, start, steps=6, decay=0.3):
    """Logits before each step, all in float64."""
    rate = 0.5 if spec.startswith("sgd") else 0.05
    tx = optim.make_optimizer(spec, rate, decl=decl, scales=scales, weight_decay=decay)
    ids, labels = jnp.arange(5), jnp.arange(5)[::-1]

    def loss(p):
        y = forward(param.multiplied(decl, p, scales), ids)
        return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean(), y

    @jax.jit
    def step(p, state):
        (_, y), grads = jax.value_and_grad(loss, has_aux=True)(p)
        delta, state = tx.update(grads, state, p)
        return optax.apply_updates(p, delta), state, y

    state, logits = tx.init(start), []
    for _ in range(steps):
        start, state, y = step(start, state)
        logits.append(y)
    return np.array(logits)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_symmetry_of_multiplier_start_and_rate(step):
    """(a + t, b - t, c - t) for Adam, c - 2t for SGD: the function trains alike in float64, eps and decay included."""
    with jax.enable_x64(True):
        decl, spec = mlp(24), RULES[step].replace("adam", "adam(eps=0.01)") if step == "adam" else RULES[step]
        scales = scaling.param_scaling(decl, mlp(8), "mup", step)
        start = wide(decl, scales)
        first = trajectory(decl, scales, spec, start)
        turned = jax.tree.map(lambda s: tables.moved(s, step, 0.3), scales)
        for other in (scaling.absorbed(scales, step), turned):
            same = param.fold(lambda _, p, v, s, o: v * (o.init / s.init), decl, start, scales, other)
            np.testing.assert_allclose(trajectory(decl, other, spec, same), first, rtol=1e-9, atol=1e-12)
        assert np.abs(first[-1] - first[0]).max() > 0.1
        if step == "adam":  # and differs where eps does not follow
            stiff = jax.tree.map(lambda s: param.Scale(s.init, s.forward, s.lr, s.decay), turned)
            assert np.abs(trajectory(decl, stiff, spec, same) - first).max() > 1e-3


def test_base_is_the_standard_parametrisation():
    """mup, depth_mup and every table at base width: all factors 1."""
    decl = mlp(16)
    for step, name in itertools.product(STEPS, NAMES):
        for scales in (
            scaling.param_scaling(decl, decl, name, step),
            scaling.mup(decl, decl, step),
            scaling.depth_mup(decl, decl, step),
        ):
            assert all(s == param.Scale() for s in jax.tree.leaves(scales))


@pytest.mark.parametrize("step", STEPS)
def test_mup_is_the_absorbed_table(step):
    """Two derivations of one parametrisation: abc with multipliers, and the spectral form without."""
    decl, base = mlp(48), mlp(16)
    want = scaling.mup(decl, base, step)
    got = scaling.absorbed(scaling.param_scaling(decl, base, "mup", step), step)
    for s, t in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose([s.init, s.lr, s.eps], [t.init, t.lr, t.eps], rtol=1e-12)


def as_in_the_package(n):
    """The declaration of the module in tests/golden/mup_tables.py."""
    square = param.matrix(dict(embed=n), dict(heads=n // 4, head_dim=4))
    return {
        "embed.weight": param.embed(vocab=11, embed=n), "q.weight": square, "k.weight": square, "v.weight": square,
        "out.weight": param.matrix(dict(heads=n // 4, head_dim=4), dict(embed=n)), "norm.weight": param.gain(embed=n),
        "norm.bias": param.bias(embed=n), "up.weight": param.matrix(dict(embed=n), dict(ff=4 * n)),
        "up.bias": param.bias(ff=4 * n), "down.weight": param.matrix(dict(ff=4 * n), dict(embed=n)),
        "down.bias": param.bias(embed=n), "head.weight": param.head(dict(embed=n), dict(vocab=11)),
    }  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_against_the_package_mup(optimizer):
    """Starts and rates of a small transformer's parameters at 4 times the base, the readout's multiplier absorbed; the
    product of rate and coupled decay, which ours is a factor on."""
    want, wide, base = np.load(GOLDEN), as_in_the_package(64), as_in_the_package(16)
    ours = scaling.mup(wide, base, optimizer)
    assert sorted(ours) == sorted(want["names"])
    for i, name in enumerate(want["names"]):
        start, multiplier, rate = (float(want[k][i]) for k in ("start", "multiplier", optimizer))
        theirs = tables.moved(param.Scale(init=start, forward=multiplier, lr=rate), optimizer)
        assert math.isclose(ours[name].lr, theirs.lr, rel_tol=1e-6), name
        torch_start = 0.5 if wide[name].kind == "bias" and name != "norm.bias" else 1.0  # 1/fan_in^1/2 of their layer
        assert math.isclose(ours[name].init, theirs.init * torch_start, rel_tol=1e-6), name
        if optimizer == "adamw" and wide[name].kind != "head":
            assert math.isclose(ours[name].decay, rate * float(want["adamw_decay"][i]), rel_tol=1e-6), name


def layer_changes(name, step, alignment, n, rng):
    """By how much one step of one layer alone changes what that layer makes: embedding, hidden, readout.

    A network of width n with activations, weights and upstream gradients of the sizes of its first step, its rates from
    the table. The step is seen by the input that made it (full alignment) or by others (none).
    """
    e, normal, outputs = tables.exponents(name, step, alignment), rng.standard_normal, 64
    shapes = dict(embedding=(n, 1), hidden=(n, n), readout=(outputs, n))
    w = {role: normal(shape) * n ** -e[role].b for role, shape in shapes.items()}
    f = {role: n ** -e[role].a for role in shapes}
    rms = lambda v: np.sqrt(np.mean(np.square(v)))
    x, of_logits = (v / rms(v) for v in (normal((n, 1)), normal((outputs, 1))))
    back = f["readout"] * w["readout"].T @ of_logits  # gradient of the last features
    grads = dict(
        embedding=f["embedding"] * back, hidden=f["hidden"] * back @ x.T, readout=f["readout"] * of_logits @ x.T
    )  # fmt: skip
    size = dict(sgd=lambda g, p: g, adam=lambda g, p: np.sign(g), adafactor=lambda g, p: np.sign(g) * rms(p))[step]
    moved = {role: n ** -e[role].c * size(grads[role], w[role]) for role in shapes}
    seen = x if alignment == 1 else normal((n, 128))
    made = dict(embedding=moved["embedding"], hidden=moved["hidden"] @ seen, readout=moved["readout"] @ seen)
    return [f[role] * rms(made[role]) for role in shapes]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("alignment", [1.0, 0.5])
def test_rates_are_those_at_which_every_layer_changes_by_a_constant(step, alignment):
    """The rows of sgd and adafactor derived, and Adam's of the paper: with its rate, what each layer makes changes by
    an amount that does not depend on width; measured over four parametrisations."""
    rng, widths = np.random.default_rng(0), (64, 192, 576)
    for name in NAMES:
        sizes = [np.mean([np.log(layer_changes(name, step, alignment, n, rng)) for _ in range(6)], 0) for n in widths]
        slopes = np.polyfit(np.log(widths), np.array(sizes), 1)[0]
        assert np.abs(slopes).max() < 0.1, (name, slopes)


TABLE = {  # powers of the width of the learning rates, from the literature: (step, name, alignment)
    ("adam", "standard", 1.0): (0, -1, -1),
    ("adam", "standard", 0.5): (0, -0.5, -0.5),
    ("adam", "ntk", 1.0): (0, -0.5, -0.5),
    ("adam", "ntk", 0.5): (0, 0, 0),
    ("adam", "mup", 1.0): (-0.5, -1, -0.5),
    ("adam", "mup", 0.5): (-0.5, -0.5, 0),
    ("adam", "mean_field", 1.0): (0, -0.5, 0),
    ("sgd", "mup", 1.0): (0, 0, 0),
    ("adafactor", "standard", 0.5): (0, 0, 0),
}


def test_rates_of_the_literature():
    for (step, name, alignment), want in TABLE.items():
        e = tables.exponents(name, step, alignment)
        got = [-e[role].c for role in ("embedding", "hidden", "readout")]
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_feature_exponent():
    """r = 0 for muP, 1/2 for NTK and for standard with rate n^-1; moving a factor from b to a with c - 2t keeps it."""
    r = tables.feature_exponent
    mup, ntk = ((-0.5, 0, 0, 0.5), (0.5,) * 4, 0), ((0, 0.5, 0.5, 0.5), (0,) * 4, 0)
    assert r(*mup) == 0 and r(*ntk) == 0.5 and r((0,) * 4, (0, 0.5, 0.5, 0.5), 1) == 0.5
    for a, b, c in (mup, ntk):
        assert math.isclose(r([v + 0.2 for v in a], [v - 0.2 for v in b], c - 0.4), r(a, b, c), abs_tol=1e-12)


def test_depth():
    """E|h_L|^2 / |h_0|^2 = (1 + 1/L)^L with branches over L^1/2; rates, decay and eps of CompleteP and Depth-muP."""
    rng, depth, n = np.random.default_rng(0), 16, 128
    grown = []
    for _ in range(20):
        h = start = rng.standard_normal(n)
        for _ in range(depth):
            h = h + scaling.branch(depth, 1, 0.5) * rng.standard_normal((n, n)) @ h / n**0.5
        grown.append(h @ h / (start @ start))
    want = (1 + 1 / depth) ** depth
    assert abs(np.mean(grown) - want) < 4 * np.std(grown) / 20**0.5 and want < math.e
    decl, base = mlp(32, depth=8), mlp(16, depth=2)
    s = scaling.depth_mup(decl, base, "adamw")
    assert s["hidden"]["w"] == param.Scale(1.0, 1.0, 0.5 * 4**0, 1.0, 0.5 / 4) and s["hidden"]["b"].lr == 1.0
    s = scaling.depth_mup(decl, base, "adamw", alpha=0.5)
    assert s["hidden"]["w"] == param.Scale(1.0, 1.0, 0.25, 0.5, 0.25) and s["hidden"]["b"].lr == 0.5
    assert scaling.depth_mup(decl, base, "sgd", alpha=0.5)["hidden"]["w"].lr == 1.0  # no power of the depth
    assert s["head"] == scaling.mup(decl, base, "adamw")["head"]


def moved_features(decl, scales, spec, rate, branch=None):
    """Root mean square of the change of the features by one step."""
    params, ids = param.init(decl, jax.random.key(0), scales=scales), jnp.arange(5)
    tx = optim.make_optimizer(spec, rate, decl=decl, scales=scales, weight_decay=0.0)

    def loss(p):
        y = forward(param.multiplied(decl, p, scales), ids, branch)
        return optax.softmax_cross_entropy_with_integer_labels(y, ids[::-1]).mean()

    @jax.jit
    def run(p):
        delta, _ = tx.update(jax.grad(loss)(p), tx.init(p), p)
        before, after = (
            features(param.multiplied(decl, q, scales), ids, branch) for q in (p, optax.apply_updates(p, delta))
        )
        return jnp.sqrt(jnp.mean((after - before) ** 2))

    return float(run(params))


@pytest.mark.slow
def test_features_move_under_mup_and_freeze_under_ntk():
    """With one rate for all layers, the features' change goes as n^-r: r = 0 for muP, 1/2 for NTK."""
    widths, slopes = (32, 256, 2048), {}
    for name in ("mup", "ntk"):
        sizes = []
        for n in widths:
            decl, base = mlp(n, 1, gated=False), mlp(32, 1, gated=False)
            scales = scaling.param_scaling(decl, base, name, "sgd")
            one_rate = jax.tree.map(lambda s: dataclasses.replace(s, lr=1.0), scales)
            sizes.append(moved_features(decl, one_rate, RULES["sgd"], 0.5))
        slopes[name] = np.polyfit(np.log(widths), np.log(sizes), 1)[0]
    assert abs(slopes["mup"]) < 0.15 and abs(slopes["ntk"] + 0.5) < 0.15, slopes


def test_features_move_alike_at_every_depth():
    """Under CompleteP the change of the stream by Adam does not depend on depth; with muP alone it grows."""
    sizes = {}
    for alpha in (0.0, 1.0):
        for depth in (2, 12):
            decl, base = mlp(32, depth, gated=False), mlp(32, 2, gated=False)
            scales = scaling.depth_mup(decl, base, "adam") if alpha else scaling.mup(decl, base, "adam")
            sizes[alpha, depth] = moved_features(decl, scales, "adam", 0.01, (depth / 2) ** -alpha)
    assert 0.6 < sizes[1.0, 12] / sizes[1.0, 2] < 1.6 and sizes[0.0, 12] / sizes[0.0, 2] > 2.5, sizes


def test_u_mup():
    """Unit weights and unit outputs at the start; with multipliers absorbed muP's rates, but for the embedding's."""
    decl = mlp(64)
    s = scaling.u_mup(decl)
    values = param.init(decl, jax.random.key(0), scales=s)
    for v in (values["embed"], values["hidden"]["w"], values["head"]):
        assert abs(float(jnp.std(v)) - 1) < 0.1
    x = np.random.default_rng(0).standard_normal((200, 64))
    assert abs(np.std(x @ np.asarray(param.multiplied(decl, values, s)["hidden"]["w"][0])) - 1) < 0.1
    big, small = (scaling.absorbed(scaling.u_mup(mlp(n)), "adam") for n in (64, 16))
    mup = scaling.mup(mlp(64), mlp(16), "adam")
    for path in (("hidden", "w"), ("head",), ("embed",)):
        a, b, c = (tree[path[0]] if len(path) == 1 else tree[path[0]][path[1]] for tree in (big, small, mup))
        assert math.isclose(a.init / b.init, c.init)
        assert math.isclose(a.lr / b.lr, c.lr * (0.5 if path == ("embed",) else 1.0))
    with pytest.raises(ValueError, match="u_mup has rates for Adam"):
        scaling.u_mup(decl, "sgd")


def test_decay_and_eps_of_a_scale():
    """decay multiplies the unscaled rate times the weight decay, eps the optimizer's eps; a number is lr alone."""
    params, grads = dict(w=jnp.ones(3), v=jnp.ones(3)), dict(w=jnp.zeros(3), v=jnp.zeros(3))
    scales = dict(w=param.Scale(lr=0.1, decay=0.5), v=2.0)
    tx = optim.adamw(0.1, weight_decay=0.2, scales=scales)
    delta, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose([delta["w"][0], delta["v"][0]], [-0.01, -0.02], rtol=1e-6)
    tx = optim.adam(0.1, eps=0.5, scales=dict(w=param.Scale(eps=4.0), v=None or 1.0))
    delta, _ = tx.update(dict(w=jnp.ones(3), v=jnp.ones(3)), tx.init(params), params)
    np.testing.assert_allclose([delta["w"][0], delta["v"][0]], [-0.1 / 3, -0.1 / 1.5], rtol=1e-6)


def scored(n):
    return dict(q=param.matrix(dict(embed=n), dict(heads=2, head_dim=n // 2)))


BAD = {
    "head": (lambda: scaling.mup(scored(64), scored(32), "adam"), "q: head_dim grows from 16 to 32; keep it, or set"),
    "tied": (
        lambda: scaling.mup(*(dict(t=param.embed(vocab=4, embed=n, uses=1)) for n in (8, 4)), "adam"),
        "t: a table that is also the head",
    ),
    "optimizer": (lambda: scaling.mup(mlp(8), mlp(4), "adamm"), "no table for the optimizer 'adamm'"),
    "base": (lambda: scaling.mup(mlp(8), mlp(8) | dict(more=param.gain(embed=8)), "adam"), "more: only the base has"),
    "kind": (
        lambda: scaling.mup(dict(a=param.gain(embed=8)), dict(a=param.bias(embed=8)), "adam"),
        "a: a gain here, a bias in the base",
    ),
    "axes": (
        lambda: scaling.mup(dict(a=param.gain(embed=8)), dict(a=param.gain(ff=8)), "adam"), "a: axes ['embed'] here"
    ),
    "name": (lambda: scaling.param_scaling(mlp(8), mlp(4), "mu", "adam"), "unknown parameterisation 'mu'; known are"),
    "alignment": (
        lambda: scaling.param_scaling(mlp(8), mlp(4), "ntk", "adam", alignment=2), "alignment is between 1/2 (none)"
    ),
    "scale": (lambda: param.Scale(lr=-1.0), "Scale: lr must be finite and not negative, not -1.0"),
    "init": (
        lambda: param.init(dict(a=param.gain(embed=8)), jax.random.key(0), scales={}), "a: the scales have no entry"
    ),
    "optim": (lambda: optim.adam(1.0, scales=dict(a="x")).init(dict(a=jnp.ones(2))), "a: a scale is a Scale, a number"),
    "depth": (lambda: scaling.branch(0, 1), "positive depths"),
    "cycle": (lambda: tables.path_depths([(0, 1), (1, 2), (2, 1), (2, 3)]), "the graph has a cycle"),
    "inputs": (lambda: tables.path_depths([(0, 2), (1, 2)]), "a graph with one input and one output"),
    "widths": (lambda: scaling.coordinate_check(lambda w: {}, (64,)), "a slope needs at least two widths"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name):
    make, said = BAD[name]
    with pytest.raises(ValueError) as error:
        make()
    assert said in str(error.value) and "\n" not in str(error.value)
