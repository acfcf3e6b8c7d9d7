"""From rows on the host to arrays on the devices, a few steps ahead, in one background thread."""

import sys
import weakref
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from .batches import Steps

Arrays = dict[str, jax.Array]


def device_batches(
    batches: Steps, start_step: int = 0, sharding: Sharding | None = None, prefetch: int = 2
) -> "DeviceBatches":
    """An iterator of global arrays [B, T], from start_step on; close it, or use it in a `with`.

    sharding: of a [B, T] array; each process reads only the rows that its own devices hold. None: the whole
    batch on the default device. prefetch: how many batches are kept ready on the devices beside the one in
    use; 0 uses no thread. Raises ValueError when the batch does not divide over the mesh, before anything is
    read.
    """
    return DeviceBatches(batches, start_step, sharding, prefetch)


class DeviceBatches(Iterator[Arrays]):
    """See `device_batches`. A failure in the thread is raised by the `next` that would have had the batch."""

    def __init__(self, batches: Steps, start_step: int, sharding: Sharding | None, prefetch: int):
        import grain

        if start_step < 0 or prefetch < 0:
            raise ValueError(f"start_step {start_step} and prefetch {prefetch} must be at least 0")
        _divides(batches, sharding)
        steps = _FromStep(batches, start_step, sharding)
        plain = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        ahead = grain.experimental.ThreadPrefetchIterDataset(
            grain.MapDataset.source(steps).to_iter_dataset(plain), prefetch_buffer_size=prefetch
        )
        # Only this list and this object hold the iterator, and the thread holds neither: whoever forgets to
        # close it leaves no thread behind, neither while the program runs nor when the interpreter ends.
        self._open = [iter(ahead)]
        self._finish = weakref.finalize(self, _close, self._open)

    def __next__(self) -> Arrays:
        if not self._open:
            raise ValueError("these batches were closed")
        return next(self._open[0])

    def close(self) -> None:
        """Stops the thread and waits for it; more calls do nothing."""
        self._finish()

    def __enter__(self) -> "DeviceBatches":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def _close(opened: list) -> None:
    while opened:
        opened.pop().close()


def _divides(batches: Steps, sharding: Sharding | None) -> None:
    shape = (batches.batch, batches.time)
    try:
        if sharding is not None:
            sharding.shard_shape(shape)
    except ValueError:
        raise ValueError(
            f"a batch of {shape[0]} sequences of {shape[1]} tokens does not divide over {sharding}"
        ) from None


class _FromStep:
    """Batches placed on the devices, by step: a grain source."""

    def __init__(self, batches: Steps, first: int, sharding: Sharding | None):
        self.batches, self.first, self.sharding = batches, first, sharding

    def __len__(self) -> int:
        end = sys.maxsize if self.batches.steps is None else self.batches.steps
        return max(0, end - self.first)

    def __getitem__(self, index: int) -> Arrays:
        return _placed(self.batches, self.first + index, self.sharding)


def _placed(batches: Steps, step: int, sharding: Sharding | None) -> Arrays:
    if sharding is None:
        return jax.device_put(batches.rows(step, 0, batches.batch))
    shape = (batches.batch, batches.time)
    read: dict[tuple[int, int], dict[str, np.ndarray]] = {}

    def part(index: Any) -> dict[str, np.ndarray]:
        lo, hi, _ = index[0].indices(batches.batch)
        if (lo, hi) not in read:  # devices that differ in time alone have their rows in common
            read[lo, hi] = batches.rows(step, lo, hi)
        return {name: value[:, index[1]] for name, value in read[lo, hi].items()}

    names = list(part(next(iter(sharding.addressable_devices_indices_map(shape).values()))))
    return {
        name: jax.make_array_from_callback(shape, sharding, lambda index, name=name: part(index)[name])
        for name in names
    }
