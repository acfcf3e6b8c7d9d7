"""The embedded default corpus: the sources of the running Python's standard library, about 11 MB of text.

Every Python that has its library as files can train on it at once, with nothing to download. The corpus
differs between Python versions, so `describe()` records the version and a SHA-256.
"""

import functools
import os
import pathlib
import platform
import sysconfig

from .source import Document, Source, byte_sources, share, split_names

FILE_LIMIT = 200_000  # bytes; longer files are tables rather than programs
LIMIT = 12_000_000  # bytes of all files together
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload"}


def documents(root: str | None = None) -> list[Document]:
    """Every library source under root (the running Python's library), ordered by relative path.

    The `config-*` folder and `_sysconfigdata*` are left out: the build writes them, so they differ between
    machines. Raises FileNotFoundError when there are no sources, as in a zipped or stripped installation.
    """
    folder = pathlib.Path(root or sysconfig.get_path("stdlib"))
    sizes = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith("config-")]
        for name in files:
            path = pathlib.Path(place, name)
            if name.endswith(".py") and not name.startswith("_sysconfigdata") and path.is_file():
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    names = capped({name: size for name, size in sizes.items() if 0 < size <= FILE_LIMIT}, LIMIT)
    if len(names) < 2:
        raise FileNotFoundError(
            f"no library sources under {folder} (a zipped or stripped Python): name a text file or a folder"
        )
    split = split_names(names)
    return [Document(name, split[name], sizes[name], (folder / name).read_bytes) for name in names]


def capped(sizes: dict[str, int], limit: int) -> list[str]:
    """Names in order, of sizes that sum to at most limit. A hash decides who goes, not the alphabet.

    >>> capped(dict(a=2, b=2, c=2), 6), len(capped(dict(a=2, b=2, c=2), 5))
    (['a', 'b', 'c'], 2)
    """
    kept, total = [], 0
    for name in sorted(sizes, key=lambda name: (share(name), name)):
        total += sizes[name]
        if total > limit:
            break
        kept.append(name)
    return sorted(kept)


@functools.lru_cache(maxsize=1)
def sources() -> dict[str, Source]:
    """Both splits, read once in a process."""
    return byte_sources("stdlib", documents(), python=platform.python_version())
