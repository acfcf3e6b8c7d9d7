"""Made-up tasks that tell architectures apart: recall, induction, copying, keeping track of a state.

    task = make_task("mqar(pairs=8)")
    batch = task.sample(jax.random.key(0), 64)      # for losses.next_token: tokens, targets, mask

A task is a frozen dataclass, and `sample` a pure function of a key that may be jitted, so batches are made where they
are used and are the same on every machine. Every target follows from tokens at or before it; `mask` says which
positions have one, and the targets elsewhere are 0.
"""

import dataclasses
import functools
import itertools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from ...registry import make

Array = jax.Array


@runtime_checkable
class Task(Protocol):
    """time T: tokens of a row. vocab: symbols, of tokens and targets together."""

    time: int
    vocab: int

    def sample(self, key: Array, batch: int) -> dict[str, Array]:
        """tokens int32 [B, T], targets int32 [B, T], mask bool [B, T]."""
        ...


def _check(name: str, holds: bool, said: str) -> None:
    if not holds:
        raise ValueError(f"{name}: {said}")


def _uniform(key: Array, batch: int, *sizes: int) -> list[Array]:
    """Numbers in [0, 1), [B, size] for each size, of one draw: all else is made of them."""
    return jnp.split(jax.random.uniform(key, (batch, sum(sizes))), np.cumsum(sizes)[:-1].tolist(), 1)


def _below(u: Array, n: int) -> Array:
    """Uniform integers 0 .. n-1."""
    return (u * n).astype(jnp.int32)


def _batch(tokens: Array, targets: Array, mask: Array) -> dict[str, Array]:
    targets = jnp.where(mask, targets, 0)
    return dict(tokens=tokens.astype(jnp.int32), targets=targets.astype(jnp.int32), mask=mask)


