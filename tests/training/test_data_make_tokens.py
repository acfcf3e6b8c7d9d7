"""experiments/make_tokens.py: the folder holds what the tokenizer says; a failure leaves nothing behind."""

import errno
import hashlib
import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxlib_ext.training.data import documents, open_source

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "make_tokens.py"
TEXTS = {f"{n:02d}.txt": f"file {n}: the cat sat on mat number {n * n}.\nIt purred.\n" * (n + 1) for n in range(30)}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_tokens", SCRIPT)
    assert spec and spec.loader
    module = sys.modules["make_tokens"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["make_tokens"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A byte-level BPE of 300 ids, with the limit, padding and template that such files often carry."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(TEXTS.values(), trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.enable_truncation(16)
    made.enable_padding(length=500)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    made.no_truncation()
    made.no_padding()
    return path, made


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for name, content in TEXTS.items():
        (folder / name).write_text(content)
    return folder


def encodings(folder, made, split):
    kept = [document for document in documents(str(folder)) if document.split == split]
    return [made.encode(document.read().decode(), add_special_tokens=False).ids for document in kept]


@pytest.mark.parametrize("begin", ["<s>", None])
def test_the_folder_holds_the_encoding_of_every_document(script, tokenizer, corpus, tmp_path, capsys, begin):
    path, made = tokenizer
    out = tmp_path / "new" / "tokens"
    script.main([str(corpus), str(path), str(out), *(["--begin", begin] if begin else [])])
    meta = json.loads((out / "meta.json").read_text())
    for split in ("train", "eval"):
        marker = [made.token_to_id(begin)] if begin else []
        want = [marker + ids for ids in encodings(corpus, made, split)]
        source = open_source(str(out), split)
        assert source.read(0, source.size).tolist() == sum(want, [])
        assert source.bounds.tolist() == np.cumsum([0, *map(len, want[:-1])]).tolist()
        assert (source.vocab, source.marked) == (300, begin is not None)
        sha256 = hashlib.sha256((out / f"{split}.bin").read_bytes()).hexdigest()
        assert meta["splits"][split] == dict(tokens=source.size, documents=len(want), sha256=sha256)
    assert made.decode(source.read(0, len(want[0])).tolist()).startswith("file ")
    assert (meta["dtype"], meta["schema"], meta["begin"]) == (
        "uint16",
        1,
        made.token_to_id(begin) if begin else None,
    )
    assert meta["tokenizer"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (out / "tokenizer.json").read_bytes() == path.read_bytes()
    assert capsys.readouterr().out.endswith("eval tokens, 300 ids, uint16\n")
    assert [file.name for file in out.parent.iterdir()] == ["tokens"]
    assert out.stat().st_mode & 0o777 == 0o755


def test_long_documents_are_cut_at_lines_and_lose_nothing(script, tokenizer, corpus, tmp_path, monkeypatch):
    path, made = tokenizer
    monkeypatch.setattr(script, "PIECE", 64)
    monkeypatch.setattr(script, "BATCH", 200)
    script.main([str(corpus), str(path), str(tmp_path / "out"), "--begin", "<s>"])
    train = open_source(str(tmp_path / "out"))
    want = [[0, *ids] for ids in encodings(corpus, made, "train")]
    assert train.read(0, train.size).tolist() == sum(want, [])  # this tokenizer ends a token at every line end
    assert len(train.bounds) == len(want)
    assert list(script.pieces("a" * 100)) == ["a" * 64, "a" * 36]
    assert list(script.pieces("a\n" * 40)) == ["a\n" * 32, "a\n" * 8]


def test_many_ids_need_uint32_and_gaps_count(script, tokenizer, corpus, tmp_path):
    content = json.loads(tokenizer[0].read_text())
    content["added_tokens"].append(dict(content["added_tokens"][0], id=70000, content="<far>"))
    content["model"]["vocab"]["<far>"] = 70000
    (tmp_path / "wide.json").write_text(json.dumps(content))
    (corpus / "99.txt").write_text("here <far> there")
    script.main([str(corpus), str(tmp_path / "wide.json"), str(tmp_path / "out")])
    train = open_source(str(tmp_path / "out"))
    assert train.tokens.dtype == np.uint32 and train.vocab == 70001
    assert train.read(0, train.size).max() == 70000


def test_an_id_that_the_vocabulary_lacks_stops_it(script, tokenizer):
    coder = script.load_coder(str(tokenizer[0]), None)
    narrow = script.Coder(coder.tokenizer, 50, None, b"")
    with pytest.raises(ValueError, match="here.txt: the tokenizer gave id .*, beyond its vocabulary of 50"):
        narrow.encode(["the cat sat"], "here.txt")


def test_bad_input_is_one_line_and_exit_2(script, tokenizer, corpus, tmp_path, capsys):
    good = str(tokenizer[0])
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    out = str(tmp_path / "out")
    cases = {
        (f"{tmp_path}/nothing", good, out): f"no such data: {tmp_path}/nothing",
        (str(tmp_path / "full"), good, out): "no *.txt, *.md, *.py in the folder",
        (
            str(corpus),
            f"{tmp_path}/no.json",
            out,
        ): f"cannot read the tokenizer {tmp_path}/no.json: No such file",
        (str(corpus), f"{tmp_path}/bad.json", out): f"{tmp_path}/bad.json is no tokenizers file: ",
        (str(corpus), good, str(tmp_path / "full")): f"{tmp_path}/full exists already: name a new folder",
        (str(corpus), good, f"{good}/out"): f"cannot write {good}/out: ",
        (str(corpus), good, out, "--begin", "<z>"): f"{good} has no token '<z>'; did you mean '<s>'",
    }
    for argv, message in cases.items():
        with pytest.raises(SystemExit) as caught:
            script.main(list(argv))
        error = capsys.readouterr().err
        assert caught.value.code == 2 and error.startswith(f"make_tokens: {message}"), error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(script, tokenizer, corpus, tmp_path, capsys, monkeypatch):
    def full(self, ids):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(script.SplitWriter, "write", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as caught:
        script.main([str(corpus), str(tokenizer[0]), str(tmp_path / "out")])
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"make_tokens: cannot write {tmp_path}/out: No space left on device\n"
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_on_gs_gets_its_meta_last(script, tokenizer, corpus, tmp_path):
    from etils.epath import testing

    (tmp_path / "remote").mkdir()
    copied = []

    def there(original, path, *rest, **options):
        return original(str(path).replace("gs://bucket", str(tmp_path / "remote")), *rest, **options)

    def copy(original, path, target, overwrite=False):
        copied.append(str(target))
        return original(path, str(target).replace("gs://bucket", str(tmp_path / "remote")), overwrite)

    with testing.mock_epath(exists=there, isdir=there, mkdir=there, makedirs=there, copy=copy):
        script.main([str(corpus), str(tokenizer[0]), "gs://bucket/tokens"])
    assert len(copied) == 6 and copied[-1] == "gs://bucket/tokens/meta.json"
    assert open_source(str(tmp_path / "remote" / "tokens")).size


def test_a_split_without_tokens_is_refused(script, tokenizer, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("a")
    with pytest.raises(SystemExit) as caught:
        script.main([str(tmp_path / "one.txt"), str(tokenizer[0]), str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert error == f"make_tokens: no tokens in the train split of {tmp_path}/one.txt\n"


def test_what_is_no_text_is_said(script, tokenizer, corpus, tmp_path, capsys):
    (corpus / "zero.txt").write_bytes(b"a\0b")
    (corpus / "latin.txt").write_bytes("café".encode("latin-1"))
    script.main([str(corpus), str(tokenizer[0]), str(tmp_path / "out")])
    assert capsys.readouterr().err.splitlines() == [
        "latin.txt is not UTF-8: what cannot be read becomes U+FFFD",
        "zero.txt is left out: it holds zero bytes, which mark documents",
    ]


def test_progress_in_a_log_has_share_and_time_left(script, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    progress = script.Progress(8_000_000)
    for _ in range(4):
        clock[0] += 20
        progress.add(1_000_000)
    assert capsys.readouterr().err.splitlines() == [
        " 25.0% of 8.0 MB, 0.1 MB/s, 120 s left",
        " 50.0% of 8.0 MB, 0.1 MB/s, 80 s left",
    ]


def test_the_command_line_itself(tokenizer, corpus, tmp_path):
    """As typed, with a limit on file sizes that makes the system refuse to write."""
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))"
    start = f"{limit}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    argv = [sys.executable, "-c", start, str(SCRIPT), str(corpus), str(tokenizer[0]), str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"make_tokens: cannot write {tmp_path}/out: File too large\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]
