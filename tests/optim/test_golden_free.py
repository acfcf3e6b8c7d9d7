"""Rules free of a learning rate or a schedule against their packages: 16 steps in float64, a matrix and a vector,
to 1e-9.

tests/golden/optim_free.py makes the trajectories of torch packages; those of optax are computed here.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import optim
from jaxlib_ext.optim.schedules import Constant, Scaled

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import optim_problem  # noqa: E402
from optim_trajectory import trajectory  # noqa: E402

WARM = Scaled(peak=0.05, factor=Constant(steps=100, warmup=4))
LAYERS = {"w": 0.5, "b": 1.0}
CASES = {
    "dadapt_sgd_growth": optim.dadapt_sgd(1.0, d0=1e-3, growth=1.2, b1=0.5, weight_decay=0.1),
    "dadapt_adagrad": optim.dadapt_adagrad(1.0, d0=1e-2),
    "dadapt_adagrad_growth": optim.dadapt_adagrad(0.5, d0=1e-1, growth=1.3, b1=0.5, weight_decay=0.1),
    "dadapt_adam": optim.dadapt_adam(1.0, d0=1e-3, weight_decay=0.1),
    "dadapt_adam_growth": optim.dadapt_adam(1.0, d0=1e-3, growth=1.2, bias_correction=True, b1=0.8, b2=0.9),
    "dadapt_adam_layers": optim.dadapt_adam(1.0, d0=1e-2, scales=LAYERS),
    "dadapt_lion": optim.dadapt_lion(1.0, d0=1e-3, weight_decay=0.1),
    "prodigy": optim.prodigy(1.0, d0=1e-3, weight_decay=0.1),
    "prodigy_growth": optim.prodigy(1.0, d0=1e-4, growth=1.1, d_coef=0.7, b3=0.9, bias_correction=True),
    "prodigy_slices": optim.prodigy(0.5, d0=1e-3, slice_p=5, safeguard_warmup=True),
    "schedule_free_decay": optim.schedule_free(WARM, power=1.0, weight_decay=0.1),
    "schedule_free_adamw": optim.schedule_free_adamw(WARM, b2=0.99, weight_decay=0.1),
    "schedule_free_adamw_r": optim.schedule_free_adamw(WARM, b2=0.99, power=0.5, rate_power=1.0, weight_decay=0.1),
    "coupled_adam": optim.coupled(0.05, inner="adam(b2=0.99)", weight_decay=0.1),
    "coupled_sgd": optim.coupled(0.05, inner="sgd(nesterov=True)", weight_decay=0.1),
}
# Where ours moves by the distance that it has found, and not by d0 alone.
MOVED = {"dadapt_sgd_growth": 1e-3, "dadapt_adagrad_growth": 1e-1, "dadapt_adam_growth": 1e-3, "prodigy_growth": 1e-4}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "optim_free.npz")


def apart(found, wanted) -> float:
    return max(float(np.max(np.abs(found[k] - wanted[k]))) for k in ("w", "b"))


@pytest.mark.parametrize("name", CASES)
def test_trajectory_of_the_package(name, golden):
    assert apart(trajectory(CASES[name]), {k: golden[f"{name}/{k}"] for k in ("w", "b")}) < 1e-9


def test_every_golden_is_compared(golden):
    assert {key.split("/")[0] for key in golden.files if "/" in key} == set(CASES) | {"schedule_free_adamw_x"}


def last(tx):
    """(parameters, state) after the problem's steps."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, optim_problem.start())
        state, update = tx.init(params), jax.jit(tx.update)
        for t in range(optim_problem.STEPS):
            delta, state = update(optim_problem.gradient(jax.device_get(params), t), state, params)
            params = optax.apply_updates(params, delta)
        return params, state


def test_the_point_to_evaluate_is_the_package_s(golden):
    tx = CASES["schedule_free_adamw"]
    with jax.enable_x64(True):
        params, state = last(tx)
        found = jax.device_get(tx.eval_params(state, params))
    assert apart(found, {k: golden[f"schedule_free_adamw_x/{k}"] for k in ("w", "b")}) < 1e-9


