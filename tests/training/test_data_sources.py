"""Corpora: what is in them, how they are split, and what a bad one says."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import sysconfig

import numpy as np
import pytest

from jaxlib_ext.training.data import documents, open_source, stdlib, text, tokens
from jaxlib_ext.training.data.source import Source, share, split_names

SKIPPED = ("test", "tests", "site-packages", "__pycache__", "idle_test")


def split_stream(source):
    """The documents of a source of bytes, from its own tokens and starts."""
    stream = source.read(0, source.size)
    begins = np.flatnonzero(source.starts(0, source.size))
    assert (stream[begins] == 0).all() and (stream == 0).sum() == len(begins)
    return [bytes(part[1:].astype(np.uint8)) for part in np.split(stream, begins[1:])]


def write_tokens(folder, ids, bounds=(0,), vocab=300, begin=None, dtype="uint16", **meta):
    folder.mkdir(exist_ok=True)
    splits = {}
    for split in ("train", "eval"):
        np.array(ids, dtype).tofile(folder / f"{split}.bin")
        np.save(folder / f"{split}.bounds.npy", np.array(bounds, np.uint64))
        splits[split] = dict(tokens=len(ids), documents=len(bounds))
    facts = dict(dtype=dtype, vocab=vocab, begin=begin, tokenizer="0" * 64, splits=splits, schema=1)
    (folder / "meta.json").write_text(json.dumps(facts | meta))
    return str(folder)


def test_stdlib_holds_the_library_files_and_records_them():
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    train, held = open_source("stdlib"), open_source("stdlib", "eval")
    found = documents("stdlib")
    names = [document.name for document in found]
    assert names == sorted(names) and "json/decoder.py" in names and "typing.py" in names
    assert not any(part in SKIPPED for name in names for part in name.split("/"))
    assert max((root / name).stat().st_size for name in names) <= 200_000
    for source in (train, held):
        kept = [(root / document.name).read_bytes() for document in found if document.split == source.split]
        assert split_stream(source) == kept
    facts = train.describe()
    whole = b"".join(b"\0" + (root / name).read_bytes() for name in names)
    assert facts["sha256"] == hashlib.sha256(whole).hexdigest() == held.describe()["sha256"]
    assert facts["bytes"] + len(names) == len(whole) == train.size + held.size
    assert facts["files"] == len(names) and facts["bytes"] <= 12_000_000 and facts["left_out"] == []
    assert 0.02 < held.size / len(whole) < 0.1
    assert train.marked and train.vocab == 256 and json.dumps(facts)


def test_stdlib_splits_are_disjoint_and_opening_again_reads_nothing(monkeypatch):
    train, held = open_source("stdlib"), open_source("stdlib", "eval")
    by_split = {split: {d.name for d in documents("stdlib") if d.split == split} for split in ("train", "eval")}
    assert not by_split["train"] & by_split["eval"]
    assert (len(by_split["train"]), len(by_split["eval"])) == (len(train.bounds), len(held.bounds))
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: pytest.fail(f"read {path} again"))
    assert open_source("stdlib") is train and open_source("stdlib", "eval") is held


def test_a_stripped_library_says_so(tmp_path):
    (tmp_path / "encodings").mkdir()
    with pytest.raises(FileNotFoundError, match=f"no library sources under {tmp_path}"):
        stdlib.documents(str(tmp_path))


def test_a_cap_takes_files_from_everywhere_in_the_alphabet():
    sizes = {f"{letter}{n}.py": 10 for letter in "abcdefghijklmnopqrstuvwxyz" for n in range(20)}
    kept = stdlib.capped(sizes, 2600)
    assert len(kept) == 260 and kept == sorted(kept) and len({name[0] for name in kept}) == 26
    assert set(stdlib.capped(sizes, 1300)) < set(kept)


def test_the_split_hangs_on_the_name_alone():
    names = [f"folder/{n}.txt" for n in range(2000)]
    split = split_names(names)
    assert split_names(names[::-1]) == split
    held = {name for name in names if split[name] == "eval"}
    assert 60 < len(held) < 140 and held == {name for name in names if share(name) < 0.05}
    assert sorted(split_names(["a", "b"]).values()) == ["eval", "train"]


def test_a_folder_of_text_is_read_by_relative_path(tmp_path):
    contents = {f"part{n % 3}/{n:02d}.txt": b"text %d\n" % n for n in range(40)}
    contents |= {"a.md": b"# one\n", "b.py": b"x = 1\n"}
    for name, content in (contents | {"data.jsonl": b"{}", ".hidden/c.txt": b"no", "empty.txt": b""}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    train, held = open_source(str(tmp_path)), open_source(str(tmp_path), "eval")
    split = split_names([*contents, "empty.txt"])
    for source in (train, held):
        assert split_stream(source) == [contents[n] for n in sorted(contents) if split[n] == source.split]
    assert train.describe()["files"] == len(contents)
    assert open_source(str(tmp_path)) is train
    (tmp_path / "a.md").write_bytes(b"# another text\n")
    assert open_source(str(tmp_path)).describe()["sha256"] != train.describe()["sha256"]


def test_a_single_file_holds_out_its_end_at_a_line(tmp_path):
    content = b"".join(b"line %d\n" % n for n in range(1000))
    (tmp_path / "one.text").write_bytes(content)
    train, held = (open_source(str(tmp_path / "one.text"), split) for split in ("train", "eval"))
    (first,), (last,) = split_stream(train), split_stream(held)
    assert first + last == content and first.endswith(b"\n") and 0.04 < len(last) / len(content) < 0.06
    (tmp_path / "one.text").write_bytes(b"x" * 100)
    assert open_source(str(tmp_path / "one.text"), "eval").size == 6
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "only.md").write_bytes(content)
    assert split_stream(open_source(str(tmp_path / "folder")))[0] == first


def test_a_file_with_zero_bytes_is_left_out_and_named(tmp_path, caplog):
    for n in range(5):
        (tmp_path / f"{n}.txt").write_bytes(b"fine\n")
    (tmp_path / "bad.txt").write_bytes(b"a\0b")
    source = open_source(str(tmp_path))
    assert source.describe()["left_out"] == ["bad.txt"] and source.describe()["files"] == 5
    assert [record.getMessage() for record in caplog.records] == [
        "bad.txt is left out: it holds zero bytes, which mark documents"
    ]


def test_bad_text_paths_give_one_line_that_names_the_path(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "zero.txt").write_bytes(b"a\0" * 50)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data.bin").write_bytes(b"1")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "link.txt").symlink_to("nowhere")
    cases = {
        "nowhere": (FileNotFoundError, "no such data: {path} (stdlib, a text file, a folder of text or"),
        "empty.txt": (ValueError, "{path} is empty"),
        "zero.txt": (ValueError, "no train split of {path}: {path} holds zero bytes, which mark documents"),
        "folder": (ValueError, "no *.txt, *.md, *.py in the folder {path}"),
        "broken": (OSError, "cannot read {path}/link.txt: No such file"),
    }
    for name, (kind, message) in cases.items():
        with pytest.raises(kind) as caught:
            open_source(str(tmp_path / name))
        assert str(caught.value).startswith(message.format(path=tmp_path / name)), name
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="unknown split 'test'; splits are train and eval"):
        open_source("stdlib", "test")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "secret.txt").write_bytes(b"text")

    def refuse(self):
        raise PermissionError(13, "Permission denied", os.fspath(self))

    from etils import epath

    monkeypatch.setattr(type(epath.Path(tmp_path)), "read_bytes", refuse)
    with pytest.raises(OSError, match=f"^cannot read {tmp_path}/secret.txt: Permission denied$"):
        open_source(str(tmp_path / "secret.txt"))


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "open.txt").write_bytes(b"text")
    (tmp_path / "closed").mkdir()
    list_folder = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match=f"^cannot read {tmp_path}/closed: Permission denied$"):
        open_source(str(tmp_path))


def test_tokens_are_mapped_with_their_boundaries(tmp_path):
    ids = np.arange(100) % 7
    path = write_tokens(tmp_path / "folder", ids, bounds=(0, 10, 55), begin=3, dtype="uint32")
    source = open_source(path)
    assert isinstance(source.tokens, np.memmap) and source.marked and source.vocab == 300
    assert source.read(5, 60).dtype == np.int32 and source.read(5, 60).tolist() == ids[5:60].tolist()
    assert np.flatnonzero(source.starts(5, 60)).tolist() == [5, 50]
    assert source.describe()["begin"] == 3 and source.describe()["documents"] == 3
    assert not open_source(write_tokens(tmp_path / "plain", ids)).marked
    with pytest.raises(IndexError, match="tokens 90 .. 101 of 100"):
        source.read(90, 101)


def test_an_id_beyond_the_vocabulary_names_file_position_and_id(tmp_path):
    ids = np.arange(100) % 7
    ids[42] = 300
    path = write_tokens(tmp_path / "folder", ids)
    source = open_source(path)
    assert source.read(0, 42).size == 42
    with pytest.raises(ValueError) as caught:
        source.read(40, 50)
    assert str(caught.value) == f"{path}/train.bin: token 42 has id 300, beyond the vocabulary of 300"


def test_bad_token_folders_give_one_line_that_names_the_file(tmp_path):
    ids = np.arange(100) % 7

    def broken(name, **meta):
        return write_tokens(tmp_path / name, ids, **meta)

    (pathlib.Path(broken("short")) / "train.bin").write_bytes(b"12")
    (pathlib.Path(broken("gone")) / "train.bin").unlink()
    (pathlib.Path(broken("bounds")) / "train.bounds.npy").write_bytes(b"not a table")
    (pathlib.Path(broken("json")) / "meta.json").write_text("{")
    (pathlib.Path(broken("field")) / "meta.json").write_text('{"vocab": 3}')
    broken("late", bounds=(0, 100))
    broken("schema", schema=2)
    broken("dtype", dtype="int64")
    broken("vocab", vocab=2**17)
    broken("begin", begin=300)
    broken("split", splits=dict(train=dict(tokens=100)))
    cases = dict(
        short="{path}/train.bin has 2 bytes; meta.json says 100 uint16 tokens, 200 bytes",
        gone="cannot read {path}/train.bin: No such file",
        bounds="cannot use {path}/train.bounds.npy: ",
        json="cannot use {path}/meta.json: Expecting property name",
        field="cannot use {path}/meta.json: missing",
        late="cannot use {path}/train.bounds.npy: not a rising uint64 table from 0 to below 100",
        schema="cannot use {path}/meta.json: schema 2 is unknown here; this version reads schema 1",
        dtype="cannot use {path}/meta.json: dtype is uint16 or uint32, not 'int64'",
        vocab="cannot use {path}/meta.json: a vocabulary of 131072 ids is not within 1 .. 65536",
        begin="cannot use {path}/meta.json: the begin token 300 is beyond the vocabulary of 300",
        split="cannot use {path}/meta.json: 'eval' is missing under splits",
    )
    for name, message in cases.items():
        with pytest.raises((ValueError, OSError)) as caught:
            open_source(str(tmp_path / name))
        assert str(caught.value).startswith(message.format(path=tmp_path / name)), (name, caught.value)
        assert "\n" not in str(caught.value)


@contextlib.contextmanager
def bucket(folder, **instead):
    """gs://bucket shows what is in the folder."""
    from etils.epath import testing

    def here(path):
        return os.fspath(path).replace("gs://bucket", str(folder)).replace("/gs/bucket", str(folder))

    def there(original, *paths, **options):
        return original(*(here(p) if isinstance(p, str | os.PathLike) else p for p in paths), **options)

    def walk(original, path, **options):
        for place, folders, files in original(here(path), **options):
            yield os.fspath(place).replace(str(folder), "gs://bucket"), folders, files

    mocks = dict(open=there, exists=there, isdir=there, copy=there, stat=there, walk=walk)
    with testing.mock_epath(**(mocks | instead)):
        yield


