"""Training: data, state, step, loop, checkpoints and metrics."""
