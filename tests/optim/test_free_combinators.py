"""Identities and limits of lookahead, sam, accumulated, coupled, add_gradient_noise, mt_adamw and agvm."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import optim

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "golden"))
import optim_problem
from optim_trajectory import trajectory


def apart(found, wanted) -> float:
    return max(
        float(np.max(np.abs(np.asarray(a) - b))) for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True)
    )


# --- lookahead -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["adamw(b2=0.99)", "lion"])
def test_lookahead_all_the_way_is_the_inner_rule(inner):
    options = dict(weight_decay=0.1)
    ours = optim.lookahead(0.05, inner=inner, alpha=1.0, k=3, **options)
    assert apart(trajectory(ours), trajectory(optim.make_optimizer(inner, 0.05, **options))) < 1e-12


def test_lookahead_of_every_step_with_sgd_is_sgd_with_a_smaller_rate():
    ours = optim.lookahead(0.05, inner="sgd(momentum=0.0)", k=1, alpha=0.3)
    assert apart(trajectory(ours), trajectory(optim.sgd(0.3 * 0.05, momentum=0.0))) < 1e-12


def test_lookahead_that_never_goes_stays():
    path = trajectory(optim.lookahead(0.05, inner="sgd", k=4, alpha=0.0))
    start = optim_problem.start()
    assert all(apart(path[k][3::4], np.broadcast_to(start[k], path[k][3::4].shape)) < 1e-12 for k in start)
    assert apart(path["w"][2], start["w"]) > 0.1


def test_lookahead_s_variance_on_a_noisy_quadratic():
    """Zhang et al. 2019, proposition 2: the spread of the slow weights on a p^2 / 2 with a moving centre."""
    rate, a, spread, k, alpha, n = 0.2, 1.5, 0.7, 5, 0.4, 40_000
    tx = optim.lookahead(rate, inner="sgd(momentum=0.0)", k=k, alpha=alpha)
    start = jnp.zeros(n)

    def step(carry, key):
        p, state = carry
        delta, state = tx.update(a * (p - spread * jax.random.normal(key, p.shape)), state, p)
        return (p + delta, state), None

    keys = jax.random.split(jax.random.key(0), 40 * k)
    (p, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, keys))((start, tx.init(start)))
    left = 1 - rate * a
    plain = rate**2 * a**2 * spread**2 / (1 - left**2)
    wanted = plain * alpha**2 * (1 - left ** (2 * k))
    wanted /= alpha**2 * (1 - left ** (2 * k)) + 2 * alpha * (1 - alpha) * (1 - left**k)
    assert float(jnp.var(tx.eval_params(state, p))) == pytest.approx(wanted, rel=0.03)  # 4 standard errors
    assert wanted < 0.5 * plain


def test_lookahead_names_what_it_cannot_do():
    with pytest.raises(ValueError, match="Lookahead: k must be a whole number from 1, not 0"):
        optim.lookahead(0.1, k=0)
    with pytest.raises(ValueError, match="reset cannot start Prodigy anew; it keeps numbers of all leaves"):
        optim.lookahead(0.1, inner="prodigy", reset=True)


# --- sam -----------------------------------------------------------------------------------------------------------


def test_sam_takes_the_gradient_uphill_of_all_parameters_together():
    """On sum of h p^2 / 2 the gradient at p + rho g / |g|, g = h p, is h (p + rho h p / |h p|)."""
    p, h = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}, {"a": 1.0, "b": 2.0}
    loss = lambda q: sum(h[k] * jnp.sum(q[k] ** 2) / 2 for k in q)
    tx = optim.sam(1.0, inner="sgd(momentum=0.0)", rho=0.5)
    delta, _ = tx.update(jax.grad(loss)(p), tx.init(p), p, value_fn=loss)
    size = (3.0**2 + 8.0**2) ** 0.5
    wanted = {"a": np.array([-(3 + 0.5 * 3 / size), 0.0]), "b": np.array([-2 * (4 + 0.5 * 8 / size)])}
    assert apart(delta, wanted) < 1e-6


def test_sam_with_no_reach_is_the_inner_rule_and_zero_gradients_are_finite():
    loss = lambda q: jnp.sum(jnp.cosh(q))
    p = jnp.array([0.3, -1.0])
    tx, plain = optim.sam(0.1, inner="adam", rho=0.0), optim.adam(0.1)
    delta = tx.update(jax.grad(loss)(p), tx.init(p), p, value_fn=loss)[0]
    assert apart(delta, plain.update(jax.grad(loss)(p), plain.init(p), p)[0]) < 1e-7
    tx, flat = optim.sam(0.1, inner="sgd"), lambda q: 0.0 * jnp.sum(q)
    assert np.all(np.asarray(tx.update(jnp.zeros(2), tx.init(p), p, value_fn=flat)[0]) == 0)
    with pytest.raises(ValueError, match="Sam: update needs the extra argument value_fn"):
        tx.update(jnp.zeros(2), tx.init(p), p)


# --- accumulated ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner,steps", [("sgd", 4), ("signum", 3), ("tiger", 5), ("sgd", 1)])
def test_accumulated_is_the_step_on_the_mean_gradient(inner, steps):
    with jax.enable_x64(True):
        p = q = jax.tree.map(jnp.asarray, optim_problem.start())
        ours = optim.accumulated(0.05, inner=inner, steps=steps, weight_decay=0.1)
        plain = optim.make_optimizer(inner, 0.05, weight_decay=0.1)
        mine, theirs = ours.init(p), plain.init(q)
        update, once = jax.jit(ours.update), jax.jit(plain.update)
        for turn in range(4):
            grads = [optim_problem.gradient(jax.device_get(p), 7 * turn + i) for i in range(steps)]
            for i, g in enumerate(grads):
                delta, mine = update(g, mine, p)
                assert i == steps - 1 or apart(delta, jax.tree.map(np.zeros_like, g)) == 0
                p = optax.apply_updates(p, delta)
            delta, theirs = once(jax.tree.map(lambda *v: sum(v) / steps, *grads), theirs, q)
            q = optax.apply_updates(q, delta)
            assert apart(p, jax.device_get(q)) < 1e-12
            assert apart(mine.slots, jax.device_get(theirs.slots)) < 1e-12


@pytest.mark.parametrize("inner", ["lion", "adamw", "sgd(nesterov=True)", "dadapt_sgd", "coupled(inner='sgd')"])
def test_accumulated_refuses_rules_whose_step_sees_more_than_a_linear_moment(inner):
    with pytest.raises(ValueError, match="step is not decided by moments that are linear in"):
        optim.accumulated(0.1, inner=inner)


def test_accumulated_needs_a_moment_to_gather_in():
    with pytest.raises(ValueError, match="w: Accumulated gathers gradients in m, Sgd keeps nothing"):
        optim.accumulated(0.1, inner="sgd(momentum=0.0)").init({"w": jnp.zeros(3)})


# --- coupled -------------------------------------------------------------------------------------------------------


def test_coupled_decay_is_decay_of_the_gradient_where_the_mask_says_so():
    grads = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
    params = {"w": jnp.array([10.0, 5.0]), "b": jnp.array([100.0])}
    tx = optim.coupled(1.0, inner="sgd(momentum=0.0)", weight_decay=0.1, decay_mask={"w": True, "b": False})
    delta, _ = tx.update(grads, tx.init(params), params)
    assert apart(delta, {"w": np.array([-2.0, 1.5]), "b": np.array([-0.5])}) < 1e-6


def test_coupled_reaches_what_the_inner_rule_measures():
    """An inner rule that decays by itself or measures the gradient sees the decay once."""
    one = trajectory(optim.coupled(1.0, inner="dog(relative=0.01)", weight_decay=0.1))
    assert apart(one, trajectory(optim.dog(1.0, relative=0.01, weight_decay=0.1))) < 1e-12


# --- add_gradient_noise --------------------------------------------------------------------------------------------


def noise_of(tx, steps, n=100_000):
    """What the noise adds to the updates of n zero gradients, by step; the learning rate must be 1."""
    params = {"a": jnp.zeros(n), "b": jnp.zeros(n)}
    state, update, found = tx.init(params), jax.jit(tx.update), []
    for _ in range(steps):
        delta, state = update(params, state, params)
        found.append(np.stack([-np.asarray(delta["a"]), -np.asarray(delta["b"])]))
    return np.stack(found)


def test_noise_has_the_law_and_the_schedule_of_optax():
    ours = noise_of(optim.add_gradient_noise(1.0, inner="sgd(momentum=0.0)", eta=0.3, gamma=0.55), 3)
    theirs = noise_of(optax.chain(optax.add_noise(0.3, 0.55, jax.random.key(1)), optax.sgd(1.0)), 3)
    for t in range(3):
        wanted = 0.3 / (t + 1) ** 0.55
        for found in (ours[t], theirs[t]):
            assert np.var(found) == pytest.approx(wanted, rel=0.016)  # 5 standard errors of 200,000 draws
            assert abs(np.mean(found)) < 5 * (wanted / 200_000) ** 0.5
            assert np.mean(found**4) / wanted**2 == pytest.approx(3, rel=0.04)
    flat = ours.reshape(6, -1) / np.std(ours.reshape(6, -1), axis=1, keepdims=True)
    related = flat @ flat.T / flat.shape[1] - np.eye(6)
    assert np.max(np.abs(related)) < 5 / flat.shape[1] ** 0.5  # of leaves and of steps


def test_noise_is_a_function_of_the_seed():
    make = lambda seed: noise_of(optim.add_gradient_noise(1.0, inner="sgd", seed=seed), 2, 8)
    assert np.array_equal(make(0), make(0)) and apart(make(0), make(1)) > 0.01


def test_no_noise_is_the_inner_rule():
    ours = optim.add_gradient_noise(0.05, inner="adamw", eta=0.0)
    assert apart(trajectory(ours), trajectory(optim.adamw(0.05))) < 1e-12


def test_noise_trains_a_deep_net_that_stalls_without():
    """Twenty ReLU layers started so small that no gradient gets through, as in the paper: descent stays at chance."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 12)), jnp.float32)
    y = jnp.argmax(x @ jnp.asarray(rng.normal(size=(12, 3)), jnp.float32), 1)
    params = {"o": rng.normal(size=(12, 3)) * 0.1, "w": rng.normal(size=(20, 12, 12)) * 0.1}
    params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params)

    def loss(p):
        deep, _ = jax.lax.scan(lambda v, w: (jax.nn.relu(v @ w), None), x, p["w"])
        return -jnp.mean(jax.nn.log_softmax(deep @ p["o"])[jnp.arange(64), y])

    tx = optim.add_gradient_noise(0.05, inner="sgd(momentum=0.0)", eta=1.0)

    def step(carry, _):
        p, state = carry
        delta, state = tx.update(jax.grad(loss)(p), state, p)
        p = jax.tree.map(jnp.add, p, delta)
        return (p, state), loss(p)

    run = jax.jit(lambda state: jnp.mean(jax.lax.scan(step, (params, state), None, 1200)[1][-200:]))
    noisy, plain = run(tx.init(params)), run(optim.set_hyper(tx.init(params), eta=0.0))
    assert abs(float(plain) - np.log(3)) < 1e-3 and float(noisy) < 0.95, (plain, noisy)


