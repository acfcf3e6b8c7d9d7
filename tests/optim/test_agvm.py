"""agvm: its equations in numpy, its limits, and what it measures of gradients with a known noise."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import optim

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "golden"))
import optim_problem
from optim_trajectory import trajectory

PARTS = ("w", "b")
SHAPES = {"w": (4, 5), "b": (5,)}


def halves(t):
    """Two half-batch gradients of call t; b's are the noisier ones."""
    rng = np.random.default_rng(100 + t)
    noise = {"w": 0.2, "b": 1.0}
    signal = {k: np.cos(np.arange(np.prod(s)).reshape(s) + 0.1 * t) for k, s in SHAPES.items()}
    return {k: signal[k] + noise[k] * rng.normal(size=(2, *s)) for k, s in SHAPES.items()}


def agvm_again(adam, begin, interval, memory=0.97):
    """The authors' rule in numpy: factors from half-batch gradients, then SGD or AdamW. The golden is ours."""
    factors, t = {"w": 1.0, "b": 1.0}, -1
    m, v = ({k: 0.0 for k in "wb"} for _ in range(2))
    b1, b2, eps, rate, decay = 0.9, 0.95, 1e-8, 0.05, 0.1

    def noise(k):
        a, b = (x / (np.sqrt(b2 * v[k] + (1 - b2) * x**2) + eps) if adam else x for x in halves(t)[k])
        return 1 - np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)) + 1e-6

    def step(params, grads):
        nonlocal factors, t
        t += 1
        if t >= begin and t % interval == 0:
            new = {k: np.sqrt(np.clip(noise("w") / noise(k), 0.5, 10)) for k in factors}
            factors = {k: memory * factors[k] + (1 - memory) * new[k] for k in factors}
        out = {}
        for k, g in grads.items():
            m[k] = b1 * m[k] + (1 - b1) * g if adam else 0.9 * m[k] + g
            v[k] = b2 * v[k] + (1 - b2) * g**2
            u = m[k] / (1 - b1 ** (t + 1)) / (np.sqrt(v[k] / (1 - b2 ** (t + 1))) + eps) if adam else m[k]
            out[k] = params[k] - rate * factors[k] * (u + decay * params[k])
        return out

    return optim_problem.run(step), factors


@pytest.mark.parametrize("adam", [False, True])
def test_agvm_is_its_equations(adam):
    inner = "adamw" if adam else "sgd"
    tx = optim.agvm(0.05, inner=inner, parts=PARTS, begin=4, interval=3, memory=0.5, weight_decay=0.1)
    found = trajectory(tx, lambda t: dict(microbatch_grads=halves(t)))
    wanted, factors = agvm_again(adam, 4, 3, 0.5)
    assert max(np.max(np.abs(found[k] - wanted[k])) for k in PARTS) < 1e-9
    assert factors["w"] == 1 and abs(factors["b"] - 1) > 0.1


def factors(tx, grads, steps):
    params = {k: jnp.zeros(v.shape[1:]) for k, v in grads(0).items()}
    state, update = tx.init(params), jax.jit(lambda g, s, p, both: tx.update(g, s, p, microbatch_grads=both))
    for t in range(steps):
        both = grads(t)
        _, state = update({k: v.mean(0) for k, v in both.items()}, state, params, both)
    return [float(state.shared[f"factor_{i}"]) for i in range(len(params))]


def test_equally_noisy_parts_keep_their_rates():
    def same(t):
        both = np.random.default_rng(t).normal(size=(2, 30)) + 1
        return {"a": both, "b": 7 * both, "c": both[:, ::-1].copy()}

    made = optim.agvm(0.1, inner="sgd", parts=("a", "b", "c"), begin=0, interval=1, memory=0.5)
    assert np.allclose(factors(made, same, 8), 1, atol=1e-5)


def test_the_ratio_of_noise_is_that_of_the_model():
    """g_i = signal + sigma_i noise has 1 - cos = sigma^2 / (1 + sigma^2) for entries of unit size, by the law of large
    numbers; the factor goes to the root of the ratio, and stays between the roots of low and high."""
    sigma, n = {"a": 0.5, "b": 1.5, "c": 0.01, "d": 0.1}, 40_000

    def grads(t):
        rng = np.random.default_rng(t)
        signal = np.sign(rng.normal(size=n))
        return {k: signal + s * rng.normal(size=(2, n)) for k, s in sigma.items()}

    made = optim.agvm(0.1, inner="sgd", parts=tuple(sigma), begin=0, interval=1, memory=0.2)
    found = factors(made, grads, 6)
    noise = {k: s**2 / (1 + s**2) for k, s in sigma.items()}
    wanted = [np.sqrt(np.clip(noise["a"] / v, 0.5, 10)) for v in noise.values()]
    assert found[0] == 1 and found == pytest.approx(wanted, rel=0.02)
    assert found[1] == pytest.approx(0.5**0.5, rel=1e-3) and found[2] == pytest.approx(10**0.5, rel=1e-3)


def test_nothing_changes_before_it_begins_nor_between_intervals():
    tx = optim.agvm(0.1, inner="sgd", parts=PARTS, begin=5, interval=4, memory=0.5)
    found = [factors(tx, halves, steps)[1] for steps in (5, 8, 9, 12, 13)]
    assert found[0] == found[1] == 1 and found[2] == found[3] != 1 and found[4] != found[3]


def test_parts_by_kind_of_the_declaration():
    make = lambda parts: factors(optim.agvm(0.1, inner="sgd", parts=parts, begin=0, interval=1), halves, 3)
    assert make(("kind:matrix", "kind:vector")) == make(PARTS) != [1, 1]


def test_wrong_parts_and_gradients_are_named():
    params, both = {"w": jnp.zeros((4, 5)), "b": jnp.zeros(5)}, {k: jnp.asarray(v) for k, v in halves(0).items()}
    with pytest.raises(ValueError, match="b: none of Agvm's parts 'w' takes this parameter"):
        optim.agvm(0.1, parts=("w",)).init(params)
    tx = optim.agvm(0.1, parts=("w", "b", "head"))
    with pytest.raises(ValueError, match="Agvm: the part 'head' matches no parameter"):
        tx.update(params, tx.init(params), params, microbatch_grads=both)
    tx = optim.agvm(0.1, parts=PARTS)
    with pytest.raises(ValueError, match="update needs the extra argument microbatch_grads"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match=r"b: microbatch_grads must be \(2, 5\), not \(5,\)"):
        tx.update(params, tx.init(params), params, microbatch_grads=params)
