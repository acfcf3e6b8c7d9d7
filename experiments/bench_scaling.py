"""Speed of scaling-law fits: one multi-start fit, and thousands of bootstrap refits.

    python experiments/bench_scaling.py

On losses simulated from a known law. Prints seconds cold (with compilation) and warm (the least of several). Give it an
idle machine: a second process on the same cores doubles the times.
"""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np
import tyro

from jaxlib_ext import scaling

TRUE = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured."""

    runs: int = 240
    refits: int = 4000
    turns: int = 5
    noise: float = 0.01
    """Standard deviation of the log loss."""


def simulated(bench: Bench) -> scaling.Data:
    """Runs at random sizes and ratios of tokens to parameters."""
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(np.log(5e7), np.log(1.6e10), bench.runs))
    x = dict(N=n, D=n * np.exp(rng.uniform(np.log(2), np.log(200), bench.runs)))
    loss = scaling.law_value(scaling.LAWS["chinchilla"](), TRUE, x)
    return scaling.Data(x, loss * np.exp(bench.noise * rng.standard_normal(bench.runs)))


def report(name: str, run: Callable[[int], object], turns: int) -> None:
    took = []
    for i in range(turns + 1):
        begin = time.perf_counter()
        run(i)
        took.append(time.perf_counter() - begin)
    print(f"{name:28s} cold {took[0]:7.2f} s   warm {min(took[1:]):7.3f} s", flush=True)


def main() -> None:
    bench = tyro.cli(Bench, description=__doc__)
    data = simulated(bench)
    report("multi-start fit", lambda i: scaling.fit("chinchilla", data, key=jax.random.key(i)), bench.turns)
    fit = scaling.fit("chinchilla", data)
    weights = np.random.default_rng(1).multinomial(bench.runs, np.full(bench.runs, 1 / bench.runs), bench.refits)
    weights = weights.astype(np.float64)
    report(f"{bench.refits} bootstrap refits", lambda _: scaling.refit(fit, w=weights), bench.turns)


if __name__ == "__main__":
    main()
