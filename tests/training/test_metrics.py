"""Rows of metrics: none lost and none there twice, wherever a run is killed."""

import json
import os
import resource
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext.training import metrics
from jaxlib_ext.training.metrics import MetricsFile, TensorBoard, read


def row(step):
    return dict(step=step, loss=1 / step, time_elapsed=step * 0.5)


def fill(path, *steps):
    log = MetricsFile(path)
    for step in steps:
        log.write(row(step))
    log.close()


def test_rows_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    log = MetricsFile(path)
    log.write(
        dict(
            time_step=0.5, loss=jnp.float32(0.1), step=np.int64(3), count=np.arange(3), none=None, name="ü",
            accuracy=np.float64(0.1), bf16=jnp.bfloat16(1 / 3), finite=np.bool_(True), bad=float("nan"),
        )
    )  # fmt: skip
    assert list(read(path)[0]) == [
        "step", "accuracy", "bad", "bf16", "count", "finite", "loss", "name", "none", "time_step",
    ]  # fmt: skip
    found = read(path)[0]
    assert np.isnan(found.pop("bad"))
    assert found == dict(
        step=3, accuracy=0.1, bf16=0.333984375, count=[0, 1, 2], finite=True, loss=float(np.float32(0.1)),
        name="ü", none=None, time_step=0.5,
    )  # fmt: skip
    log.close()
    log.close()
    assert read(tmp_path / "nothing") == []


def test_the_order_of_the_columns_does_not_depend_on_the_caller(tmp_path):
    log = MetricsFile(tmp_path / "m")
    log.write(dict(b=1, step=1, a=2, time_a=3))
    log.write(dict(time_a=3, a=2, step=1, b=1))
    log.close()
    first, second = (tmp_path / "m").read_text().splitlines()
    assert first == second == '{"step": 1, "a": 2, "b": 1, "time_a": 3}'


def test_a_row_is_in_the_file_when_write_returns(tmp_path):
    log = MetricsFile(tmp_path / "m")
    for step in (1, 2):
        log.write(row(step))
        assert [r["step"] for r in read(tmp_path / "m")] == list(range(1, step + 1))
    log.close()


def test_rewind_drops_later_rows_and_writing_goes_on(tmp_path):
    fill(tmp_path / "m", 1, 2, 3, 3, 4, 5)
    log = MetricsFile(tmp_path / "m")
    log.rewind(3)
    assert [r["step"] for r in read(tmp_path / "m")] == [1, 2, 3, 3]
    log.write(row(4))
    log.sync()
    assert [r["step"] for r in read(tmp_path / "m")] == [1, 2, 3, 3, 4]
    log.rewind(0)
    assert read(tmp_path / "m") == []
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_line_cut_off_at_any_byte_is_dropped(tmp_path):
    path = tmp_path / "m"
    fill(path, 1, 2, 3)
    data = path.read_bytes()
    for cut in range(1, len(data.splitlines(True)[2]) + 1):
        path.write_bytes(data[:-cut])
        assert [r["step"] for r in read(path)] == [1, 2]
        log = MetricsFile(path)
        if cut % 2:
            log.rewind(2)
        log.write(row(3))
        log.close()
        assert path.read_bytes() == data


def test_rewind_is_one_step(tmp_path, monkeypatch):
    fill(tmp_path / "m", 1, 2, 3)
    log = MetricsFile(tmp_path / "m")

    def stop(*_):
        raise OSError("stopped")

    monkeypatch.setattr(type(log.path), "replace", stop)
    with pytest.raises(OSError, match="cannot write metrics to .*m: stopped"):
        log.rewind(1)
    assert [r["step"] for r in read(tmp_path / "m")] == [1, 2, 3]


def test_a_line_in_the_middle_that_is_no_row_is_named(tmp_path):
    for bad in (b"{", b"[]", b"{}", b'{"step": "1"}', b"\xff"):
        fill(tmp_path / "m", 1)
        with (tmp_path / "m").open("ab") as f:
            f.write(bad + b"\n")
        for call in (read, MetricsFile):
            with pytest.raises(ValueError, match=r"m line 2 is not a row of metrics"):
                call(tmp_path / "m")
        (tmp_path / "m").unlink()