# --- mt_adamw ------------------------------------------------------------------------------------------------------


def normalised(t, params):
    grads = optim_problem.gradient(params, t)
    size = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
    return {k: g / size for k, g in grads.items()}


def test_one_task_is_adamw_on_normalised_gradients():
    ours = trajectory(optim.mt_adamw(0.05, b2=0.99))
    with jax.enable_x64(True):
        plain = optim.adamw(0.05, b2=0.99)
        state, t = plain.init(optim_problem.start()), -1

        def step(params, grads):
            nonlocal state, t
            t += 1
            delta, state = plain.update(normalised(t, params), state, params)
            return jax.device_get(optax.apply_updates(params, delta))

        assert apart(ours, optim_problem.run(step)) < 1e-12


def mt_adamw_again(shares, weights, tasks):
    """The paper's equations with b for its 1 - b, and AdamW's decay and bias corrections. The golden is ours."""
    b1, b2, eps, rate, decay = 0.9, 0.95, 1e-8, 0.05, 0.1
    m = v = {k: 0.0 for k in "wb"}
    t = 0

    def step(params, grads):
        nonlocal m, v, t
        k = tasks[t]
        t += 1
        size = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        g = {n: weights[k] * x / size for n, x in grads.items()}
        m = {n: b1 * m[n] + (1 - b1) * g[n] / shares[k] for n in g}
        v = {n: b2 * v[n] + (1 - b2) * g[n] ** 2 / shares[k] for n in g}
        u = {n: m[n] / (1 - b1**t) / (np.sqrt(v[n] / (1 - b2**t)) + eps) for n in g}
        return {n: p - rate * (u[n] + decay * p) for n, p in params.items()}

    return optim_problem.run(step)


