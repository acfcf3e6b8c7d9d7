"""Schedules: closed forms at their boundaries, optax's numbers where optax has them, public code's elsewhere."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import optim
from jaxlib_ext.optim import schedules as s

T, W = 200, 20
ONE = {
    "constant": s.Constant(steps=T, warmup=W),
    "cosine": s.Cosine(steps=T, warmup=W, end=0.1),
    "cosine_power": s.CosinePower(steps=T, warmup=W, end=0.1),
    "infinite": s.Infinite(steps=T, warmup=W),
    "jagged_cosine": s.JaggedCosine(steps=T, warmup=W, reset=50, ramp=8),
    "linear": s.Linear(steps=T, warmup=W, end=0.1),
    "power": s.Power(steps=T, tokens=4096, batch=4, peak=0.02, warmup=W),
    "rewarm_cosine": s.RewarmCosine(lengths=(50, 100, 50), rewarm=0.1),
    "wsd": s.Wsd(steps=T, warmup=W),
}


@functools.cache
def _jitted():
    return jax.jit(lambda schedule, steps: jax.vmap(schedule)(steps))


def line(schedule, n=T + 1) -> np.ndarray:
    """Its values at steps 0 ... n - 1."""
    return np.asarray(_jitted()(schedule, jnp.arange(n)), np.float64)


def close(a, b, bound=2e-6):
    assert np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))) < bound


def test_every_schedule_is_here():
    assert set(ONE) == set(s.SCHEDULES)


def test_no_two_schedules_have_the_same_structure():
    """Else jit may run the program of one for the other, as with `jax.tree_util.register_dataclass`."""
    made = [*ONE.values(), s.Wsd(steps=T, shape="sqrt"), s.Wsd(steps=T, shape="cosine")]
    structures = [jax.tree.structure(schedule) for schedule in made]
    assert all((a == b) == (i == j) for i, a in enumerate(structures) for j, b in enumerate(structures))
    tx = optim.sgd(s.Scaled(peak=1.0, factor=s.Cosine(steps=T)))
    with pytest.raises(ValueError, match="learning_rate is scheduled: give a schedule of the same form"):
        optim.set_hyper(tx.init({"w": jnp.ones(2)}), learning_rate=s.Scaled(peak=1.0, factor=s.Linear(steps=T)))


@pytest.mark.parametrize("name", ONE)
def test_finite_and_between_zero_and_one(name):
    values = line(ONE[name], T + 50)
    assert np.all(np.isfinite(values)) and values.min() >= 0 and values.max() <= 1 + 1e-6
    assert math.isfinite(float(ONE[name](0)))


@pytest.mark.parametrize("name", ONE)
def test_numbers_are_data(name):
    """Other numbers compile nothing, and a step of any type gives the same value."""
    schedule = ONE[name]
    call = jax.jit(lambda schedule, step: schedule(step))
    a = call(schedule, 3)
    b = call(jax.tree.map(lambda n: n * 1.1 if isinstance(n, float) else n + 7, schedule), 3)
    assert call._cache_size() == 1 and np.isfinite(a) and np.isfinite(b)
    assert jax.tree.leaves(schedule)
    close(schedule(3), a)
    close(schedule(jnp.float32(3)), a)
    close(schedule(np.int64(3)), a)


def test_an_optimizer_takes_other_numbers_without_compiling():
    tx = optim.sgd(optim.make_schedule("cosine", 0.5, steps=100, warmup=10), momentum=0.0)
    params = {"w": jnp.zeros(2)}
    step = jax.jit(tx.update)
    state = tx.init(params)
    first, state = step({"w": jnp.ones(2)}, state, params)
    close(first["w"], -0.05)
    longer = optim.make_schedule("cosine", 1.0, steps=1000, warmup=4)
    second, state = step({"w": jnp.ones(2)}, optim.set_hyper(state, learning_rate=longer), params)
    close(second["w"], -0.5)  # the second of four warm-up steps to 1
    assert step._cache_size() == 1


# --- against optax -------------------------------------------------------------------------------------------------


def test_cosine_is_optax_cosine():
    close(line(s.Cosine(steps=T, end=0.1)), jax.vmap(optax.cosine_decay_schedule(1.0, T, alpha=0.1))(jnp.arange(T + 1)))


def test_cosine_with_warm_up_is_optax_from_its_peak_on_and_one_step_ahead_before():
    theirs = jax.vmap(optax.warmup_cosine_decay_schedule(0.0, 1.0, W, T, 0.1))(jnp.arange(T + 1))
    ours = line(ONE["cosine"])
    close(ours[W:], theirs[W:])
    close(ours[:W], theirs[1 : W + 1])


def test_linear_is_optax_linear():
    theirs = jax.vmap(optax.linear_schedule(1.0, 0.1, T - W, W))(jnp.arange(T + 1))
    close(line(ONE["linear"])[W:], theirs[W:])


def test_constant_is_optax_warm_up_one_step_ahead():
    close(line(ONE["constant"])[:-1], jax.vmap(optax.warmup_constant_schedule(0.0, 1.0, W))(jnp.arange(1, T + 1)))


def test_one_cycle_of_rewarming_is_optax_warm_up_and_cosine():
    ours = s.RewarmCosine(steps=T, rewarm=0.1, start=0.05, end=0.1)
    close(line(ours), jax.vmap(optax.warmup_cosine_decay_schedule(0.05, 1.0, W, T, 0.1))(jnp.arange(T + 1)))


# --- closed forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["constant", "cosine", "cosine_power", "infinite", "jagged_cosine", "linear", "wsd"])
def test_warm_up_begins_above_zero_and_ends_at_one(name):
    close(line(ONE[name])[: W + 1], np.minimum((np.arange(W + 1) + 1) / W, 1))


SHAPES = {
    "linear": lambda x: 1 - x,
    "sqrt": lambda x: 1 - np.sqrt(x),
    "cosine": lambda x: (1 + np.cos(np.pi * x)) / 2,
    "square": lambda x: 1 - x * x,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_wsd(shape):
    x = np.clip((np.arange(T + 1) - 150) / 50, 0, 1)
    values = line(s.Wsd(steps=T, warmup=0, cooldown=0.25, end=0.1, shape=shape))
    close(values, 0.1 + 0.9 * SHAPES[shape](x))
    close(line(s.Wsd(steps=T, cooldown=0.25, end=0.1, shape=shape), T + 9)[T:], 0.1)  # no jump at the end


def test_wsd_names_a_wrong_shape():
    with pytest.raises(ValueError, match="shape is one of linear, sqrt, cosine, square, not 'exp'"):
        s.Wsd(steps=T, shape="exp")


def test_power_closed_form():
    """min(peak, batch a n^b) of the tokens n, warmed up to its value at the warm-up's end, as in lm-engine's code."""
    c, batch, peak, a, b = 4096, 4, 0.02, 4.6, -0.51
    law = lambda n: min(peak, batch * a * n**b)
    values = peak * line(s.Power(steps=10**6, tokens=c, batch=batch, peak=peak, warmup=W), 400)
    want = [law(W * c) * (t + 1) / W if t + 1 < W else law((t + 1) * c) for t in range(400)]
    close(values, want, 1e-8)


def test_power_has_its_slope_and_knee():
    schedule = s.Power(steps=10**9, tokens=1000, batch=8, peak=0.01)
    knee = (0.01 / (8 * 4.6)) ** (1 / -0.51) / 1000  # in steps
    close(schedule(int(knee * 0.9)), 1.0)
    assert 0.9 < float(schedule(int(knee * 1.1))) < 0.97
    t = np.geomspace(10 * knee, 1000 * knee, 20).astype(np.int64)
    slope, at = np.polyfit(np.log((t + 1) * 1000.0), np.log([0.01 * float(schedule(int(v))) for v in t]), 1)
    assert abs(slope + 0.51) < 1e-4 and abs(math.exp(at) / 8 - 4.6) < 1e-2  # a and b are found again


def test_power_doubles_with_the_batch_at_equal_tokens():
    one = s.Power(steps=10**9, tokens=1000, batch=1, peak=1.0)
    two = s.Power(steps=10**9, tokens=2000, batch=2, peak=1.0)
    close(2 * float(one(199_999)), float(two(99_999)), 1e-7)


def test_power_before_its_cooldown_does_not_know_the_end():
    make = lambda steps: s.Power(steps=steps, tokens=1000, batch=1, peak=0.02)
    close(line(make(1000), 900), line(make(10_000), 900), 0.0 + 1e-9)


def test_power_decays_in_a_line_from_where_its_cooldown_begins():
    values = line(s.Power(steps=1000, tokens=1000, batch=1, peak=0.02, end=0.1), 1001)
    assert values[900] < values[899]
    x = np.arange(101) / 100
    close(values[900:], values[900] * (1 - 0.9 * x), 1e-6)


def test_power_of_many_tokens_does_not_overflow():
    schedule = s.Power(steps=10**6, tokens=4_000_000, batch=1000, peak=0.02)
    close(0.02 * float(schedule(500_000)), 1000 * 4.6 * (500_001 * 4e6) ** -0.51, 1e-7)
    assert float(s.InTokens(schedule=s.Linear(steps=4e12), tokens=4_000_000)(500_000)) == pytest.approx(0.5, rel=1e-5)


def authors_cosine_power(epochs, order):
    """sharpDARTS' curve on epochs 1 ... n: a power of the cosine, moved and scaled to [0, 1] on that grid. Ours."""
    c = (1 + np.cos(np.pi * np.arange(1, epochs + 1) / epochs)) / 2
    q = c if order == 1 else order ** (c + 1)
    return (q - q.min()) / (q.max() - q.min())