@pytest.mark.parametrize("name", MOVED)
def test_the_estimate_grows_and_no_faster_than_its_limit(name):
    _, state = last(CASES[name])
    grown = float(state.shared["d"]) / MOVED[name]
    limit = float(state.hyper["growth"]) ** optim_problem.STEPS
    assert 1.5 < grown <= limit * (1 + 1e-9)


# --- optax ---------------------------------------------------------------------------------------------------------

ADAMW = optax.adamw(0.05, b2=0.99, weight_decay=0.1)
OPTAX = {
    "prodigy": (
        optim.prodigy(1.0, d0=1e-3, bias_correction=True, weight_decay=0.1),
        optax.contrib.prodigy(1.0, estim_lr0=1e-3, weight_decay=0.1),
    ),
    "dadapt_adam": (
        optim.dadapt_adam(1.0, d0=1e-3, bias_correction=True, weight_decay=0.1),
        optax.contrib.dadapt_adamw(1.0, estim_lr0=1e-3, weight_decay=0.1),
    ),
    "dog": (
        optim.dog(1.0, relative=1e-2, weight_decay=0.1),
        optax.contrib.dog(1.0, ("heuristic", 1e-2), weight_decay=0.1),
    ),
    "dog_distance": (optim.dog(0.5, relative=0.0, distance=0.1), optax.contrib.dog(0.5, ("distance", 0.1))),
    "dowg": (
        optim.dowg(1.0, square=1e-2, eps=1e-3, weight_decay=0.1),
        optax.contrib.dowg(1.0, 1e-2, 1e-3, weight_decay=0.1),
    ),
    "dowg_defaults": (optim.dowg(1.0), optax.contrib.dowg(1.0)),
}


@pytest.mark.parametrize("name", OPTAX)
def test_trajectory_of_optax(name):
    ours, theirs = OPTAX[name]
    assert apart(trajectory(ours), trajectory(theirs)) < 1e-9


@pytest.mark.parametrize("reset", [False, True])
def test_lookahead_of_optax(reset):
    ours = optim.lookahead(0.05, inner="adamw(b2=0.99)", k=5, alpha=0.3, weight_decay=0.1, reset=reset)
    theirs = optax.lookahead(ADAMW, 5, 0.3, reset_state=reset)
    with jax.enable_x64(True):
        pair = optax.LookaheadParams.init_synced(jax.tree.map(jnp.asarray, optim_problem.start()))
        state, update = theirs.init(pair), jax.jit(theirs.update)

        def step(params, grads):
            nonlocal pair, state
            delta, state = update(grads, state, pair)
            pair = optax.apply_updates(pair, delta)
            return jax.device_get(pair.fast)

        wanted = optim_problem.run(step)
        params, ours_state = last(ours)
        slow = jax.device_get(ours.eval_params(ours_state, params))
        assert apart(slow, jax.device_get(pair.slow)) < 1e-9
    assert apart(trajectory(ours), wanted) < 1e-9


def loss(params):
    """A scalar whose gradient is no multiple of the parameters."""
    return sum(jnp.sum(jnp.cosh(0.7 * p) + 0.1 * p**3) for p in jax.tree.leaves(params))


def test_sam_of_optax():
    ours = optim.sam(0.05, inner="adamw(b2=0.99)", rho=0.3, weight_decay=0.1)
    up = optax.chain(optax.contrib.normalize(), optax.sgd(0.3))
    theirs = optax.contrib.sam(ADAMW, up, sync_period=2, opaque_mode=True)
    ends = []
    for tx, extra in ((ours, dict(value_fn=loss)), (theirs, dict(grad_fn=lambda p, _: jax.grad(loss)(p)))):
        with jax.enable_x64(True):
            params = jax.tree.map(jnp.asarray, optim_problem.start())
            state, update = tx.init(params), jax.jit(lambda g, s, p, tx=tx, extra=extra: tx.update(g, s, p, **extra))
            for _ in range(12):
                delta, state = update(jax.grad(loss)(params), state, params)
                params = optax.apply_updates(params, delta)
            ends.append(jax.device_get(params))
    assert apart(*ends) < 1e-9
