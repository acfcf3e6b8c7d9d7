"""Checkpoints: whole or not there at all, and the one before when one is damaged."""

import json
import logging
import pathlib
import re
import resource
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext.training import checkpoint, manifest, storage
from jaxlib_ext.training.checkpoint import Checkpoints


def assert_same(found, want):
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(found), strict=True):
        assert (b.shape, b.dtype) == (a.shape, a.dtype)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def little(step):
    return {"w": jnp.arange(4096, dtype=jnp.float32) * step, "n": jnp.int32(step)}


LITTLE = jax.eval_shape(lambda: little(1))


def save_all(folder, *steps, keep=2, tree=little):
    with Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, tree(step), dict(position=step))


def restore(checkpoints, tree, step=None):
    found = checkpoints.restore(tree, step)
    assert found is not None
    return found


def step_of(folder):
    found = Checkpoints(folder).restore(LITTLE)
    if found is None:
        return None
    step, tree, extra = found
    assert_same(tree, little(step))
    assert extra == dict(position=step)
    return step


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


DAMAGES = {
    "is missing": lambda path, data: path.unlink(),
    "is truncated": lambda path, data: path.write_bytes(data[: len(data) // 2]),
    "is changed": lambda path, data: path.write_bytes(
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
}


def test_each_file_of_the_newest_missing_truncated_or_changed(tmp_path, caplog):
    save_all(tmp_path, 10, 20)
    paths = [path for path in sorted((tmp_path / "20").rglob("*")) if path.is_file()]
    assert len(paths) > 8
    for path in paths:
        name, data = path.relative_to(tmp_path / "20").as_posix(), path.read_bytes()
        for what, damage in DAMAGES.items():
            damage(path, data)
            caplog.clear()
            assert step_of(tmp_path) == 10, (name, what)
            lines = warnings(caplog)
            if (name, what) == (manifest.NAME, "is missing"):  # then it was never finished
                assert lines == [] and Checkpoints(tmp_path).steps() == [10]
            else:
                assert len(lines) == 1 and "\n" not in lines[0], lines
                said = what if name != manifest.NAME else "is (truncated or )?changed"
                assert re.search(f"{tmp_path / '20'}: {name} {said}", lines[0]), lines
            path.write_bytes(data)
    caplog.clear()
    assert step_of(tmp_path) == 20 and not warnings(caplog)


def test_any_byte_of_the_manifest_changed_is_noticed(tmp_path):
    save_all(tmp_path, 10)
    path = tmp_path / "10" / manifest.NAME
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(manifest.Damaged, match=r"10: manifest.json is (truncated or )?changed"):
            manifest.read(path.parent)


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
    save_all(tmp_path, 10, 20)
    for step in ("10", "20"):
        (tmp_path / step / "_METADATA").write_text("{}")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole; .*20: _METADATA is truncated: 2 "):
        restore(Checkpoints(tmp_path), LITTLE)


def test_a_step_that_is_asked_for_is_taken_or_refused(tmp_path):
    save_all(tmp_path, 10, 20)
    reader = Checkpoints(tmp_path)
    assert restore(reader, LITTLE, step=10)[0] == 10
    for call in (lambda: reader.restore(LITTLE, step=15), lambda: reader.read_extra(15)):
        with pytest.raises(ValueError, match=r"no checkpoint 15 in .*; there are: 10, 20$"):
            call()
    (tmp_path / "20" / "_METADATA").write_text("{}")
    with pytest.raises(ValueError, match=r"20: _METADATA is truncated"):
        reader.restore(LITTLE, step=20)


def test_what_interrupted_saves_leave_is_removed_by_the_next_writer(tmp_path, caplog):
    save_all(tmp_path, 10, 20)
    partial = tmp_path / "30.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "20" / "d", partial / "d")
    for step in ("40", "50", "60"):
        shutil.copytree(tmp_path / "20", tmp_path / step)
        (tmp_path / step / manifest.NAME).unlink()
    (tmp_path / "50" / f"{manifest.NAME}.part").write_text("{")  # while the manifest was written
    shutil.rmtree(tmp_path / "60" / "d")  # while it was deleted
    foreign = [tmp_path / "notes", tmp_path / "10.backup"]
    for path in foreign:
        path.mkdir()
    (tmp_path / "70").write_text("a file")
    left = [partial, *(tmp_path / step for step in ("40", "50", "60"))]

    assert step_of(tmp_path) == 20  # a reader leaves everything where it is: the run may be under way
    assert all(path.exists() for path in left) and not warnings(caplog)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [10, 20]
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in [*foreign, tmp_path / "70"])
    lines = warnings(caplog)
    assert len(lines) == 4 and all("left by an interrupted save, removed" in line for line in lines)
    assert step_of(tmp_path) == 20


def test_a_save_stopped_at_any_moment_after_orbax_leaves_a_whole_one(tmp_path, monkeypatch):
    """Stops at each call that changes a file of ours, one moment later each time, until nothing is left."""
    path_type, calls, limit = type(Checkpoints(tmp_path).folder), [], 10**6

    def limited(real):
        def call(path, *args, **kwargs):
            if "orbax-checkpoint-tmp" not in str(path):
                calls.append(f"{real.__name__} {path.name}")
                if len(calls) > limit:
                    raise RuntimeError("the power went")
            return real(path, *args, **kwargs)

        return call

    for name in ("replace", "unlink", "rmtree"):  # manifest comes, old manifest goes, old folder goes
        monkeypatch.setattr(path_type, name, limited(getattr(path_type, name)))
    save_all(tmp_path, 10, 20)
    for moment in range(8):
        step = 30 + moment
        with Checkpoints(tmp_path) as checkpoints:
            before = checkpoints.latest()
            calls.clear()
            limit = moment
            checkpoints.save(step, little(step), dict(position=step))
            if moment == 0:
                with pytest.raises(OSError, match="could not be saved in .*: the power went"):
                    checkpoints.wait()
            else:
                checkpoints.wait()
            limit, made = 10**6, list(calls)
        assert step_of(tmp_path) == (step if moment else before)
    assert [call.partition(" ")[0] for call in made] == ["replace", "unlink", "rmtree"]
    assert made[0].startswith("replace manifest.json") and made[1] == "unlink manifest.json"
    assert len(list(tmp_path.iterdir())) == 2


def test_old_ones_go_only_when_the_new_manifest_is_there_and_hashing_blocks_nobody(tmp_path, monkeypatch):
    go, write = threading.Event(), manifest.write

    def slow(folder, about):
        assert go.wait(20)
        write(folder, about)

    save_all(tmp_path, 1, keep=1)
    monkeypatch.setattr(manifest, "write", slow)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(2, little(2), dict(position=2))  # returns although nothing can be hashed
        checkpoints.check()
        assert checkpoints.steps() == [1] and step_of(tmp_path) == 1
        go.set()
        checkpoints.wait()
        assert checkpoints.steps() == [2] and step_of(tmp_path) == 2


def test_keep(tmp_path):
    save_all(tmp_path, 1, 2, 3, 4, 5, keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "5"]
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)


def test_a_run_that_goes_back_takes_the_later_checkpoints_away_when_it_has_a_new_one(tmp_path, caplog):
    save_all(tmp_path, 10, 20, 30, keep=3)
    (tmp_path / "30" / "_METADATA").write_text("{}")  # damaged, but it would win by its number
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert restore(checkpoints, LITTLE, step=10)[0] == 10
        checkpoints.save(10, little(10), {})  # it is there
        checkpoints.wait()
        assert checkpoints.steps() == [10, 20, 30]
        checkpoints.save(20, little(20), dict(position=20))
        checkpoints.wait()
        assert checkpoints.steps() == [20]
    assert step_of(tmp_path) == 20
    assert any("20 is replaced" in line for line in warnings(caplog))
    assert any("30 is of a later step than 20: removed" in line for line in warnings(caplog))


def test_a_tree_that_is_not_what_was_saved_names_the_first_path(tmp_path):
    save_all(tmp_path, 1, tree=lambda _: {"params": {"q": jnp.zeros((4, 8)), "r": jnp.zeros(3)}})
    s = jax.ShapeDtypeStruct
    good = {"params": {"q": s((4, 8), jnp.float32), "r": s((3,), jnp.float32)}}
    reader = Checkpoints(tmp_path)
    assert reader.restore(good) is not None
    cases = {
        r"params/q is float32\[4, 8\] there and float32\[4, 16\] here$": {"q": s((4, 16), jnp.float32)},
        r"params/r is float32\[3\] there and bfloat16\[3\] here$": {"r": s((3,), jnp.bfloat16)},
        r"params/z is absent there and float32\[\] here$": {"z": s((), jnp.float32)},
        r"params/q is float32\[4, 8\] there and float32\[0, 8\] here$": {"q": s((0, 8), jnp.float32)},
        r"params/q is .* here; 1 more differ$": {"q": s((1,), jnp.float32), "r": s((1,), jnp.float32)},
    }
    for text, change in cases.items():
        with pytest.raises(ValueError, match="1 is of another model: " + text):
            restore(reader, {"params": good["params"] | change})
    with pytest.raises(ValueError, match=r"params/r is float32\[3\] there and absent here$"):
        restore(reader, {"params": {"q": good["params"]["q"]}})


def test_what_cannot_be_saved_is_refused_before_anything_is_lost(tmp_path):
    one = jnp.ones(2)
    with Checkpoints(tmp_path) as checkpoints:
        for tree, text in [
            ({"a": np.ones(2)}, "a: a checkpoint holds jax arrays, not numpy.ndarray"),
            ({"a": {"b": 3}}, "a/b: a checkpoint holds jax arrays, not builtins.int"),
            (one, "not a bare array"),
            ({"a.b": {"c": one}, "a": {"b.c": one}}, "the same name in a checkpoint: 'a/b.c' and 'a.b/c'"),
            ({"a/b": one, "a": {"b": one}}, "the same name in a checkpoint: 'a/b' and 'a/b'"),
            ({"a": jnp.zeros((0, 3))}, "no array to save"),
        ]:
            with pytest.raises(ValueError, match=text):
                checkpoints.save(1, tree, {})
        with pytest.raises(ValueError, match="extra must be JSON: .*ndarray"):
            checkpoints.save(1, {"a": one}, dict(position=np.ones(2)))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="inside `with Checkpoints"):
        Checkpoints(tmp_path).save(1, {"a": one}, {})


