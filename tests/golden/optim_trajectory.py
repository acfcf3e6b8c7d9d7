"""The path of one of our optimizers on the problem of optim_problem.py, in float64."""

import jax
import optax
from optim_problem import run


def trajectory(tx, extra=lambda t: {}):
    """Points after each update, "w" [STEPS, 4, 5] and "b" [STEPS, 5]. extra(t): extra arguments of call t, from 0."""
    with jax.enable_x64(True):
        state, t = None, -1
        update = jax.jit(lambda g, s, p, more: tx.update(g, s, p, **more))

        def step(params, grads):
            nonlocal state, t
            t += 1
            state = tx.init(params) if state is None else state
            delta, state = update(grads, state, params, extra(t))
            return jax.device_get(optax.apply_updates(params, delta))

        return run(step)