def test_mt_adamw_is_its_equations():
    shares, weights = (0.5, 0.3, 0.2), (1.0, 2.0, 0.5)
    tasks = np.random.default_rng(0).integers(3, size=optim_problem.STEPS)
    tx = optim.mt_adamw(0.05, shares=shares, weights=weights)
    found = trajectory(tx, lambda t: dict(task=tasks[t]))
    assert apart(found, mt_adamw_again(shares, weights, tasks)) < 1e-9
    assert apart(found, mt_adamw_again(shares, (1.0, 1.0, 1.0), tasks)) > 1e-3


def test_the_unit_of_a_task_s_loss_does_not_matter():
    tx = optim.mt_adamw(0.1, shares=(0.5, 0.5))

    def end(factor):
        p, state = jnp.zeros(4), tx.init(jnp.zeros(4))
        for t in range(6):
            g = jax.random.normal(jax.random.key(t), (4,)) * (factor if t % 2 else 1.0)
            delta, state = tx.update(g, state, p, task=t % 2)
            p = p + delta
        return p

    assert apart(end(1000.0), end(1.0)) < 1e-5


def test_mt_adamw_s_moment_is_that_of_all_tasks_on_average():
    """Over the draws of the task, m is the running mean of the sum of weighted, normalised gradients."""
    shares, weights = (0.7, 0.2, 0.1), (1.0, 3.0, 0.5)
    tx = optim.mt_adamw(0.1, shares=shares, weights=weights)
    params = jnp.zeros(4)
    grads = [jax.random.normal(jax.random.key(i), (4,)) * 10.0**i for i in range(3)]
    after = [tx.update(g, tx.init(params), params, task=i)[1].slots["m"] for i, g in enumerate(grads)]
    mean = sum(s * m for s, m in zip(shares, after, strict=True))
    wanted = 0.1 * sum(w * g / jnp.linalg.norm(g) for w, g in zip(weights, grads, strict=True))
    assert apart(mean, wanted) < 1e-6


def test_mt_adamw_names_wrong_shares_and_a_missing_task():
    for options in (dict(shares=(0.5, 0.6)), dict(shares=(1.5, -0.5)), dict(shares=(0.5, 0.5), weights=(1.0,))):
        with pytest.raises(ValueError, match="MtAdamw: (shares|weights) must be"):
            optim.mt_adamw(0.1, **options)
    tx = optim.mt_adamw(0.1, shares=(0.5, 0.5))
    with pytest.raises(ValueError, match="MtAdamw: update needs the extra argument task"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), jnp.ones(3))
