"""Tokens made beforehand: a folder of memory-mapped files, opened in no time whatever their size.

    meta.json          schema, dtype, vocab, begin, tokenizer, splits (see `Meta`)
    train.bin          token ids side by side, little-endian uint16 or uint32
    train.bounds.npy   uint64, where each document begins
    eval.bin, eval.bounds.npy

A folder on gs:// is copied once to the local cache (XDG_CACHE_HOME or ~/.cache), since only local files can
be mapped.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from .source import SPLITS, Source

SCHEMA = 1
DTYPES = ("uint16", "uint32")


@dataclasses.dataclass(frozen=True)
class Meta:
    """The content of meta.json. Raises ValueError for what could not have been written by `dump`."""

    dtype: str  # "uint16" or "uint32"
    vocab: int  # ids are below it
    begin: int | None  # the id that stands before every document, or None
    tokenizer: str  # SHA-256 of the tokenizer's JSON file
    splits: dict[str, dict[str, Any]]  # "train", "eval" -> tokens, documents, sha256 of the .bin file
    source: str = ""  # what was encoded
    schema: int = SCHEMA

    def __post_init__(self):
        if self.schema != SCHEMA:
            raise ValueError(f"schema {self.schema} is unknown here; this version reads schema {SCHEMA}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {' or '.join(DTYPES)}, not {self.dtype!r}")
        most = 2 ** min(31, 8 * np.dtype(self.dtype).itemsize)  # batches are int32
        if not isinstance(self.vocab, int) or not 1 <= self.vocab <= most:
            raise ValueError(f"a vocabulary of {self.vocab!r} ids is not within 1 .. {most} for {self.dtype}")
        if self.begin is not None and (not isinstance(self.begin, int) or not 0 <= self.begin < self.vocab):
            raise ValueError(f"the begin token {self.begin!r} is beyond the vocabulary of {self.vocab}")
        for split in SPLITS:
            if not isinstance(self.splits[split]["tokens"], int):
                raise ValueError(f"the number of tokens of {split!r} is {self.splits[split]['tokens']!r}")

    def dump(self) -> str:
        """The text of meta.json."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def is_tokens(path: str) -> bool:
    """Whether the path is a folder with a meta.json."""
    from etils import epath

    return (epath.Path(path).expanduser() / "meta.json").exists()


def load_meta(path: str) -> Meta:
    """Reads meta.json. Raises ValueError, or OSError, naming the file."""
    from etils import epath

    file = epath.Path(path).expanduser() / "meta.json"
    try:
        return Meta(**json.loads(file.read_text()))
    except OSError as error:
        raise OSError(f"cannot read {file}: {error.strerror or error}") from None
    except KeyError as error:
        raise ValueError(f"cannot use {file}: {error} is missing under splits") from None
    except (ValueError, TypeError) as error:  # broken JSON is a ValueError, a missing field a TypeError
        raise ValueError(f"cannot use {file}: {str(error).removeprefix('Meta.__init__() ')}") from None


def source(path: str, split: str) -> Source:
    """One split of a token folder, memory-mapped."""
    meta = load_meta(path)
    folder = _local(path, split, meta)
    facts = meta.splits[split]
    tokens = _mapped(folder / f"{split}.bin", meta.dtype, facts["tokens"])
    bounds = _bounds(folder / f"{split}.bounds.npy", facts["tokens"])
    about = dict(made_of=meta.source, tokenizer=meta.tokenizer, begin=meta.begin, sha256=facts.get("sha256"))
    name = f"{path.rstrip('/')}/{split}.bin"
    return Source(name, split, tokens, bounds, meta.vocab, marked=meta.begin is not None, about=about)


def _mapped(file: pathlib.Path, dtype: str, count: int) -> np.ndarray:
    need = count * np.dtype(dtype).itemsize
    try:
        size = file.stat().st_size
        if size != need or not size:
            raise ValueError(f"{file} has {size} bytes; meta.json says {count} {dtype} tokens, {need} bytes")
        return np.memmap(file, np.dtype(dtype).newbyteorder("<"), mode="r")
    except OSError as error:
        raise OSError(f"cannot read {file}: {error.strerror or error}") from None


def _bounds(file: pathlib.Path, count: int) -> np.ndarray:
    try:
        table = np.load(file, mmap_mode="r")
    except OSError as error:
        raise OSError(f"cannot read {file}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"cannot use {file}: {error}") from None
    if table.dtype != np.uint64 or table.ndim != 1 or not table.size or table[0] != 0 or table[-1] >= count:
        raise ValueError(f"cannot use {file}: not a rising uint64 table from 0 to below {count}")
    return table


def _local(path: str, split: str, meta: Meta) -> pathlib.Path:
    if "://" not in path:
        return pathlib.Path(path).expanduser()
    from etils import epath

    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "jaxlib_ext" / "tokens" / hashlib.sha256((path + meta.dump()).encode()).hexdigest()[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (f"{split}.bin", f"{split}.bounds.npy"):
            partial = folder / f"{name}.{os.getpid()}.partial"  # several processes may copy at once
            if not (folder / name).exists():
                try:
                    (epath.Path(path) / name).copy(partial, overwrite=True)
                    partial.rename(folder / name)
                finally:
                    partial.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"cannot copy {path} to {folder}: {error.strerror or error}") from None
    return folder