def test_a_row_needs_a_step(tmp_path):
    log = MetricsFile(tmp_path / "m")
    for bad in ({}, dict(step=None), dict(step=1.5)):
        with pytest.raises(ValueError, match='needs a whole number "step"'):
            log.write(bad)
    log.close()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write metrics to .*file/m: (File exists|Not a directory)$"):
        MetricsFile(tmp_path / "file" / "m")


def test_a_full_disk_is_one_line_and_the_rows_before_stay(tmp_path):
    log = MetricsFile(tmp_path / "m")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # a longer file fails as on a full disk
    try:
        with pytest.raises(OSError, match="cannot write metrics to .*m: File too large$"):
            for step in range(1, 10):
                log.write(row(step))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [r["step"] for r in read(tmp_path / "m")] == [1, 2]
    log.rewind(2)
    log.write(row(3))
    log.close()
    assert [r["step"] for r in read(tmp_path / "m")] == [1, 2, 3]


CHILD = """
import sys
from jaxlib_ext.training.metrics import MetricsFile
begin = int(sys.argv[2])
log = MetricsFile(sys.argv[1])
log.rewind(begin)
for step in range(begin + 1, 10**9):
    log.write(dict(step=step, loss=1 / step, pad="x" * 5000))
    if step % 10 == 0:
        log.sync()
        print(step, flush=True)  # here a checkpoint would be
"""


def test_killed_and_started_again_every_row_is_there_once(tmp_path):
    path, begin = tmp_path / "m", 0
    for wait in (3, 7):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(begin)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        try:
            for _ in range(wait):
                begin = int(child.stdout.readline())
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            child.stdout.close()
    log = MetricsFile(path)
    log.rewind(begin)
    log.close()
    assert begin == 100 and [r["step"] for r in read(path)] == list(range(1, 101))


def test_where_nothing_can_be_appended_the_file_is_uploaded_at_sync(tmp_path, monkeypatch):
    bucket = tmp_path / "bucket" / "m"
    monkeypatch.setattr(metrics, "is_local", lambda path: "bucket" not in os.fspath(path))
    log = MetricsFile(bucket)
    log.write(row(1))
    assert not bucket.exists()
    log.sync()
    log.write(row(2))
    assert [r["step"] for r in read(bucket)] == [1]
    log.close()
    assert [r["step"] for r in read(bucket)] == [1, 2]
    again = MetricsFile(bucket)
    again.rewind(1)
    again.write(row(5))
    again.close()
    assert [r["step"] for r in read(bucket)] == [1, 5]
    assert again._folder is not None and not os.path.exists(again._folder.name)


def test_tensorboard_holds_the_same_numbers(tmp_path):
    tensorboardx = pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path)
    board.write(dict(step=1, loss=jnp.float32(0.5), expert=np.array([1.0, 2.0]), note="text", none=None))
    board.rewind(1)
    board.write(dict(step=2, loss=0.25))
    board.sync()
    board.close()
    found, purged = {}, []
    for path in sorted(tmp_path.iterdir()):
        for event in events(path, tensorboardx):
            if event.session_log.status == 1:
                purged.append(event.step)
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    assert found == {("loss", 1): 0.5, ("expert/0", 1): 1.0, ("expert/1", 1): 2.0, ("loss", 2): 0.25}
    assert purged == [2]  # TensorBoard hides what an earlier file has from there on


def events(path, tensorboardx):
    data, at = path.read_bytes(), 0
    while at < len(data):  # uint64 length, uint32 checksum, the event, uint32 checksum
        size = int.from_bytes(data[at : at + 8], "little")
        yield tensorboardx.proto.event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size


def test_tensorboard_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        TensorBoard(tmp_path)


def test_rows_are_json_for_others(tmp_path):
    fill(tmp_path / "m", 1, 2)
    assert [json.loads(line) for line in (tmp_path / "m").read_text().splitlines()] == [row(1), row(2)]
