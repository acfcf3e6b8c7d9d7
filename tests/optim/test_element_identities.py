"""What element-wise rules must satisfy whatever their numbers: limiting cases, invariances, bounds, bad input."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import optim, param

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import optim_problem  # noqa: E402
from optim_trajectory import trajectory  # noqa: E402

ETA, DELTA = 0.05, 1.2


def walk(tx, params, grad, steps=1, **extra):
    """The points after each of steps updates; grad(params, t) -> gradients, t from 0."""
    state = tx.init(params)

    def body(carry, t):
        params, state = carry
        delta, state = tx.update(grad(params, t), state, params, **extra)
        params = optax.apply_updates(params, delta)
        return (params, state), params

    return jax.jit(lambda: jax.lax.scan(body, (params, state), jnp.arange(steps))[1])()


def ones_step(tx, g, p):
    """The first update of one leaf."""
    return walk(tx, dict(w=p), lambda *_: dict(w=g))["w"][0] - p


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


SAME = {
    "ademamix without the slow momentum is adamw": (
        optim.ademamix(ETA, b2=0.99, alpha=0.0, warmup=5.0),
        optim.adamw(ETA, b2=0.99),
    ),
    "adan without b2 is adam": (optim.adan(ETA, b1=0.9, b2=0.0, b3=0.99), optim.adam(ETA, b1=0.9, b2=0.99)),
    "adamp that never fires is adamw": (
        optim.adamp(ETA, b2=0.99, delta=0.0, weight_decay=0.1),
        optim.adamw(ETA, b2=0.99),
    ),
    "lion_k of l1 is lion": (optim.lion_k(ETA, weight_decay=0.3), optim.lion(ETA, weight_decay=0.3)),
    "lion_k of l1 with one decay is signum": (
        optim.lion_k(ETA, b1=0.9, b2=0.9),
        optim.signum(ETA, weight_decay=0.1),
    ),
    "lion_k of a narrow huber is lion": (optim.lion_k(ETA, K="huber", width=1e-13), optim.lion(ETA)),
    "lion_k of a narrow log_cosh is lion": (optim.lion_k(ETA, K="log_cosh", width=1e-13), optim.lion(ETA)),
    "lion_k of lp at power 2 is that of l2": (
        optim.lion_k(ETA, K="lp", power=2.0),
        optim.lion_k(ETA, K="l2"),
    ),
    "lion_k of the identity is momentum": (
        optim.lion_k(ETA, K="identity", b1=0.9, b2=0.9, weight_decay=0.0),
        optim.sgd(ETA * 0.1, momentum=0.9),
    ),
    "tiger unscaled is signum": (optim.tiger(ETA, scaled=False), optim.signum(ETA, b1=0.965, weight_decay=0.01)),
    "sophia_g without curvature is signum": (
        optim.sophia_g(ETA, batch=0.0, eps=1e-30),
        optim.signum(ETA, b1=0.965, weight_decay=0.1),
    ),
    "sophia_g that ignores what comes between": (
        optim.sophia_g(ETA, every=16, batch=50.0),
        optim.sophia_g(ETA, every=99, batch=50.0),
    ),
    "adafactor of the whole moment is rmsprop": (
        optim.adafactor(ETA, b2_max=0.0, multiply_by_parameter_scale=False, clipping_threshold=np.inf),
        optim.signum(ETA, b1=0.0),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_limiting_case(name):
    a, b = (trajectory(tx, lambda t: dict(sampled_grads=optim_problem.start())) for tx in SAME[name])
    assert all(np.max(np.abs(a[k] - b[k])) < 1e-9 for k in a)


def test_adam_atan2_starts_with_the_rate_and_does_not_see_the_scale_of_gradients():
    g, p = draw(4, 8), draw(4, 8, seed=1)
    first = ones_step(optim.adam_atan2(ETA, a=4 / np.pi), g, p)
    assert np.allclose(first, -ETA * np.sign(g), rtol=1e-5)
    small, big = (
        walk(optim.adam_atan2(ETA), dict(w=p), lambda q, t, c=c: dict(w=c * q["w"]), 5) for c in (1e-12, 1e12)
    )
    assert np.allclose(small["w"], big["w"], rtol=1e-5)


def test_adamax_steps_are_at_most_the_rate_of_the_unbiased_momentum():
    g, p = draw(4, 8), jnp.zeros((4, 8))
    assert np.allclose(ones_step(optim.adamax(ETA), g, p), -ETA * np.sign(g), rtol=1e-5)
    points = walk(optim.adamax(ETA, b1=0.0), dict(w=p), lambda q, t: dict(w=g * jnp.sin(3.0 * t + 1)), 20)["w"]
    assert np.max(np.abs(np.diff(points, axis=0))) <= ETA * (1 + 1e-5)


def test_adopt_stays_at_first_and_bounds_what_follows():
    p = jnp.zeros((4, 8))
    points = walk(
        optim.adopt(ETA, b1=0.0), dict(w=p), lambda q, t: dict(w=jnp.where(t == 0, 1e-3, 1e3) * draw(4, 8)), 4
    )
    assert np.all(points["w"][0] == 0)
    steps = np.abs(np.diff(points["w"], axis=0))
    assert np.allclose(steps.max((1, 2)), ETA * np.array([1, 2, 3]) ** 0.25, rtol=1e-5)


def test_ademamix_warms_up_from_the_fast_momentum():
    """At the first of many updates the slow momentum is the fast one and weighs nearly nothing."""
    g, p, tx = draw(4, 8), draw(4, 8, seed=1), optim.ademamix(ETA, warmup=1e9)
    _, state = tx.update(dict(w=g), tx.init(dict(w=p)), dict(w=p))
    assert np.allclose(state.slots["slow"]["w"], state.slots["m"]["w"], rtol=1e-4)
    assert np.allclose(ones_step(tx, g, p), ones_step(optim.adamw(ETA), g, p), rtol=1e-4)


def test_adafactor_is_exact_where_the_squared_gradient_has_rank_one():
    g = jnp.exp(draw(6, 1)) * jnp.exp(draw(1, 9, seed=1)) * jnp.sign(draw(6, 9, seed=2))
    p = draw(6, 9, seed=3)
    whole, factored = (optim.adafactor(ETA, min_dim_size_to_factor=n) for n in (99, 1))
    grad = lambda q, t: dict(w=g * (t + 1.0))
    assert np.allclose(walk(whole, dict(w=p), grad, 4)["w"], walk(factored, dict(w=p), grad, 4)["w"], rtol=1e-4)


def declared(**fields):
    return dict(w=param.matrix(contracts=dict(embed=6), produces=dict(heads=2, head_dim=4), **fields))


BY_SIDES = {
    "adafactor": dict(min_dim_size_to_factor=1),
    "adamp": dict(delta=3.0),
    "lion_k": dict(K="rows"),
    "lion_k of nuclear": dict(K="nuclear"),
    "centralised": dict(inner="sgd"),
}


@pytest.mark.parametrize("name", BY_SIDES)
def test_a_projection_to_heads_is_one_matrix(name):
    """(embed, heads, head_dim) moves as the same numbers in (embed, heads * head_dim) do."""
    make, g, p = optim.OPTIMIZERS[name.split()[0]], draw(6, 2, 4), draw(6, 2, 4, seed=1)
    heads = ones_step(make(ETA, decl=declared(), **BY_SIDES[name]), g, p)
    flat = ones_step(make(ETA, **BY_SIDES[name]), g.reshape(6, 8), p.reshape(6, 8))
    assert np.allclose(heads.reshape(6, 8), flat, atol=1e-6)


def test_adafactor_holds_a_row_and_a_column():
    decl = declared(copies=dict(layers=3))
    held = optim.adafactor(ETA, min_dim_size_to_factor=1, decl=decl).abstract(param.abstract(decl)).slots
    assert {k: v["w"].shape for k, v in held.items()} == dict(row=(3, 6, 1, 1), column=(3, 1, 2, 4))


def test_mars_without_correction_is_its_inner_rule():
    p, grad = draw(4, 8), lambda q, t: dict(w=0.01 * jnp.sin(q["w"] + t))
    inner = "adamw(b1=0.95, b2=0.99)"
    plain, bare = optim.make_optimizer(inner, ETA), optim.mars(ETA, inner=inner, gamma=0.0, weight_decay=0.1)
    assert np.allclose(walk(bare, dict(w=p), grad, 6)["w"], walk(plain, dict(w=p), grad, 6)["w"], rtol=1e-6)


def test_mars_shortens_what_it_hands_on():
    """With momentum 0.75 and gamma 1 the first c is 4 g, cut to length 1; a quarter of it is the first momentum."""
    inner = optim.rules.LionK(K="identity", b1=0.75, b2=0.75)
    step = lambda g: ones_step(optim.mars(ETA, inner=inner, gamma=1.0), g, jnp.zeros((4, 8)))
    g = draw(4, 8)
    assert np.allclose(step(g), -ETA * 0.25 * g / np.linalg.norm(g), rtol=1e-5)
    assert np.allclose(step(1e-3 * g), -ETA * 0.25 * 4e-3 * g, rtol=1e-5)


LINEAR = {  # K -> where a constant gradient a and weight decay 0.5 lead: minus the gradient of K, over the decay
    "l1": lambda a: np.sign(a),
    "l2": lambda a: a / np.linalg.norm(a),
    "rows": lambda a: a / np.linalg.norm(a, axis=0),
    "huber": lambda a: np.clip(a, -1, 1),
    "log_cosh": np.tanh,
    "identity": lambda a: a,
    "threshold": lambda a: np.where(np.abs(a) > 1, np.sign(a), 0.0),
    "lp": lambda a: np.sign(a) * np.abs(a) ** 0.5 / np.sum(np.abs(a) ** 1.5) ** (1 / 3),
    "nuclear": lambda a: polar(np.asarray(a)),
}


def polar(a):
    u, _, v = np.linalg.svd(a, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("name", LINEAR)
def test_lion_k_solves_its_constrained_problem(name):
    a = draw(4, 8)
    tx = optim.lion_k(0.1, K=name, b2=0.95, weight_decay=0.5)
    end = walk(tx, dict(w=draw(4, 8, seed=1)), lambda q, t: dict(w=a), 400)["w"][-1]
    assert np.allclose(end, -LINEAR[name](np.asarray(a)) / 0.5, atol=1e-4)


def test_lion_k_of_nuclear_takes_each_layer_apart_and_zeros_as_they_are():
    """All singular values of a step are the rate, of tall and wide matrices alike; small ones too."""
    g = draw(3, 6, 4) * jnp.array([0.0, 1e-3, 1.0]).reshape(3, 1, 1)
    tx = optim.lion_k(ETA, K="nuclear", weight_decay=0.0, copies=dict(w=1))
    for each in (g, jnp.swapaxes(g, 1, 2)):
        values = np.linalg.svd(np.asarray(ones_step(tx, each, jnp.zeros_like(each))), compute_uv=False)
        assert np.allclose(values, ETA * np.array([[0], [1], [1]]), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_the_step_has_a_share_of_the_length_of_each_layer(name):
    """And does not change with the scale of a layer's gradient; zero weights take the plain step."""
    extra = dict(eps=0.0) if name == "lamb" else dict(trust_coefficient=1.0)
    tx = optim.OPTIMIZERS[name](ETA, weight_decay=0.0, copies=dict(w=1), **extra)
    p, g = draw(3, 4, 8) * jnp.array([0.0, 1, 10]).reshape(3, 1, 1), draw(3, 4, 8, seed=1)
    step = ones_step(tx, g, p)
    lengths = lambda x: np.linalg.norm(np.asarray(x).reshape(3, -1), axis=1)
    assert np.allclose(lengths(step)[1:], ETA * lengths(p)[1:], rtol=1e-4)
    assert np.allclose(ones_step(tx, 7 * g, p)[1:], step[1:], rtol=1e-4)
    plain = np.sign(g[0]) if name == "lamb" else g[0]
    assert np.allclose(step[0], -ETA * plain, rtol=1e-4)


