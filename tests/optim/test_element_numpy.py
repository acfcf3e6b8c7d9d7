"""Element-wise rules without a package that has them right, against float64 transcriptions of their papers, to 1e-12.

Goldens of our own: written in numpy from the equations, with loops and lists where the rules have array arithmetic.
"""

import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_ext import optim

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import optim_problem  # noqa: E402
from optim_trajectory import trajectory  # noqa: E402

ETA, WD = 0.05, 0.1


def each(leaf):
    """leaf(p, g, t, memory) -> new p, called for every leaf with a dict of its own; t from 1."""
    memory, t = {}, 0

    def step(params, grads):
        nonlocal t
        t += 1
        return {k: leaf(p, grads[k], t, memory.setdefault(k, {})) for k, p in params.items()}

    return step


def mean_to(memory, name, value, b):
    memory[name] = b * memory.get(name, 0.0) + (1 - b) * value
    return memory[name]


def sampled(t):
    return {k: 0.3 * np.sin(1 + t + np.arange(v.size).reshape(v.shape)) for k, v in optim_problem.start().items()}


SHARES = []  # of sophia_g's entries that are clipped


def sophia_g():
    memory, t = {}, -1

    def step(params, grads):
        nonlocal t
        t += 1
        out = {}
        for k, p in params.items():
            mine = memory.setdefault(k, dict(h=0.0))
            m = mean_to(mine, "m", grads[k], 0.965)
            if t % 3 == 0:
                mine["h"] = 0.99 * mine["h"] + 0.01 * sampled(t)[k] ** 2
            size = np.minimum(np.abs(m) / (0.04 * 3000 * mine["h"] + 1e-15), 1.0)
            SHARES.append(np.mean(size == 1))
            out[k] = p * (1 - ETA * WD) - ETA * np.sign(m) * size
        return out

    return step


def lars(vectors, nesterov):
    def leaf(p, g, t, memory):
        ratio = 0.02 * np.linalg.norm(p) / (np.linalg.norm(g) + WD * np.linalg.norm(p))
        if p.ndim == 1 and not vectors:
            ratio = 1.0
        step = ETA * ratio * (g + WD * p)
        memory["m"] = 0.9 * memory.get("m", 0.0) + step
        return p - (0.9 * memory["m"] + step if nesterov else memory["m"])

    return each(leaf)


def tiger():
    def leaf(p, g, t, memory):
        size = np.sqrt(np.mean(p**2)) if p.ndim == 2 else 0.5
        return p - ETA * size * (np.sign(mean_to(memory, "m", g, 0.965)) + WD * p)

    return each(leaf)


def lion_k(gradient):
    def leaf(p, g, t, memory):
        c = 0.9 * memory.get("m", 0.0) + 0.1 * g
        mean_to(memory, "m", g, 0.99)
        return p - ETA * (gradient(c) + WD * p)

    return each(leaf)


def orthogonal(c):
    """U V' of c = U S V', the gradient of the sum of singular values."""
    u, _, v = np.linalg.svd(c, full_matrices=False)
    return u @ v


EVENTS = {"enters": 0, "stays out": 0}


def adam_cm(synced, capacity=3, b1=0.9, b2=0.99, decay=0.95):
    state = {}

    def step(params, grads):
        norms = {k: np.sqrt(np.sum(g**2)) for k, g in grads.items()}
        out = {}
        for k, p in params.items():
            priority = sum(norms.values()) if synced else norms[k]
            if k not in state:
                state[k] = dict(t=1, m=np.zeros_like(p), v=0.0, held=[[priority * decay, grads[k]]])
                out[k] = p
                continue
            mine = state[k]
            mine["t"] += 1
            mine["m"] = b1 * mine["m"] + (1 - b1) * grads[k]
            a = mine["m"] + np.mean([m for _, m in mine["held"]], axis=0)
            if len(mine["held"]) < capacity:
                mine["held"].append([priority, mine["m"]])
            else:
                worst = min(range(capacity), key=lambda i: mine["held"][i][0])
                EVENTS["enters" if priority > mine["held"][worst][0] else "stays out"] += 1
                if priority > mine["held"][worst][0]:
                    mine["held"][worst] = [priority, mine["m"]]
            mine["held"] = [[q * decay, m] for q, m in mine["held"]]
            mine["v"] = b2 * mine["v"] + (1 - b2) * a**2
            denominator = np.sqrt(mine["v"]) / np.sqrt(1 - b2 ** mine["t"]) + 1e-8
            out[k] = p - ETA / (1 - b1 ** mine["t"]) * a / denominator
        return out

    return step


def mars_exact(gamma=0.3):
    """MARS-AdamW with the gradient taken twice on the batch of step t: at this point and at the one before."""

    def leaf(p, g, t, memory):
        (old,) = optim_problem.gradient({"": memory.get("past", p)}, t - 1).values()
        memory["past"] = p
        c = g + gamma * 0.95 / 0.05 * (g - old)
        return p * (1 - ETA * WD) - ETA * adam(p, c / max(1.0, np.linalg.norm(c)), t, memory, b1=0.95)

    return each(leaf)


