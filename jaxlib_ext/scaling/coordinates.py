"""Coordinate check: does the size of activations depend on width?

    slope of log rms of a layer's activations against log width, after each step of training

Under muP every slope is near 0, whatever the step; under the standard parametrisation some grow or fade with width.

>>> check = coordinate_check(lambda width: dict(stays=[1.0, 1.1], grows=[1.0, width**0.5]), widths=(64, 256, 1024))
>>> check.worst(), check.within(0.1)
(('grows', 1, 0.5), False)

source: Yang et al. 2022, arXiv 2203.03466, appendix D.1
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """rms: [widths, steps + 1, layers], before the first step and after each. Without unit."""

    widths: tuple[int, ...]
    layers: tuple[str, ...]
    rms: np.ndarray

    @property
    def slopes(self) -> np.ndarray:
        """[steps + 1, layers]: least squares of log rms on log width; nan where an activation is 0 or not finite."""
        x = np.log(self.widths)
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.log(self.rms)
            y = np.where(np.isfinite(y), y, np.nan)
            return np.tensordot(x - x.mean(), y, (0, 0)) / np.sum((x - x.mean()) ** 2)

    def worst(self, first: int = 1) -> tuple[str, int, float]:
        """(layer, step, slope) of the largest slope in size, from step `first` on; nan counts as the largest."""
        size = np.abs(self.slopes[first:])
        step, layer = np.unravel_index(np.argmax(np.where(np.isnan(size), np.inf, size)), size.shape)
        return self.layers[layer], int(step) + first, round(float(self.slopes[first + step, layer]), 4)

    def within(self, limit: float = 0.1, first: int = 1) -> bool:
        """Whether every slope from step `first` on is at most limit in size."""
        return abs(self.worst(first)[2]) <= limit

    def __str__(self) -> str:
        """One line a layer: its slopes at the start, after the first and after the last step, and the largest."""
        name = max(map(len, self.layers))
        lines = [f"{'slope of log rms on log width':{name}}  {'start':>7} {'step 1':>7} {'last':>7} {'largest':>8}"]
        for i, layer in enumerate(self.layers):
            s = self.slopes[:, i]
            largest = s[1:][np.argmax(np.where(np.isnan(s[1:]), np.inf, np.abs(s[1:])))]
            lines.append(f"{layer:{name}}  {s[0]:+7.3f} {s[1]:+7.3f} {s[-1]:+7.3f} {largest:+8.3f}")
        return "\n".join(lines)


def coordinate_check(measure: Callable[[int], Mapping[str, Sequence[float]]], widths: Sequence[int]) -> Coordinates:
    """Runs measure(width) -> {layer: root mean square before training and after each step} for every width.

    `experiments/coord_check.py` has a measure for language models; `kernels.linear.tapped` sees into any other.
    """
    if len(set(widths)) < 2:
        raise ValueError(f"a slope needs at least two widths, not {list(widths)}")
    found = [measure(width) for width in widths]
    layers = tuple(found[0])
    for width, one in zip(widths, found, strict=True):
        if tuple(one) != layers or len({len(v) for v in one.values()} | {len(found[0][layers[0]])}) > 1:
            raise ValueError(f"width {width} has other layers or steps than width {widths[0]}")
    if len(found[0][layers[0]]) < 2:
        raise ValueError("measure returns one number before training and one after each step, so at least two")
    rms = np.array([[one[layer] for layer in layers] for one in found], float)
    return Coordinates(tuple(widths), layers, np.swapaxes(rms, 1, 2))
