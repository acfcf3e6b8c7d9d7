"""Identities and limits of the rules that find their own step size or need no schedule, mostly in float64."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import optim
from jaxlib_ext.optim.schedules import Linear, Scaled

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "golden"))
import optim_problem
from optim_trajectory import trajectory


def apart(found, wanted) -> float:
    return max(
        float(np.max(np.abs(np.asarray(a) - b))) for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True)
    )


def descend(tx, loss, start, steps):
    """(points [steps + 1, ...], shared numbers of every step), in one scan."""
    with jax.enable_x64(True):
        start = jnp.asarray(start, jnp.float64)

        def step(carry, _):
            x, state = carry
            delta, state = tx.update(jax.grad(loss)(x), state, x)
            x = optax.apply_updates(x, delta)
            return (x, state), (x, state.shared)

        _, (points, shared) = jax.jit(lambda c: jax.lax.scan(step, c, None, steps))((start, tx.init(start)))
        return np.concatenate([np.asarray(start)[None], points]), {k: np.asarray(v) for k, v in shared.items()}


def hinge_problem(kind):
    """(loss, start, solution): convex and Lipschitz, the solution known."""
    rng = np.random.default_rng(3)
    best, a = rng.normal(size=6), rng.normal(size=(40, 6))
    if kind == "absolute":
        return lambda x: jnp.sum(jnp.abs(x - best)), np.zeros(6), best
    if kind == "residual":
        return lambda x: jnp.mean(jnp.abs(a @ (x - best))), np.zeros(6), best
    sign = np.sign(a @ best) * np.where(rng.uniform(size=40) < 0.2, -1, 1)  # no plane separates these
    logistic = lambda x: jnp.mean(jnp.log1p(jnp.exp(-sign * (a @ x))))
    x = np.zeros(6)
    for _ in range(200):  # Newton, damped
        p = 1 / (1 + np.exp(sign * (a @ x)))
        x = x + 0.5 * np.linalg.solve(a.T * (p * (1 - p)) @ a, a.T @ (sign * p))
    return logistic, np.zeros(6), x


PROBLEMS = ("absolute", "residual", "logistic")


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", ["dadapt_sgd", "dadapt_adagrad", "dadapt_adam", "dadapt_lion", "prodigy"])
def test_the_estimate_never_falls(name, kind):
    loss, start, _ = hinge_problem(kind)
    d = descend(getattr(optim, name)(1.0), loss, start, 200)[1]["d"]
    assert np.all(np.diff(d) >= 0) and d[-1] > 1e3 * 1e-6


@pytest.mark.parametrize("kind", PROBLEMS)
def test_prodigy_s_estimate_is_below_the_distance(kind):
    """r weighs <g, p_0 - p> as s weighs g, so r <= <s, p_0 - p*> <= |s|_1 max |p_0 - p*| for any convex loss."""
    loss, start, best = hinge_problem(kind)
    for options in ({}, dict(bias_correction=True), dict(b3=0.99)):
        d = descend(optim.prodigy(1.0, **options), loss, start, 400)[1]["d"]
        assert 0.02 * np.max(np.abs(start - best)) < d[-1] <= np.max(np.abs(start - best)) * (1 + 1e-9)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_dadapt_sgd_s_estimate_is_below_twice_the_distance(kind):
    """The paper's estimate is r / |s| and at most the distance; the authors' package doubles it, and so do we."""
    loss, start, best = hinge_problem(kind)
    d = descend(optim.dadapt_sgd(1.0), loss, start, 400)[1]["d"]
    assert 0.02 * np.linalg.norm(start - best) < d[-1] <= 2 * np.linalg.norm(start - best) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["dadapt_sgd", "dadapt_adam", "prodigy"])
def test_the_end_does_not_hang_on_the_first_estimate(name):
    loss, start, best = hinge_problem("logistic")
    ends = [descend(getattr(optim, name)(1.0, d0=d0), loss, start, 500)[0][-1] for d0 in (1e-8, 1e-6, 1e-3)]
    gaps = [float(loss(end) - loss(best)) for end in ends]
    at_start = float(loss(start) - loss(best))
    assert max(gaps) < 0.05 * at_start, gaps


@pytest.mark.parametrize("name", ["dadapt_sgd", "dadapt_adam", "dadapt_lion", "prodigy", "dog", "dowg"])
def test_the_unit_of_the_loss_does_not_matter(name):
    options = dict(eps=0.0) if name in ("dadapt_adam", "prodigy", "dog", "dowg") else {}
    # The first step divides by sqrt(v) = 0 without eps where nothing was seen: only the estimate's <g, s / sqrt(v)>.
    if name == "dadapt_adam":
        options = dict(eps=1e-40)
    tx = getattr(optim, name)(1.0, **options)
    loss, start, _ = hinge_problem("logistic")
    one = descend(tx, loss, start, 30)[0]
    thousand = descend(tx, lambda x: 1000 * loss(x), start, 30)[0]
    assert np.max(np.abs(one[-1] - one[0])) > 1e-7
    assert np.max(np.abs(one - thousand)) < 1e-9


@pytest.mark.parametrize(
    "name", ["dadapt_sgd", "dadapt_adagrad", "dadapt_adam", "dadapt_lion", "prodigy", "dog", "dowg"]
)
def test_gradients_of_zero_before_the_first_change_nothing(name):
    tx, ends = getattr(optim, name)(1.0), []
    for before in (0, 2):
        with jax.enable_x64(True):
            params = jax.tree.map(jnp.asarray, optim_problem.start())
            state, update = tx.init(params), jax.jit(tx.update)
            for t in range(-before, 6):
                grads = optim_problem.gradient(jax.device_get(params), t)
                delta, state = update(grads if t >= 0 else jax.tree.map(np.zeros_like, grads), state, params)
                params = optax.apply_updates(params, delta)
            ends.append(jax.device_get(params))
    assert apart(*ends) < 1e-12 < apart(ends[0], optim_problem.start())


def test_prodigy_leaves_its_first_estimate_with_bfloat16_parameters():
    params = {"w": jnp.ones((32, 32), jnp.bfloat16)}
    tx = optim.prodigy(1.0)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(60):
        delta, state = update(jax.tree.map(lambda p: p.astype(jnp.float32) - 3, params), state, params)
        params = optax.apply_updates(params, delta)
    assert state.shared["d"].dtype == jnp.float32 and float(state.shared["d"]) > 1e-3
    assert params["w"].dtype == jnp.bfloat16 and abs(float(jnp.mean(params["w"].astype(jnp.float32))) - 3) < 0.5


def test_prodigy_s_slices_hold_less():
    params = {"w": jnp.zeros((16, 110)), "b": jnp.zeros(110), "s": jnp.zeros(())}
    held = optim.prodigy(1.0, slice_p=11).abstract(params).slots
    assert {k: v.shape for k, v in held["x0"].items()} == {"w": (16, 10), "b": (10,), "s": ()}
    assert {k: v.shape for k, v in held["s"].items()} == {"w": (16, 10), "b": (10,), "s": ()}
    params = {"w": jnp.arange(24.0).reshape(2, 12)}
    tx = optim.prodigy(1.0, slice_p=5)
    assert apart(tx.init(params).slots["x0"], {"w": np.array([[0, 5, 10], [12, 17, 22.0]])}) == 0
    for options in (dict(slice_p=0), dict(slice_p=1.5), dict(b3=1.0)):
        with pytest.raises(ValueError, match="Prodigy: (slice_p|b3) must be"):
            optim.prodigy(1.0, **options)


def test_dog_and_dowg_first_steps():
    """dog's has the length r_0, whatever the gradient; dowg's is sqrt(square) g / |g|."""
    grads = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[12.0]])}
    params = jax.tree.map(jnp.ones_like, grads)
    length = lambda tx: float(optax.tree.norm(tx.update(grads, tx.init(params), params)[0]))
    assert length(optim.dog(1.0, relative=1e-2)) == pytest.approx(1e-2 * (1 + 3**0.5), rel=1e-5)
    assert length(optim.dog(0.5, relative=0.0, distance=0.2)) == pytest.approx(0.1, rel=1e-5)
    assert length(optim.dowg(1.0, square=0.09, eps=1e-12)) == pytest.approx(0.3, rel=1e-5)


# --- without a schedule --------------------------------------------------------------------------------------------


def test_schedule_free_adamw_is_schedule_free_of_an_adam_without_first_moment():
    ours = trajectory(optim.schedule_free_adamw(0.05, b1=0.8, b2=0.99, weight_decay=0.1))
    whole = optim.schedule_free(0.05, inner="adam(b1=0.0, b2=0.99)", blend=0.8, weight_decay=0.1)
    assert apart(ours, trajectory(whole)) < 1e-12


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_schedule_free_evaluates_at_the_weighted_mean_of_z(power):
    tx = optim.schedule_free_adamw(0.05, power=power)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, optim_problem.start())
        state, update, zs = tx.init(params), jax.jit(tx.update), []
        for t in range(6):
            delta, state = update(optim_problem.gradient(jax.device_get(params), t), state, params)
            params = optax.apply_updates(params, delta)
            zs.append(jax.device_get(state.slots["z"]))
        weights = (np.arange(6) + 1.0) ** power
        mean = jax.tree.map(lambda *z: np.average(np.stack(z), axis=0, weights=weights), *zs)
        assert apart(jax.device_get(tx.eval_params(state, params)), mean) < 1e-12
        assert apart(mean, jax.device_get(params)) > 1e-3


@pytest.mark.parametrize("gamma", [0.0, 3.0])
def test_averaged_trains_the_inner_rule_and_evaluates_at_the_average(gamma):
    """The plain mean at 0; else point i, from 1, counts for i (i + 1) ... (i + gamma - 1)."""
    tx, inner = optim.averaged(1.0, inner="dog(relative=0.1)", gamma=gamma), optim.dog(1.0, relative=0.1)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, optim_problem.start())
        state, update, points = tx.init(params), jax.jit(tx.update), []
        assert apart(jax.device_get(tx.eval_params(state, params)), params) == 0
        for t in range(6):
            delta, state = update(optim_problem.gradient(jax.device_get(params), t), state, params)
            params = optax.apply_updates(params, delta)
            points.append(jax.device_get(params))
        weights = [np.prod([i + j for j in range(int(gamma))]) for i in range(1, 7)]
        mean = jax.tree.map(lambda *p: np.average(np.stack(p), axis=0, weights=weights), *points)
        assert apart(jax.device_get(tx.eval_params(state, params)), mean) < 1e-12
        assert apart(mean, points[-1]) > 1e-3
    plain = trajectory(inner)
    assert max(np.max(np.abs(plain[k][t] - points[t][k])) for t in range(6) for k in ("w", "b")) == 0
    with pytest.raises(ValueError, match="^Averaged: gamma must be at least 0, not -1"):
        optim.averaged(1.0, gamma=-1)


@pytest.mark.parametrize("name", ["schedule_free", "schedule_free_adamw"])
def test_schedule_free_weighs_by_the_largest_rate_so_far(name):
    tx = getattr(optim, name)(Scaled(peak=2.0, factor=Linear(steps=8)), power=1.0)
    state, update = tx.init(jnp.ones(3)), jax.jit(tx.update)
    for _ in range(4):
        _, state = update(jnp.ones(3), state, jnp.ones(3))
    assert float(state.shared["top_rate"]) == 2.0
    assert float(state.shared["weights"]) == pytest.approx(4.0 * (1 + 2 + 3 + 4))


def test_schedule_free_adamw_needs_a_weight_of_the_average():
    with pytest.raises(ValueError, match="ScheduleFreeAdamw: b1 must be in"):
        optim.schedule_free_adamw(0.1, b1=0.0)
