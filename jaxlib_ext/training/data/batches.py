"""Batches as pure lookups: a row depends on the seed and the global sample number alone."""

import dataclasses
import functools
import logging
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from .order import place
from .packing import Windows
from .source import Source

Rows = dict[str, np.ndarray]
log = logging.getLogger(__name__)


class Steps(Protocol):
    """What `device_batches` reads: Batches, EvalBatches, or a class of your own over any data."""

    @property
    def batch(self) -> int: ...

    @property
    def time(self) -> int: ...

    @property
    def steps(self) -> int | None:
        """How many batches there are; None: no end."""
        ...

    def rows(self, step: int, lo: int, hi: int) -> Rows:
        """Rows lo .. hi-1 of a step: dict of [hi - lo, T] arrays, the same keys every time."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Endless training batches [B, T]: step s has samples sB .. sB+B-1; every epoch has its own order."""

    source: Source
    batch: int  # B, of all processes together
    time: int  # T
    seed: int = 0
    steps = None

    def __post_init__(self):
        _positive(batch=self.batch)
        len(self.windows)  # the sequence fits the data

    @functools.cached_property
    def windows(self) -> Windows:
        """The windows in stream order; `len(windows)` samples are one epoch."""
        return Windows(self.source, self.time)

    def sample(self, i: int) -> Rows:
        """Sample i of the run, any i >= 0: dict of [T] arrays, see `Windows`."""
        return self.windows[int(place(np.array(i), len(self.windows), self.seed))]

    def rows(self, step: int, lo: int, hi: int) -> Rows:
        """Rows lo .. hi-1 of batch `step`: dict of [hi - lo, T] arrays."""
        _within(self, step, lo, hi)
        samples = step * self.batch + np.arange(lo, hi)
        return self.windows.stacked(place(samples, len(self.windows), self.seed))


@dataclasses.dataclass(frozen=True, eq=False)
class EvalBatches:
    """A fixed held-out set in stream order; rows that fill up the last batch have no true mask."""

    windows: Windows
    batch: int
    chosen: tuple[int, ...]  # windows

    def __post_init__(self):
        _positive(batch=self.batch, windows=len(self.chosen))

    @property
    def time(self) -> int:
        return self.windows.time

    @property
    def steps(self) -> int:
        return -(-len(self.chosen) // self.batch)

    def rows(self, step: int, lo: int, hi: int) -> Rows:
        """Rows lo .. hi-1 of batch `step`: dict of [hi - lo, T] arrays."""
        _within(self, step, lo, hi)
        places = step * self.batch + np.arange(lo, hi)
        real = places < len(self.chosen)
        out = self.windows.stacked(np.array(self.chosen)[np.where(real, places, 0)])
        out["mask"] = out["mask"] & real[:, None]
        return out

    def __iter__(self) -> Iterator[Rows]:
        return (self.rows(step, 0, self.batch) for step in range(self.steps))


def eval_batches(source: Source, batch: int, time: int, windows: int) -> EvalBatches:
    """`windows` windows of the source, evenly spaced, the same in every run; all, when there are fewer."""
    found = Windows(source, time)
    _positive(windows=windows)
    if windows > len(found):
        log.warning("the %s split of %s has %d windows of %d tokens, not %d: all are used",
                    source.split, source.name, len(found), time, windows)  # fmt: skip
        windows = len(found)
    return EvalBatches(found, batch, tuple(k * len(found) // windows for k in range(windows)))


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


def _within(batches: Steps, step: int, lo: int, hi: int) -> None:
    end = batches.steps
    if step < 0 or (end is not None and step >= end) or not 0 <= lo < hi <= batches.batch:
        steps = "" if end is None else f" and {end} steps"
        raise IndexError(f"rows {lo} .. {hi} of step {step}: there are {batches.batch} rows{steps}")