def test_tiger_follows_the_size_of_a_matrix():
    p, g = draw(4, 8), draw(4, 8, seed=1)
    tx = optim.tiger(ETA, weight_decay=0.0)
    assert np.allclose(ones_step(tx, g, 10 * p), 10 * ones_step(tx, g, p), rtol=1e-4, atol=1e-5)
    decl = dict(w=param.embed(vocab=4, embed=8))
    table = optim.tiger(ETA, decl=decl, weight_decay=0.0)
    rms = np.sqrt(np.mean(np.square(p), 1, keepdims=True))
    assert np.allclose(ones_step(table, g, p), -ETA * rms * np.sign(g), atol=1e-6)
    assert np.all(ones_step(tx, g, jnp.zeros((4, 8))) != 0)


def fires(w, g, delta):
    """Which view of adamp projects: 2 each neuron, 1 the matrix, 0 none."""
    cosine = lambda axes: np.abs(np.sum(w * g, axes)) / np.sqrt(np.sum(w**2, axes) * np.sum(g**2, axes))
    return 2 if np.max(cosine(0)) < delta / 2 else 1 if cosine((0, 1)) < delta / np.sqrt(20) else 0


def test_adamp_golden_takes_both_branches_and_neither():
    """With the delta of the golden trajectory."""
    tx, seen = optim.adamp(ETA, b2=0.99, eps=1e-14, delta=DELTA, weight_decay=0.1), []
    path = trajectory(tx)["w"]
    for t, w in enumerate([optim_problem.start()["w"], *path[:-1]]):
        seen.append(fires(w, optim_problem.gradient(dict(w=w), t)["w"], DELTA))
    assert min(seen.count(k) for k in (0, 1, 2)) >= 2, seen


