"""Element-wise rules against their packages, 16 steps in float64, a matrix and a vector, to 1e-9.

tests/golden/optim_element.py makes the trajectories of torch packages; those of optax are computed here.
"""

import pathlib
import sys

import numpy as np
import optax
import pytest

from jaxlib_ext import optim

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
from optim_trajectory import trajectory  # noqa: E402

CASES = {
    "adafactor": optim.adafactor(0.05, min_dim_size_to_factor=1),
    "adam_atan2": optim.adam_atan2(0.05, weight_decay=0.1),
    "adamax": optim.adamax(0.05, b2=0.9),
    "adamp": optim.adamp(0.05, b2=0.99, eps=1e-14, delta=1.2, weight_decay=0.1),
    "adan": optim.adan(0.05, weight_decay=0.1),
    "adopt": optim.adopt(0.05, b2=0.9, weight_decay=0.1),
    "cautious": optim.cautious(0.05, inner="adam_atan2", floor=1e-5),
    "centralised": optim.centralised(0.05, inner="sgd"),
    "mars": optim.mars(0.05, inner="adamw(b1=0.95, b2=0.99, eps=1e-14)", weight_decay=0.1),
    "mars_lion": optim.mars(0.05, inner="signum(b1=0.95)", weight_decay=0.1),
    "signum": optim.signum(0.05, weight_decay=0.1),
    "tiger": optim.tiger(0.05, scaled=False, weight_decay=0.1),
}


def optax_adafactor():
    """optax.adafactor's own chain, but for its decay rate, which it computes in float32."""
    return optax.chain(
        optax.scale_by_factored_rms(True, 0.8, 0, 1, 1e-30, lambda i, rate: 1 - (i + 1.0) ** -rate),
        optax.clip_by_block_rms(0.7),
        optax.scale_by_learning_rate(0.05, flip_sign=False),
        optax.scale_by_param_block_rms(),
        optax.ema(0.9, debias=False),
        optax.add_decayed_weights(0.05 * 0.1),
        optax.scale(-1),
    )


def optax_adopt():
    return optax.chain(
        optax.contrib.scale_by_adopt(b2=0.9), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(0.05)
    )


def slow_decay(i):
    """The warm-up of ademamix's b3 over 8 steps, by the half-life in steps."""
    steps = lambda b: np.log(0.5) / np.log(b)
    share = (i + 1.0) / 8
    return np.where(i >= 7, 0.99, 0.5 ** (1 / ((1 - share) * steps(0.9) + share * steps(0.99)))).astype(float)


def traced(table):
    """A schedule for optax from a function of numpy integers."""
    import jax.numpy as jnp

    return lambda i: jnp.asarray(table(np.arange(32)))[i]


OPTAX = {
    "adafactor": (
        optim.adafactor(0.05, min_dim_size_to_factor=1, clipping_threshold=0.7, momentum=0.9, weight_decay=0.1),
        optax_adafactor,
    ),
    "adamax": (optim.adamax(0.05), lambda: optax.adamax(0.05)),
    "ademamix": (
        optim.ademamix(0.05, b3=0.99, weight_decay=0.1),
        lambda: optax.contrib.ademamix(0.05, b3=0.99, weight_decay=0.1),
    ),
    "ademamix_warm": (
        optim.ademamix(0.05, b3=0.99, warmup=8.0, weight_decay=0.0),
        lambda: optax.contrib.ademamix(
            0.05, b3=traced(slow_decay), alpha=traced(lambda i: 5 * np.minimum((i + 1.0) / 8, 1))
        ),
    ),
    "adopt": (optim.adopt(0.05, b2=0.9, weight_decay=0.1), optax_adopt),
    "lamb": (optim.lamb(0.05, weight_decay=0.1), lambda: optax.lamb(0.05, weight_decay=0.1)),
    "lars": (optim.lars(5.0, weight_decay=0.0), lambda: optax.lars(5.0)),
    "lars_nesterov": (
        optim.lars(5.0, nesterov=True, weight_decay=0.0),
        lambda: optax.lars(5.0, nesterov=True),
    ),
    "signum": (optim.signum(0.05), lambda: optax.signum(0.05)),
}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "optim_element.npz")


@pytest.mark.parametrize("name", CASES)
def test_trajectory_of_the_package(name, golden):
    found = trajectory(CASES[name])
    for k in ("w", "b"):
        assert np.max(np.abs(found[k] - golden[f"{name}/{k}"])) < 1e-9, k


def test_every_golden_is_compared(golden):
    assert {key.split("/")[0] for key in golden.files if "/" in key} == set(CASES)


@pytest.mark.parametrize("name", OPTAX)
def test_trajectory_of_optax(name):
    ours, theirs = OPTAX[name]
    found, wanted = trajectory(ours), trajectory(theirs())
    for k in ("w", "b"):
        assert np.max(np.abs(found[k] - wanted[k])) < 1e-9, k
