"""The problem that every golden trajectory of an optimizer runs on: a matrix and a vector, float64, a gradient that
depends on both the point and the step. Plain numpy, shared by the scripts that make goldens and the tests."""

import numpy as np

STEPS = 16


def start() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {"b": rng.normal(size=5) * 0.3, "w": rng.normal(size=(4, 5)) * 0.5}


def gradient(params: dict[str, np.ndarray], t: int) -> dict[str, np.ndarray]:
    """At call t, from 0. A bowl with curvatures between 0.2 and 3, and a wobble that is no function of the point."""
    out = {}
    for name, p in params.items():
        i = np.arange(p.size, dtype=np.float64).reshape(p.shape)
        curve = 0.2 + 2.8 * (0.5 + 0.5 * np.sin(1.7 * i + 0.3))
        out[name] = curve * (p - np.cos(0.9 * i)) + 0.4 * np.sin(1.3 * t + 0.7 * i)
    return out


def run(step) -> dict[str, np.ndarray]:
    """step(params, grads) -> params, called STEPS times; the points after each: "w" [STEPS, 4, 5], "b" [STEPS, 5]."""
    params, path = start(), []
    for t in range(STEPS):
        params = step(params, gradient(params, t))
        path.append(params)
    return {name: np.stack([p[name] for p in path]) for name in params}


def run_torch(make) -> dict[str, np.ndarray]:
    """The same with a torch optimizer: make([w, b]) -> optimizer. Needs torch, the tests do not."""
    import torch

    held = {k: torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for k, v in start().items()}
    optimizer = make([held["w"], held["b"]])

    def step(params, grads):
        for k, g in grads.items():
            held[k].grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        return {k: v.detach().numpy().copy() for k, v in held.items()}

    return run(step)