def loss_of_step(t):
    """The loss whose gradient is `optim_problem.gradient` at step t."""

    def value(params):
        total = 0.0
        for p in params.values():
            i = jnp.arange(p.size, dtype=p.dtype).reshape(p.shape)
            curve = 0.2 + 2.8 * (0.5 + 0.5 * jnp.sin(1.7 * i + 0.3))
            total += jnp.sum(curve * (p - jnp.cos(0.9 * i)) ** 2 / 2 + 0.4 * jnp.sin(1.3 * t + 0.7 * i) * p)
        return total

    return value


def adam(p, g, t, memory, b1=0.9, b2=0.99):
    m, v = mean_to(memory, "m", g, b1), mean_to(memory, "v", g**2, b2)
    return m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + 1e-8)


def cautious():
    def leaf(p, g, t, memory):
        u = adam(p, g, t, memory)
        mask = (u * g > 0).astype(float)
        return p * (1 - ETA * WD) - ETA * u * mask / max(mask.mean(), 1e-3)

    return each(leaf)


def adafactor():
    """With the outer product written out, a cap on the decay, and momentum."""

    def leaf(p, g, t, memory):
        b, square = min(1 - t**-0.8, 0.6), g**2 + 1e-30
        if p.ndim == 2:
            r, c = mean_to(memory, "r", square.mean(1), b), mean_to(memory, "c", square.mean(0), b)
            v = np.outer(r, c) / r.mean()
        else:
            v = mean_to(memory, "v", square, b)
        u = g / np.sqrt(v)
        u = u / max(1.0, np.sqrt(np.mean(u**2)) / 0.8)
        step = mean_to(memory, "m", ETA * max(1e-3, np.sqrt(np.mean(p**2))) * u, 0.9)
        return p - step - ETA * WD * p

    return each(leaf)


KS = {
    "l1": np.sign,
    "l2": lambda c: c / np.linalg.norm(c),
    "rows": lambda c: c / np.linalg.norm(c, axis=0),  # our columns are torch's rows; a vector is one row
    "huber": lambda c: np.where(np.abs(c) < 0.2, c / 0.2, np.sign(c)),
    "log_cosh": lambda c: np.tanh(c / 0.2),
    "identity": lambda c: c,
    "threshold": lambda c: np.where(np.abs(c) > 0.2, np.sign(c), 0.0),
    "lp": lambda c: np.sign(c) * np.abs(c) ** 0.5 / np.sum(np.abs(c) ** 1.5) ** (1 / 3),
    "nuclear": lambda c: orthogonal(c) if c.ndim == 2 else c / np.linalg.norm(c),
}
CASES = {
    "sophia_g": (optim.sophia_g(ETA, batch=3000.0, every=3), sophia_g),
    "lars": (optim.lars(ETA, trust_coefficient=0.02, weight_decay=WD), lambda: lars(True, False)),
    "lars_matrices_nesterov": (
        optim.lars(ETA, trust_coefficient=0.02, weight_decay=WD, vectors=False, nesterov=True),
        lambda: lars(False, True),
    ),
    "tiger": (optim.tiger(ETA, weight_decay=WD), tiger),
    "adam_cm": (optim.adam_cm(ETA, b2=0.99, capacity=3, decay=0.95), lambda: adam_cm(True)),
    "adam_cm_apart": (optim.adam_cm(ETA, b2=0.99, capacity=3, decay=0.95, synced=False), lambda: adam_cm(False)),
    "cautious": (optim.cautious(ETA, inner="adam(b2=0.99)", weight_decay=WD), cautious),
    "adafactor": (
        optim.adafactor(
            ETA, min_dim_size_to_factor=1, b2_max=0.6, clipping_threshold=0.8, momentum=0.9, weight_decay=WD
        ),
        adafactor,
    ),
    **{
        f"lion_k_{name}": (optim.lion_k(ETA, K=name, width=0.2, weight_decay=WD), lambda f=f: lion_k(f))
        for name, f in KS.items()
    },
}


@pytest.mark.parametrize("name", CASES)
def test_trajectory_of_the_equations(name):
    ours, theirs = CASES[name]
    found = trajectory(ours, lambda t: dict(sampled_grads=sampled(t)) if name == "sophia_g" else {})
    wanted = optim_problem.run(theirs())
    for k in ("w", "b"):
        assert np.max(np.abs(found[k] - wanted[k])) < 1e-12, k


def test_exact_mars_takes_the_gradient_before_on_this_batch():
    """And is not the approximate form, which has the gradient of the batch before."""
    options = dict(inner="adamw(b1=0.95, b2=0.99)", gamma=0.3, weight_decay=WD)
    tx = optim.mars(ETA, exact=True, **options)
    update = lambda g, s, p=None, *, t: tx.update(g, s, p, value_fn=loss_of_step(t))
    exact = optax.GradientTransformationExtraArgs(tx.init, update)
    found, wanted = trajectory(exact, lambda t: dict(t=float(t))), optim_problem.run(mars_exact())
    other = trajectory(optim.mars(ETA, **options))
    for k in ("w", "b"):
        assert np.max(np.abs(found[k] - wanted[k])) < 1e-12, k
        assert np.max(np.abs(found[k] - other[k])) > 1e-2, k


def test_the_cases_take_every_branch():
    SHARES.clear(), EVENTS.update({"enters": 0, "stays out": 0})
    for make in (sophia_g, lambda: adam_cm(True), lambda: adam_cm(False)):
        optim_problem.run(make())
    assert EVENTS["enters"] > 5 and EVENTS["stays out"] > 5
    assert 0.2 < np.mean(SHARES) < 0.8