@dataclasses.dataclass(frozen=True)
class Mqar:
    """Multi-query associative recall: N pairs k1 v1 ... kN vN, then every key once more; its target is its value.

        2 8 4 7 0 0 4 0 0 0 0 0 2 0 0 0        tokens: time=16, vocab=12, pairs=2, filler="blank"
                    7           8              targets

    Keys are N distinct symbols of 1 .. V/2 - 1, values of V/2 .. V - 1. Keys return at every other place, at distances
    g with p(g) ~ g^(power - 1): 0.01 is heavy at short ones, 1 uniform. filler: what stands between them, "random" or
    "blank" (0). source: Arora et al. 2023 (Zoology), arXiv 2312.04927; code HazyResearch/zoology. Departs: random
    filler is never one of the row's keys, which with few symbols would often bind a key a second time.
    """

    time: int = 64
    vocab: int = 128
    pairs: int = 4
    power: float = 0.01
    filler: str = "random"

    def __post_init__(self):
        _check("mqar", 1 <= self.pairs <= self.vocab // 2 - 1, f"pairs={self.pairs} needs 1 to vocab/2 - 1 pairs")
        _check("mqar", self.time >= 4 * self.pairs, f"time={self.time} has no room for 4 tokens a pair")
        _check("mqar", self.time % 2 == 0, f"time={self.time} must be even")
        _check("mqar", self.power > 0, f"power must be positive, not {self.power}")
        _check("mqar", self.filler in ("random", "blank"), f'filler is "random" or "blank", not {self.filler!r}')

    def sample(self, key: Array, batch: int) -> dict[str, Array]:
        n, half, t = self.pairs, self.vocab // 2, self.time
        places = (t - 2 * n) // 2
        for_keys, for_values, for_gaps, for_filler = _uniform(key, batch, half - 1, self.vocab - half, places, t)
        order = 1 + jnp.argsort(for_keys, 1)
        keys, values = order[:, :n], half + jnp.argsort(for_values, 1)[:, :n]
        # Distinct places in proportion to p: the largest of log p plus Gumbel noise.
        weight = (self.power - 1) * jnp.log(jnp.arange(1.0, places + 1))[None] - jnp.log(-jnp.log(for_gaps))
        at = jnp.arange(batch)[:, None], 2 * n + 2 * jax.lax.top_k(weight, n)[1]
        tokens = jnp.zeros((batch, t), order.dtype)
        if self.filler == "random":
            others = jnp.arange(half, self.vocab, dtype=order.dtype)[None].repeat(batch, 0)
            others = jnp.concatenate([tokens[:, :1], order[:, n:], others], 1)
            tokens = jnp.take_along_axis(others, _below(for_filler, others.shape[1]), 1)
        pairs = jnp.stack([keys, values], 2).reshape(batch, 2 * n)
        tokens = tokens.at[:, : 2 * n].set(pairs).at[at].set(keys)
        mask = jnp.zeros(tokens.shape, bool).at[at].set(True)
        return _batch(tokens, jnp.zeros_like(tokens).at[at].set(values), mask)


@dataclasses.dataclass(frozen=True)
class Induction:
    """T/2 distinct symbols, then the same ones turned by a random number of places; the target of a symbol in the
    second part is what followed it in the first.

    So what helps is finding the symbol, not a fixed distance. The last symbol of the first part has no target. source:
    the repeated random tokens of Olsson et al. 2022, arXiv 2209.11895. Departs: they are not turned there, and may
    hold a symbol twice.
    """

    time: int = 64
    vocab: int = 128

    def __post_init__(self):
        _check("induction", self.time >= 4 and self.time % 2 == 0, f"time={self.time} must be even and at least 4")
        _check("induction", self.vocab >= self.time // 2, f"vocab={self.vocab} is less than time/2 distinct symbols")

    def sample(self, key: Array, batch: int) -> dict[str, Array]:
        n = self.time // 2
        for_symbols, for_turn = _uniform(key, batch, self.vocab, 1)
        first = jnp.argsort(for_symbols, 1)[:, :n]
        place = (jnp.arange(n)[None] + _below(for_turn, n)) % n  # of each symbol of the second part in the first
        second, after = (jnp.take_along_axis(first, i, 1) for i in (place, (place + 1) % n))
        mask = jnp.concatenate([jnp.zeros(place.shape, bool), place < n - 1], 1)
        return _batch(jnp.concatenate([first, second], 1), jnp.concatenate([first, after], 1), mask)


@dataclasses.dataclass(frozen=True)
class SelectiveCopying:
    """N symbols at random places among blanks, then N markers; the target at the n-th marker is the n-th symbol.

    Blank is 0, the marker is V - 1. The blanks between symbols are of random number, so a fixed filter does not do.
    source: Gu and Dao 2023 (Mamba), arXiv 2312.00752, section 4.1.1, after Jing et al. 2017, arXiv 1706.02761.
    Departs: none known; the defaults are small.
    """

    time: int = 64
    vocab: int = 16
    symbols: int = 8

    def __post_init__(self):
        _check("selective_copying", self.vocab >= 4, f"vocab={self.vocab} has fewer than 2 symbols to copy")
        _check("selective_copying", 1 <= self.symbols <= self.time // 2,
               f"symbols={self.symbols} and as many markers do not fit into time={self.time}")  # fmt: skip

    def sample(self, key: Array, batch: int) -> dict[str, Array]:
        n, body = self.symbols, self.time - self.symbols
        for_symbols, for_places = _uniform(key, batch, n, body)
        symbols = 1 + _below(for_symbols, self.vocab - 2)
        places = jnp.sort(jnp.argsort(for_places, 1)[:, :n], 1)
        tokens = jnp.full((batch, self.time), self.vocab - 1).at[:, :body].set(0)
        tokens = tokens.at[jnp.arange(batch)[:, None], places].set(symbols)
        targets = jnp.zeros_like(tokens).at[:, body:].set(symbols)
        return _batch(tokens, targets, (jnp.arange(self.time) >= body)[None].repeat(batch, 0))


@functools.cache
def group(name: str) -> np.ndarray:
    """The multiplication table [n, n] of a finite group, element 0 the identity: "z2", "z60" (cyclic), "s3", "s5" (all
    permutations), "a5" (even ones). table[a, b] is a after b.

    >>> group("z3").tolist()
    [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    """
    kind, n = name[:1], int(name[1:]) if name[1:].isdigit() else 0
    if not ((kind == "z" and 2 <= n <= 512) or (kind in ("s", "a") and 3 <= n <= 5)):
        raise ValueError(f"word: group is z2 to z512, s3 to s5 or a3 to a5, not {name!r}")
    if kind == "z":
        return np.add.outer(np.arange(n), np.arange(n)) % n
    elements = list(itertools.permutations(range(n)))
    if kind == "a":
        odd = lambda p: sum(p[i] > p[j] for i, j in itertools.combinations(range(n), 2)) % 2
        elements = [p for p in elements if not odd(p)]
    index = {p: i for i, p in enumerate(elements)}
    return np.array([[index[tuple(a[i] for i in b)] for b in elements] for a in elements])


@dataclasses.dataclass(frozen=True)
class Word:
    """The word problem of a group: tokens are elements, the target is the product of all so far, at every place.

    "z2" is parity; "a5" and "s5" are not solvable, so that no circuit of constant depth with threshold gates is known
    to do it. source: Merrill, Petty and Sabharwal 2024, arXiv 2404.08819. Departs: none.
    """

    time: int = 64
    group: str = "s5"

    def __post_init__(self):
        group(self.group)
        _check("word", self.time >= 1, f"time={self.time} must be at least 1")

    @property
    def vocab(self) -> int:
        return len(group(self.group))

    def sample(self, key: Array, batch: int) -> dict[str, Array]:
        table = jnp.asarray(group(self.group), jnp.int32)
        tokens = jax.random.randint(key, (batch, self.time), 0, self.vocab, jnp.int32)
        targets = jax.lax.associative_scan(lambda earlier, later: table[later, earlier], tokens, axis=1)
        return _batch(tokens, targets, jnp.ones(tokens.shape, bool))


TASKS = {"mqar": Mqar, "induction": Induction, "selective_copying": SelectiveCopying, "word": Word}


def make_task(spec: str, **defaults) -> Task:
    """The task of "mqar(pairs=8)"; package.module:Name is one of your own. defaults: where the spec gives none."""
    return make(spec, TASKS, "task", **defaults)