def test_adamp_steps_along_the_sphere_of_each_neuron():
    p, g = draw(6, 9), draw(6, 9, seed=1)
    step = ones_step(optim.adamp(ETA, delta=3.0, weight_decay=0.0), g, p)
    assert np.max(np.abs(np.sum(step * p, 0))) < 1e-6 < np.max(np.abs(np.sum(step * p, 1)))


def test_centralised_keeps_the_sum_of_each_neuron():
    """A neuron is a column of (in, out), and a row of an embedding; vectors see the plain gradient."""
    p, g = draw(6, 9), draw(6, 9, seed=1)
    step = ones_step(optim.centralised(ETA, inner="sgd"), g, p)
    assert np.max(np.abs(np.sum(step, 0))) < 1e-6 < np.max(np.abs(np.sum(step, 1)))
    decl = dict(w=param.embed(vocab=6, embed=9))
    step = ones_step(optim.centralised(ETA, inner="sgd", decl=decl), g, p)
    assert np.max(np.abs(np.sum(step, 1))) < 1e-6 < np.max(np.abs(np.sum(step, 0)))
    assert np.allclose(ones_step(optim.centralised(ETA, inner="sgd"), g[0], p[0]), -ETA * g[0], atol=1e-6)


def test_cautious_never_climbs_and_leaves_agreeing_updates_alone():
    p, g = draw(6, 9), draw(6, 9, seed=1)
    grad = lambda q, t: dict(w=g * jnp.sin(2.0 * t + 1))
    points = walk(optim.cautious(ETA, weight_decay=0.0), dict(w=p), grad, 8)["w"]
    steps = np.diff(points, axis=0)
    assert all(np.max(step * g * np.sin(2.0 * t + 1)) <= 0 for t, step in enumerate(steps, 1))
    same = lambda q, t: dict(w=g)
    assert np.allclose(
        walk(optim.cautious(ETA), dict(w=p), same, 3)["w"], walk(optim.adamw(ETA), dict(w=p), same, 3)["w"]
    )


