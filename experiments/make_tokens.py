"""Encodes text once, with any Hugging Face tokenizers file, into a folder that train.py and ladder.py read.

    python experiments/make_tokens.py stdlib tokenizer.json tokens/stdlib --begin "<s>"

The folder appears whole or not at all. Documents and the held-out split are those of the same text read as
bytes. A document of more than 250 thousand characters is encoded in pieces cut at line ends, so the tokens
at a cut may differ from those of the whole.
"""

import array
import contextlib
import dataclasses
import difflib
import hashlib
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import tyro

from jaxlib_ext.training.data import Document, documents
from jaxlib_ext.training.data.source import SPLITS, read_documents
from jaxlib_ext.training.data.tokens import Meta

PIECE = 250_000  # characters that are encoded as one
BATCH = 4_000_000  # characters that are encoded at a time, on all cores


@dataclasses.dataclass(frozen=True)
class Args:
    """Encode text into a folder of memory-mapped tokens."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """stdlib, a text file, or a folder of *.txt, *.md and *.py; local or gs://"""
    tokenizer: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TOKENIZER")]
    """a tokenizer.json of Hugging Face tokenizers; local or gs://"""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """the folder to write, which must not exist yet; local or gs://"""
    begin: str | None = None
    """a token of the tokenizer that goes before every document; without one, targets beyond a document have
    no loss"""


@dataclasses.dataclass(frozen=True)
class Coder:
    """A tokenizer and what the folder has to say of it."""

    tokenizer: Any
    vocab: int
    begin: int | None
    content: bytes  # the tokenizer's file

    @property
    def dtype(self) -> str:
        return "uint16" if self.vocab <= 2**16 else "uint32"

    def encode(self, texts: list[str], name: str) -> list[np.ndarray]:
        """Token ids of each text in the folder's dtype. Raises ValueError for an id beyond the vocabulary."""
        found = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        out = [np.array(code.ids, np.int64) for code in found]
        worst = max((int(ids.max(initial=0)) for ids in out), default=0)
        if worst >= self.vocab:
            raise ValueError(f"{name}: the tokenizer gave id {worst}, beyond its vocabulary of {self.vocab}")
        return [ids.astype(self.dtype) for ids in out]


def load_coder(path: str, begin: str | None) -> Coder:
    """Raises ValueError or OSError, in one line, for what is no tokenizer or has no such token."""
    import tokenizers
    from etils import epath

    try:
        content = epath.Path(path).expanduser().read_bytes()
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except OSError as error:
        raise OSError(f"cannot read the tokenizer {path}: {error.strerror or error}") from None
    except Exception as error:  # tokenizers raises nothing narrower
        why = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} is no tokenizers file: {why}") from None
    tokenizer.no_truncation()  # files come with the length that a model was trained at
    tokenizer.no_padding()
    ids = tokenizer.get_vocab(with_added_tokens=True)
    if not ids:
        raise ValueError(f"{path} has an empty vocabulary")
    if begin is not None and begin not in ids:
        near = difflib.get_close_matches(begin, ids, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"{path} has no token {begin!r}{hint}")
    # Added tokens may leave gaps, and then the number of tokens is below the largest id.
    first = None if begin is None else ids[begin]
    return Coder(tokenizer, max(ids.values()) + 1, first, content)