@pytest.mark.parametrize("order", [1, 2, 10])
def test_cosine_power_is_the_authors_curve(order):
    ours = line(s.CosinePower(steps=T, power=order))[1:]
    close((ours - ours.min()) / (ours.max() - ours.min()), authors_cosine_power(T, order))


def test_cosine_power_ends_falls_and_is_lower_for_larger_powers():
    curves = [line(s.CosinePower(steps=T, power=p, end=0.05)) for p in (1, 1.00001, 2, 10, 100)]
    for values in curves:
        close(values[[0, -1]], [1, 0.05])
        assert np.all(np.diff(values) <= 0)
    close(curves[0], line(s.Cosine(steps=T, end=0.05)))
    close(curves[0], curves[1], 1e-5)
    for above, below in zip(curves[1:], curves[2:], strict=False):
        assert np.all(below[1:-1] < above[1:-1])


def test_rewarm_boundaries_of_three_data_sets():
    values = line(ONE["rewarm_cosine"])
    close(values[[0, 5, 50, 60, 150, 155, 200]], [0, 1, 0.1, 1, 0.1, 1, 0.1])
    close(values[[49, 149]], 0.1, 0.01)
    close(values[55], 0.55)  # half of the re-warming from 0.1


def test_rewarm_without_warm_up_jumps_to_one():
    values = line(s.RewarmCosine(lengths=(50, 50), rewarm=0.0), 101)
    close(values[[0, 50, 100]], [1, 1, 0.1])
    close(values[49], 0.1, 0.01)