def test_sophia_g_needs_no_estimate_between_renewals():
    """None and any numbers are the same there; with enough curvature the step is momentum over it."""
    p, g, s = (dict(w=draw(4, 8, seed=i)) for i in range(3))
    tx = optim.sophia_g(ETA, every=2, batch=1e6)
    state = tx.init(p)
    step = jax.jit(lambda state, s: tx.update(g, state, p, sampled_grads=s))
    delta, state = step(state, s)
    hessian = 0.01 * s["w"] ** 2
    assert np.allclose(
        delta["w"], -ETA * (np.clip(0.035 * g["w"] / (0.04e6 * hessian), -1, 1) + 0.1 * p["w"]), rtol=1e-4, atol=1e-7
    )
    for a, b in zip(jax.tree.leaves(step(state, None)), jax.tree.leaves(step(state, p)), strict=True):
        assert np.array_equal(a, b)


def test_adam_cm_leaves_a_narrow_basin_that_adam_stays_in():
    """A double well: curvature 200 at 0 in a pit of width 0.3, curvature 1 at 3; the start is in the pit."""

    def slope(x):
        return jnp.where(jnp.abs(x) < 0.15, 200 * x, jnp.where(x < 0.15, -30.0, x - 3.0))

    grad = lambda q, t: dict(x=slope(q["x"]))
    ends = {
        f: walk(optim.OPTIMIZERS[f](0.03, b2=0.999), dict(x=jnp.full((1,), 0.1)), grad, 600)["x"][-1, 0]
        for f in ("adam", "adam_cm")
    }
    assert abs(ends["adam"]) < 0.15 and abs(ends["adam_cm"] - 3) < 1, ends


