"""Text files as a corpus of bytes: one file, or all `*.txt`, `*.md` and `*.py` under a folder.

In a folder one file is one document, and about 5% of the files, by a hash of their relative path, are held
out. Of a single file the last 5% are held out, cut at the end of a line where there is one near. Local or on
gs://.
"""

import functools
import os
from typing import Any

from .source import EVAL_SHARE, Document, Source, byte_sources, split_names

SUFFIXES = (".txt", ".md", ".py")


def documents(path: str) -> list[Document]:
    """The documents of a file or a folder, ordered by relative path.

    Raises FileNotFoundError or ValueError, in one line that names the path, when there is nothing to read.
    """
    found = _files(path)
    sizes = {name: stat.length for name, stat in _stats(found).items()}
    if len(found) == 1:
        return [half for name in found for half in _halves(name, sizes[name], found[name])]
    split = split_names(found)
    return [Document(name, split[name], sizes[name], found[name].read_bytes) for name in found]


def _files(path: str) -> dict[str, Any]:
    """Name -> path of the one file, or of every text file under the folder; hidden ones are passed over."""
    from etils import epath

    top = epath.Path(path).expanduser()
    if not top.exists():
        raise FileNotFoundError(f"no such data: {path} (stdlib, a text file, a folder of text or of tokens)")
    if not top.is_dir():
        return {path: top}

    def fail(error: OSError):
        raise OSError(f"cannot read {error.filename}: {error.strerror}")

    # os.walk passes over a folder that it may not list; no part of a corpus must go missing without a word.
    walk = top.walk() if "://" in path else os.walk(top, onerror=fail)
    inside = (epath.Path(place) / name for place, _, names in walk for name in names)
    found = {file.relative_to(top).as_posix(): file for file in inside if file.suffix in SUFFIXES}
    found = {name: file for name, file in sorted(found.items()) if "/." not in f"/{name}"}
    if not found:
        raise ValueError(f"no {', '.join('*' + suffix for suffix in SUFFIXES)} in the folder {path}")
    return found


def _stats(found: dict[str, Any]) -> dict[str, Any]:
    try:
        return {name: file.stat() for name, file in found.items()}
    except OSError as error:
        raise OSError(f"cannot read {error.filename}: {error.strerror}") from None


def _halves(name: str, size: int, path: Any) -> list[Document]:
    content = functools.cache(path.read_bytes)

    def cut() -> int:
        exact = int(len(content()) * (1 - EVAL_SHARE))
        return content().rfind(b"\n", int(exact * 0.9), exact) + 1 or exact

    return [
        Document(name, "train", int(size * (1 - EVAL_SHARE)), lambda: content()[: cut()]),
        Document(name, "eval", int(size * EVAL_SHARE), lambda: content()[cut() :]),
    ]


def sources(path: str) -> dict[str, Source]:
    """Both splits, read once in a process as long as no file under the path changes."""
    stats = _stats(_files(path))
    return _read(path, tuple((name, stat.length, stat.mtime) for name, stat in stats.items()))


@functools.lru_cache(maxsize=2)
def _read(path: str, signature: tuple) -> dict[str, Source]:
    return byte_sources(path, documents(path))
