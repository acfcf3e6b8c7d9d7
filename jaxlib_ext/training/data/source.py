"""One split of a corpus as a stream of tokens, and how documents of bytes become one.

Bytes are tokens (vocabulary 256) and byte 0 stands before every document. The last byte of a document then
predicts the 0 of the next one, so every target of the stream means something. A file that holds a zero byte
itself is not text: it is left out and named in `describe()`.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

SPLITS = ("train", "eval")
EVAL_SHARE = 0.05  # of the documents of a corpus, or of the bytes of a single file

log = logging.getLogger(__name__)


class Document(NamedTuple):
    """One document before it is read."""

    name: str
    split: str  # "train" or "eval"
    size: int  # bytes, nearly: for progress only
    read: Callable[[], bytes]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One split of a corpus: tokens side by side, and where the documents begin.

    tokens: [N] unsigned integers of any width, in memory or memory-mapped. bounds: uint64, positions of the
    documents' first tokens, rising, the first is 0.

    >>> tokens, bounds = np.array([0, 7, 8, 0, 9], np.uint8), np.array([0, 3], np.uint64)
    >>> source = Source("demo", "train", tokens, bounds, vocab=256)
    >>> source.read(1, 4).tolist(), source.starts(1, 4).tolist()
    ([7, 8, 0], [False, False, True])
    """

    name: str  # stands in error messages: a path, or "stdlib"
    split: str
    tokens: np.ndarray
    bounds: np.ndarray
    vocab: int
    marked: bool = True  # a marker begins every document, so a target beyond a boundary means something
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start .. stop-1 as int32. Raises ValueError for an id beyond the vocabulary."""
        self._within(start, stop)
        tokens = self.tokens[start:stop]
        # Bytes need no look: no id that fits the type can be beyond the vocabulary.
        if np.iinfo(tokens.dtype).max >= self.vocab and tokens.size and tokens.max() >= self.vocab:
            at = int(np.argmax(tokens >= self.vocab))
            raise ValueError(
                f"{self.name}: token {start + at} has id {tokens[at]}, beyond the vocabulary of {self.vocab}"
            )
        return tokens.astype(np.int32)

    def starts(self, start: int, stop: int) -> np.ndarray:
        """bool [stop - start]: which of these tokens begin a document."""
        self._within(start, stop)
        # A key of the table's own type: numpy would otherwise convert the whole table to float64.
        first, last = np.searchsorted(self.bounds, np.array([start, stop], self.bounds.dtype))
        out = np.zeros(stop - start, bool)
        out[self.bounds[first:last].astype(np.int64) - start] = True
        return out

    def describe(self) -> dict[str, Any]:
        """What the run's record keeps of its data: plain values only."""
        return dict(
            source=self.name, split=self.split, tokens=self.size, documents=len(self.bounds),
            vocab=self.vocab, marked=self.marked, **self.about,
        )  # fmt: skip

    def _within(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.size:
            raise IndexError(f"{self.name}: tokens {start} .. {stop} of {self.size} in this split")


def share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone: it decides who is held out, or goes when capped."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def split_names(names: Iterable[str]) -> dict[str, str]:
    """Name -> split, about EVAL_SHARE of them held out; of two names or more each split gets at least one."""
    ranked = sorted(names, key=lambda name: (share(name), name))
    held = sum(share(name) < EVAL_SHARE for name in ranked)
    held = min(max(held, 1), len(ranked) - 1)
    return {name: "eval" if place < held else "train" for place, name in enumerate(ranked)}


def read_documents(documents: Iterable[Document]) -> Iterable[tuple[Document, bytes, str]]:
    """(document, its bytes, why it is left out or ""), one at a time; empty ones are passed over."""
    for document in documents:
        try:
            content = document.read()
        except OSError as error:
            name = error.filename or document.name
            raise OSError(f"cannot read {name}: {error.strerror or error}") from None
        if content:
            yield document, content, "holds zero bytes, which mark documents" if b"\0" in content else ""


def byte_sources(name: str, documents: Sequence[Document], **about: Any) -> dict[str, Source]:
    """Both splits of a corpus of bytes, held in memory.

    describe() then has the number of files, their bytes without markers, the SHA-256 of all documents in
    order with the zero byte before each, and the names of files that were left out.
    """
    parts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    digest, files, left_out = hashlib.sha256(), set(), []
    for document, content, fault in read_documents(documents):
        if fault:
            left_out.append(document.name)
            log.warning("%s is left out: it %s", document.name, fault)
            continue
        files.add(document.name)
        parts[document.split].append(content)
        digest.update(b"\0" + content)
    if not files and not left_out:
        raise ValueError(f"{name} is empty")
    for split in SPLITS:
        if not parts[split]:
            why = f"{left_out[0]} holds zero bytes, which mark documents" if left_out else "too little text"
            raise ValueError(f"no {split} split of {name}: {why}")
    size = sum(len(content) for contents in parts.values() for content in contents)
    about |= dict(files=len(files), bytes=size, sha256=digest.hexdigest(), left_out=left_out)
    return {split: _byte_source(name, split, parts[split], about) for split in SPLITS}


def _byte_source(name: str, split: str, contents: list[bytes], about: dict[str, Any]) -> Source:
    sizes = np.array([0, *(len(content) + 1 for content in contents)], np.uint64)
    stream = b"".join(piece for content in contents for piece in (b"\0", content))
    tokens = np.frombuffer(stream, np.uint8)
    return Source(name, split, tokens, np.cumsum(sizes)[:-1], vocab=256, about=about)