def test_text_and_tokens_on_gs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "remote" / "text").mkdir(parents=True)
    for n in range(4):
        (tmp_path / "remote" / "text" / f"{n}.txt").write_bytes(b"text %d" % n)
    ids = np.arange(100) % 7
    write_tokens(tmp_path / "remote" / "tokens", ids)
    with bucket(tmp_path / "remote"):
        far = open_source("gs://bucket/text")
        assert far.read(0, far.size).tolist() == open_source(str(tmp_path / "remote" / "text")).tokens.tolist()
        with pytest.raises(FileNotFoundError, match="no such data: gs://bucket/nothing"):
            open_source("gs://bucket/nothing")
        source = open_source("gs://bucket/tokens", "eval")
        assert source.name == "gs://bucket/tokens/eval.bin" and source.tokens.tolist() == ids.tolist()
        (tmp_path / "remote" / "tokens" / "eval.bin").unlink()  # the copy is used from now on
        assert open_source("gs://bucket/tokens", "eval").tokens.tolist() == ids.tolist()
        (tmp_path / "remote" / "tokens" / "train.bin").unlink()
        with pytest.raises(OSError, match="cannot copy gs://bucket/tokens to .*: No such file"):
            open_source("gs://bucket/tokens", "train")

    def full(original, path, target, overwrite=False):
        pathlib.Path(target).write_bytes(b"the first half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with bucket(tmp_path / "remote", copy=full):
        with pytest.raises(OSError, match="cannot copy gs://bucket/tokens to .*: No space left on device"):
            open_source("gs://bucket/tokens", "train")
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_boundaries_are_found_without_converting_the_table():
    bounds = np.array([0, 2**60, 2**60 + 5], np.uint64)  # float64 cannot tell the last two apart
    source = Source("demo", "train", np.broadcast_to(np.uint8(1), (2**60 + 9,)), bounds, vocab=256)
    assert np.flatnonzero(source.starts(2**60 - 1, 2**60 + 9)).tolist() == [1, 6]


def test_paths_of_every_kind_are_told_apart(tmp_path):
    write_tokens(tmp_path / "tokens", [1, 2, 3])
    (tmp_path / "tokens" / "note.txt").write_text("text beside tokens")
    assert tokens.is_tokens(str(tmp_path / "tokens")) and not tokens.is_tokens("stdlib")
    assert open_source(str(tmp_path / "tokens")).vocab == 300
    assert [d.name for d in text.documents(str(tmp_path / "tokens"))] == ["note.txt"] * 2
