"""Concatenate and cut: window k of a stream is its tokens [kT, kT + T], the last one a target only.

Documents run on from one window into the next, no token is lost and none is padding, and any window is a
lookup.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from .source import Source


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """The windows of a stream in order. Has length and lookup, so it is a source for grain.MapDataset too.

    >>> tokens = np.array([0, 7, 8, 0, 9, 5, 5], np.uint8)
    >>> windows = Windows(Source("demo", "train", tokens, np.array([0, 3], np.uint64), vocab=256), time=3)
    >>> len(windows), windows[0]["tokens"].tolist(), windows[0]["targets"].tolist()
    (2, [0, 7, 8], [7, 8, 0])
    """

    source: Source
    time: int  # T

    def __post_init__(self):
        if self.time < 1:
            raise ValueError(f"a sequence needs at least 1 token, not {self.time}")
        if len(self) < 1:
            raise ValueError(
                f"a sequence of {self.time} tokens is longer than the data: the {self.source.split} split of "
                f"{self.source.name} has {self.source.size} tokens, and {self.time + 1} are needed"
            )

    def __len__(self) -> int:
        return (self.source.size - 1) // self.time

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """dict of [T] arrays: tokens and targets int32, start and mask bool.

        start: the token begins a document, or the window. mask: the target counts in the loss; it does not
        where a document ends and no marker makes the next one's first token meaningful as a target.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        begin = int(index) * self.time
        tokens = self.source.read(begin, begin + self.time + 1)
        start = self.source.starts(begin, begin + self.time + 1)
        mask = np.ones(self.time, bool) if self.source.marked else ~start[1:]
        start[0] = True
        return dict(tokens=tokens[:-1], targets=tokens[1:], start=start[:-1], mask=mask)

    def stacked(self, ks: Iterable[int]) -> dict[str, np.ndarray]:
        """The same of several windows: dict of [len(ks), T] arrays."""
        rows = [self[k] for k in ks]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