def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(tmp_path, caplog, capfd):
    noise = {"w": jnp.asarray(np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, np.uint32))}  # 1 MB
    aim = jax.eval_shape(lambda: noise)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, noise, {})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # longer files fail as on a full disk
        try:
            checkpoints.save(2, noise, {})
            with pytest.raises(OSError) as caught:
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(caught.value) == f"checkpoint 2 could not be saved in {tmp_path}: File too large"
        assert caught.value.__cause__ is not None
        assert checkpoints.steps() == [1]
        checkpoints.save(3, noise, {})  # there is space again
        checkpoints.wait()
        assert restore(checkpoints, aim)[0] == 3
    assert "Traceback" not in capfd.readouterr().err and not warnings(caplog)


def test_an_error_in_the_background_surfaces_at_the_next_call(tmp_path, monkeypatch, caplog):
    def broken(folder, about):
        raise OSError(5, "Input/output error")

    save_all(tmp_path, 1)
    monkeypatch.setattr(manifest, "write", broken)
    line = "checkpoint 2 could not be saved in .*: Input/output error$"
    for call in ("save", "wait", "restore", "check"):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(2, little(2), {})
            assert checkpoints._background is not None
            checkpoints._background.join()
            with pytest.raises(OSError, match=line):
                if call == "save":
                    checkpoints.save(3, little(3), {})
                elif call == "restore":
                    restore(checkpoints, LITTLE)
                else:
                    getattr(checkpoints, call)()
            checkpoints.check()  # said once
    with pytest.raises(OSError, match=line), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, little(2), {})
    caplog.clear()
    with pytest.raises(KeyError), Checkpoints(tmp_path) as checkpoints:  # the caller's error counts for more
        checkpoints.save(2, little(2), {})
        raise KeyError
    assert any("could not be saved" in text for text in warnings(caplog))
    assert step_of(tmp_path) == 1