def test_a_rewarmed_run_learns_the_second_task_better():
    """Linear regression on one task and then on another: with the rate raised again it ends nearer to the second."""
    rng = np.random.default_rng(0)
    tasks = rng.normal(size=(2, 8))

    def loss(rates):
        w = np.zeros(8)
        for t, rate in enumerate(rates):
            x = np.random.default_rng(t).normal(size=(16, 8))
            w -= 0.1 * rate * x.T @ (x @ (w - tasks[t // 100])) / 16
        return np.mean((w - tasks[1]) ** 2)

    whole = line(s.RewarmCosine(lengths=(100, 100), end=0.1), 200)
    floor = np.where(np.arange(200) < 100, line(s.RewarmCosine(steps=100, end=0.1), 200), 0.1)
    assert loss(whole) < 0.1 * loss(floor)


def test_infinite_phases():
    """Warm-up, cosine to the level, the level, an exponential to the end: Ibrahim et al. 2024."""
    values = line(s.Infinite(steps=T, warmup=W, cooldown=0.3, anneal=0.2, level=0.4, end=0.05), T + 20)
    t = np.arange(T + 20)
    want = np.minimum((t + 1) / W, 1)
    want = np.where(t < W, want, 0.4 + 0.6 * (1 + np.cos(np.pi * (t - W) / 60)) / 2)
    want = np.where(t >= W + 60, 0.4, want)
    want = np.where(t >= 160, 0.4 * (0.05 / 0.4) ** (np.minimum(t - 160, 40) / 40), want)
    close(values, want)


def relora(step, total, first, ramp, every, floor):
    """ReLoRA's jagged cosine as in its authors' code, written again. Ours."""
    cosine = lambda at: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (at - first) / (total - first)))
    if step < first:
        return (step + 1) / first  # one step ahead of theirs
    at, restart = step % every, step // every * every
    if at < ramp and step >= every:
        return at / ramp * cosine(restart + ramp)
    return cosine(step)


def test_jagged_cosine_is_relora():
    ours = line(s.JaggedCosine(steps=T, warmup=W, reset=50, ramp=8, end=0.1), T)
    close(ours, [relora(t, T, W, 8, 50, 0.1) for t in range(T)])


# --- put together --------------------------------------------------------------------------------------------------


def test_scaled_and_in_tokens():
    schedule = s.Scaled(peak=3e-4, factor=s.InTokens(schedule=s.Linear(steps=T * 512), tokens=512))
    close(line(schedule), 3e-4 * line(s.Linear(steps=T)), 1e-9)


def test_make_schedule():
    made = optim.make_schedule("wsd(cooldown=0.5, shape='sqrt')", 2.0, steps=T, warmup=W)
    close(line(made), 2.0 * line(s.Wsd(steps=T, warmup=W, cooldown=0.5, shape="sqrt")))
    power = optim.make_schedule("power", 0.02, steps=T, warmup=W, batch=4, tokens=4096)
    close(line(power), 0.02 * line(ONE["power"]))
    with pytest.raises(ValueError, match="warmup=300 must be between 0 and steps=200"):
        optim.make_schedule("cosine", 1.0, steps=200, warmup=300)
    with pytest.raises(ValueError, match="unknown schedule 'cosin'; did you mean cosine"):
        optim.make_schedule("cosin", 1.0, steps=200, warmup=3)


@pytest.mark.parametrize("name", ONE)
def test_derivatives_with_respect_to_the_peak_are_finite(name):
    grads = jax.grad(lambda peak: s.Scaled(peak=peak, factor=ONE[name])(7))(0.5)
    close(grads, ONE[name](7))
