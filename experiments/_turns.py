"""Timing of things that take turns, and the ratios of their times."""

import statistics
import time
from collections.abc import Callable, Iterable
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
    """Of a call, until what it returns is there."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def in_turns(forms: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Seconds of every form in every turn. Each turn begins with another form, so a drift of the machine hits all
    alike; the first, which may compile, does not count."""
    names, took = list(forms), {name: [] for name in forms}
    for turn in range(turns + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            took[name].append(seconds(forms[name]))
    return {name: row[1:] for name, row in took.items()}


def median_of(values: Iterable[float]) -> Ratio:
    values = np.array(list(values))
    medians = np.median(np.random.default_rng(0).choice(values, (4000, len(values))), 1)
    return Ratio(statistics.median(values.tolist()), *np.percentile(medians, [2.5, 97.5]).tolist())


def ratio(over: list[float], under: list[float]) -> Ratio:
    """Median of over / under, of the same turn."""
    return median_of(a / b for a, b in zip(over, under, strict=True))
