"""Timing of things that take turns, and the ratios of their times."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Ratio(NamedTuple):
    """Median over the turns and its 95% interval (4000 bootstrap draws)."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes, to the end of the computation."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def in_turns(forms: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Seconds of every form in every turn, in an order drawn anew for each: a drift of the machine hits all alike, and
    so does what one form leaves to the next. The first turn, which may compile, does not count."""
    took, rng = {name: [] for name in forms}, np.random.default_rng(0)
    for _ in range(turns + 1):
        for name in rng.permutation(list(forms)):
            took[name].append(seconds(forms[name]))
    return {name: row[1:] for name, row in took.items()}


def median_of(values: Iterable[float]) -> Ratio:
    values = np.array(list(values))
    medians = np.median(np.random.default_rng(0).choice(values, (4000, len(values))), 1)
    return Ratio(statistics.median(values.tolist()), *np.percentile(medians, [2.5, 97.5]).tolist())


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """Median of over / under, of the same turn."""
    return median_of(a / b for a, b in zip(over, under, strict=True))
