"""Which window sample i reads: a pseudo-random permutation of the windows for every epoch, as a pure lookup.

A Feistel cipher over the smallest even number of bits that holds n, walked until it lands below n (Black and
Rogaway, 2002, "Ciphers with arbitrary finite domains"). Constant memory, any i at once, and part of this
package: a run that resumes after another library was upgraded still sees the batches that it would have seen.
The keys come from a hash of seed and epoch together, so epoch 1 of seed 0 is not epoch 0 of seed 1.
"""

import functools
import hashlib

import numpy as np

ROUNDS = 6


def place(samples: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Sample numbers, any shape, each at least 0 -> windows 0 .. n-1, int64. An epoch is n samples.

    >>> sorted(place(np.arange(5), n=5, seed=0).tolist())
    [0, 1, 2, 3, 4]
    """
    samples = np.asarray(samples, np.int64)
    if n < 1 or samples.min(initial=0) < 0:
        raise ValueError(f"samples start at 0 and n at 1, not at {samples.min(initial=0)} and {n}")
    epochs, within = samples // n, samples % n
    out = np.empty(samples.shape, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        out[here] = _permuted(within[here].astype(np.uint64), n, _keys(seed, int(epoch)))
    return out


@functools.lru_cache(maxsize=64)
def _keys(seed: int, epoch: int) -> tuple[np.uint64, ...]:
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8 * ROUNDS).digest()
    return tuple(np.frombuffer(digest, "<u8").astype(np.uint64))


def _permuted(x: np.ndarray, n: int, keys: tuple[np.uint64, ...]) -> np.ndarray:
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    x = _feistel(x, half, keys)
    while (beyond := x >= n).any():
        x[beyond] = _feistel(x[beyond], half, keys)
    return x.astype(np.int64)


def _feistel(x: np.ndarray, half: np.uint64, keys: tuple[np.uint64, ...]) -> np.ndarray:
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & low
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & low)
    return (left << half) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64; products wrap at 64 bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
