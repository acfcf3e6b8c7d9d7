"""From the name of a corpus on a command line to a `Source`."""

from . import stdlib, text, tokens
from .source import SPLITS, Document, Source


def open_source(spec: str, split: str = "train") -> Source:
    """Opens one split ("train" or "eval") of a corpus.

    spec: "stdlib", or a path, local or gs://: a text file, a folder of text files, or a folder with a
    meta.json, as experiments/make_tokens.py writes it. Opening the second split of a corpus reads nothing
    again. Raises ValueError or OSError (FileNotFoundError) with one line that names the path.

    >>> source = open_source("stdlib", "eval")
    >>> source.vocab, source.marked, source.read(0, 1).tolist(), source.starts(0, 1).tolist()
    (256, True, [0], [True])
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; splits are {' and '.join(SPLITS)}")
    if spec == "stdlib":
        return stdlib.sources()[split]
    return tokens.source(spec, split) if tokens.is_tokens(spec) else text.sources(spec)[split]


def documents(spec: str) -> list[Document]:
    """The documents of "stdlib" or of a path to text, each still to be read. Raises like `open_source`."""
    return stdlib.documents() if spec == "stdlib" else text.documents(spec)