BAD = {
    "LionK: K must be one of l1": lambda: optim.lion_k(ETA, K="l3"),
    "LionK: b2 must be above 0": lambda: optim.lion_k(ETA, b2=0.0),
    "LionK: width must be above 0": lambda: optim.lion_k(ETA, width=0.0),
    "LionK: power must be above 1": lambda: optim.lion_k(ETA, power=1.0),
    "Ademamix: b1 must be above 0": lambda: optim.ademamix(ETA, b1=0.0),
    "Adan: b3 must be in": lambda: optim.adan(ETA, b3=1.0),
    "AdamCm: capacity must be at least 1": lambda: optim.adam_cm(ETA, capacity=0),
    "SophiaG: every must be at least 1": lambda: optim.sophia_g(ETA, every=0),
    "Mars: the inner rule needs a momentum b1, Sgd has none": lambda: optim.mars(ETA, inner="sgd"),
    "unknown optimizer 'lyon'": lambda: optim.centralised(ETA, inner="lyon"),
}


@pytest.mark.parametrize("says", BAD)
def test_bad_options_are_named(says):
    with pytest.raises(ValueError, match="^" + says.replace("(", r"\(")) as error:
        BAD[says]()
    assert "\n" not in str(error.value)


def test_sampled_grads_that_do_not_fit_are_named():
    p = dict(w=jnp.ones(2), v=jnp.ones(2))
    tx = optim.sophia_g(ETA)
    with pytest.raises(ValueError, match=r"^SophiaG: update needs the extra argument sampled_grads=\.\.\.$"):
        tx.update(p, tx.init(p), p)
    with pytest.raises(ValueError, match="^sampled_grads: v: no gradient for this parameter$"):
        tx.update(p, tx.init(p), p, sampled_grads=dict(w=jnp.ones(2)))