def test_a_folder_that_cannot_be_written_is_one_line_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "out", tmp_path / "file"):
        for call in (checkpoint.check_writable, lambda folder: Checkpoints(folder).__enter__()):
            with pytest.raises(OSError, match=f"^cannot write to {folder}: ") as caught:
                call(folder)
            assert "\n" not in str(caught.value)
    checkpoint.check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    checkpoint.check_shared(tmp_path)  # one process shares with itself


def test_what_a_failed_save_left_goes_before_the_folder_is_tried(tmp_path, monkeypatch):
    left = tmp_path / "20.orbax-checkpoint-tmp"
    save_all(tmp_path, 10)
    left.mkdir()

    def full(path, text):
        assert not left.exists()  # with it the disk was full
        return real(path, text)

    real = storage.replace_text
    monkeypatch.setattr(storage, "replace_text", full)
    save_all(tmp_path, 20)
    assert step_of(tmp_path) == 20


def test_the_manifest_is_plain_and_orbax_alone_reads_the_folder(tmp_path):
    import orbax.checkpoint as ocp

    save_all(tmp_path, 5)
    content = json.loads((tmp_path / "5" / manifest.NAME).read_text())
    assert content["step"] == 5 and content["leaves"] == {"n": "int32[]", "w": "float32[4096]"}
    names = {p.relative_to(tmp_path / "5").as_posix() for p in (tmp_path / "5").rglob("*") if p.is_file()}
    assert set(content["files"]) == names - {manifest.NAME}
    assert {name: (tmp_path / "5" / name).stat().st_size for name in content["files"]} == {
        name: row["size"] for name, row in content["files"].items()
    }
    with ocp.StandardCheckpointer() as plain:
        assert_same(plain.restore(tmp_path / "5"), little(5))


def test_a_manifest_of_another_schema_is_an_error(tmp_path):
    save_all(tmp_path, 5)
    path = tmp_path / "5" / manifest.NAME
    content = json.loads(path.read_text()) | dict(schema=99)
    del content["sha256"]
    path.write_text(json.dumps(content | dict(sha256=manifest._own(content))))
    with pytest.raises(ValueError, match="has schema 99; this version reads 1"):
        restore(Checkpoints(tmp_path), LITTLE)


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = pathlib.Path(tmp_path / "a.txt")
    storage.replace_text(path, "old")
    monkeypatch.setattr(pathlib.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("stopped")))
    with pytest.raises(OSError):
        storage.replace_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