class SplitWriter:
    """Writes one split's tokens and remembers where its documents begin."""

    def __init__(self, folder: pathlib.Path, split: str, coder: Coder):
        self.bounds_path, self.coder, self.count = folder / f"{split}.bounds.npy", coder, 0
        self.file, self.digest = open(folder / f"{split}.bin", "wb"), hashlib.sha256()
        self.bounds = array.array("Q")  # 8 bytes a document, where a list has 40
        self.fresh = True  # the next token begins a document

    def begin(self) -> None:
        """A document follows. One that encodes to nothing leaves no trace."""
        self.fresh = True

    def write(self, ids: np.ndarray) -> None:
        """Appends a piece of the open document."""
        if not ids.size:
            return
        if self.fresh:
            self.bounds.append(self.count)
            if self.coder.begin is not None:
                ids = np.concatenate([np.array([self.coder.begin], ids.dtype), ids])
        self.fresh = False
        content = ids.astype(ids.dtype.newbyteorder("<")).tobytes()
        self.file.write(content)
        self.digest.update(content)
        self.count += ids.size

    def finish(self) -> dict[str, Any]:
        """Writes the boundary table; returns what meta.json has of the split."""
        self.file.close()
        np.save(self.bounds_path, np.array(self.bounds, np.uint64))
        return dict(tokens=self.count, documents=len(self.bounds), sha256=self.digest.hexdigest())


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of at most PIECE characters, cut behind a line end where there is one."""
    at = 0
    while len(text) - at > PIECE:
        cut = text.rfind("\n", at, at + PIECE) + 1 or at + PIECE
        yield text[at:cut]
        at = cut
    yield text[at:]


def batches(found: list[Document]) -> Iterator[list[tuple[Document, bool, str]]]:
    """Lists of (document, whether the piece is its first, piece) of about BATCH characters."""
    batch, size = [], 0
    for document, content, fault in read_documents(found):
        if fault:
            print(f"{document.name} is left out: it {fault}", file=sys.stderr)
            continue
        text = content.decode(errors="replace")
        if "\ufffd" in text and "\ufffd".encode() not in content:
            print(f"{document.name} is not UTF-8: what cannot be read becomes U+FFFD", file=sys.stderr)
        for n, piece in enumerate(pieces(text)):
            batch.append((document, n == 0, piece))
            size += len(piece)
            if size >= BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


class Progress:
    """The share done and the time left, on stderr: one line that is redrawn, in a log a line every 30 s."""

    def __init__(self, total: int):
        self.total, self.done, self.terminal = max(1, total), 0, sys.stderr.isatty()
        self.began = self.shown = time.monotonic()

    def add(self, size: int) -> None:
        self.done += size
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else 30):
            return
        self.shown, share = now, min(1.0, self.done / self.total)
        left = (now - self.began) * (1 - share) / share
        line = f"{share:6.1%} of {self.total / 1e6:.1f} MB, {self.done / 1e6 / (now - self.began):.1f} MB/s"
        line += f", {left:.0f} s left"
        print(f"\r{line:<60}" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr)

    def close(self) -> None:
        if self.terminal:
            print(f"\r{'':<60}\r", end="", file=sys.stderr)


def encode(args: Args, found: list[Document], coder: Coder, folder: pathlib.Path) -> Meta:
    """Fills the folder. Raises ValueError for a split that stays empty."""
    (folder / "tokenizer.json").write_bytes(coder.content)
    with contextlib.ExitStack() as stack:
        writers = {split: SplitWriter(folder, split, coder) for split in SPLITS}
        for writer in writers.values():
            stack.callback(writer.file.close)
        progress = Progress(sum(document.size for document in found))
        stack.callback(progress.close)
        for batch in batches(found):
            coded = coder.encode([piece for _, _, piece in batch], batch[0][0].name)
            for (document, first, _), ids in zip(batch, coded, strict=True):
                if first:
                    writers[document.split].begin()
                writers[document.split].write(ids)
            progress.add(sum(len(piece.encode()) for _, _, piece in batch))
        splits = {split: writer.finish() for split, writer in writers.items()}
    for split, facts in splits.items():
        if not facts["tokens"]:
            raise ValueError(f"no tokens in the {split} split of {args.data}")
    sha256 = hashlib.sha256(coder.content).hexdigest()
    meta = Meta(coder.dtype, coder.vocab, coder.begin, sha256, splits, source=args.data)
    (folder / "meta.json").write_text(meta.dump())
    return meta


@contextlib.contextmanager
def staged(out: str) -> Iterator[pathlib.Path]:
    """A folder to fill; it becomes `out` at the end, or is gone if anything fails."""
    from etils import epath

    target = epath.Path(out).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{out} exists already: name a new folder")
    remote = "://" in out
    target.parent.mkdir(parents=True, exist_ok=True)
    made = tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=None if remote else target.parent)
    folder = pathlib.Path(made)
    try:
        yield folder
        if remote:  # meta.json last: without it the folder is none
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.iterdir(), key=lambda file: file.name == "meta.json"):
                epath.Path(file).copy(target / file.name)
        else:
            folder.chmod(0o755)  # mkdtemp's folders are private
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str] | None = None) -> None:
    """Exits with 2 for what is wrong before anything ran, with 1 for what failed on the way."""
    args, code = tyro.cli(Args, args=argv, description=__doc__), 2
    try:
        coder = load_coder(args.tokenizer, args.begin)
        found = documents(args.data)
        with staged(args.out) as folder:
            code = 1
            meta = encode(args, found, coder, folder)
    except (ValueError, OSError) as error:
        # What comes from the system has a strerror, and only writing leaves it as it is.
        why = error.strerror if isinstance(error, OSError) else None
        print(f"make_tokens: {f'cannot write {args.out}: {why}' if why else error}", file=sys.stderr)
        sys.exit(code)
    train, held = (meta.splits[split]["tokens"] for split in SPLITS)
    print(f"{args.out}: {train} train and {held} eval tokens, {meta.vocab} ids, {meta.dtype}")


if __name__ == "__main__":
    main()
