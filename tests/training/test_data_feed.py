"""Batches on the devices: the same on any mesh, ahead of time, and no thread left behind."""

import gc
import subprocess
import sys
import textwrap
import threading

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlib_ext.training.data import Batches, Source, device_batches, eval_batches


def batches(batch=8, time=16):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 200, 1000).astype(np.uint8)
    return Batches(Source("demo", "train", tokens, np.array([0, 300], np.uint64), vocab=256), batch, time, seed=1)


def sharding(*spec, **mesh):
    names = tuple(mesh)
    shape = tuple(mesh.values())
    made = jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(names))
    return NamedSharding(made, PartitionSpec(*spec))


def threads():
    return [thread for thread in threading.enumerate() if thread is not threading.main_thread()]


class Spy:
    """Batches that remember which rows were asked for."""

    steps = None

    def __init__(self, inner):
        self.inner, self.batch, self.time, self.asked = inner, inner.batch, inner.time, []

    def rows(self, step, lo, hi):
        self.asked.append((step, lo, hi))
        return self.inner.rows(step, lo, hi)


MESHES = {
    "fsdp=8": lambda: sharding("fsdp", fsdp=8),
    "data=2,tensor=4": lambda: sharding("data", data=2, tensor=4),
    "data=2,fsdp=2,tensor=2": lambda: sharding(("data", "fsdp"), data=2, fsdp=2, tensor=2),
    "data=4,time=2": lambda: sharding("data", "time", data=4, time=2),
    "replicated": lambda: sharding(fsdp=8),
    "one device": lambda: None,
}


@pytest.mark.parametrize("mesh", MESHES)
def test_a_sharded_batch_is_the_rows_of_the_host(mesh):
    want, where = batches(), MESHES[mesh]()
    with device_batches(want, 3, where) as feed:
        for step in (3, 4, 5):
            got = next(feed)
            for name, rows in want.rows(step, 0, 8).items():
                assert got[name].shape == rows.shape and got[name].dtype == rows.dtype
                assert np.array_equal(got[name], rows), (step, name)
                if where is not None:
                    assert got[name].sharding.is_equivalent_to(where, 2)
                    for shard in got[name].addressable_shards:
                        assert np.array_equal(shard.data, rows[shard.index])


def test_only_the_rows_of_the_devices_are_read_and_each_once():
    for where, ranges in (
        (sharding("data", data=2, tensor=4), [(0, 4), (4, 8)]),
        (sharding("data", "time", data=4, time=2), [(0, 2), (2, 4), (4, 6), (6, 8)]),
        (sharding(fsdp=8), [(0, 8)]),
    ):
        spy = Spy(batches())
        with device_batches(spy, 5, where, prefetch=0) as feed:
            next(feed)
        assert sorted(spy.asked) == [(5, *r) for r in ranges]


def test_a_restart_sees_the_same_batches():
    where = sharding("fsdp", fsdp=8)
    with device_batches(batches(), 0, where) as feed:
        whole = [np.asarray(next(feed)["tokens"]) for _ in range(12)]
    for k in (1, 7):
        with device_batches(batches(), k, where, prefetch=4) as feed:
            assert all(np.array_equal(next(feed)["tokens"], tokens) for tokens in whole[k:])


def test_held_out_batches_end():
    held = eval_batches(batches().source, 8, 16, windows=20)
    with device_batches(held, 0, sharding("fsdp", fsdp=8)) as feed:
        got = list(feed)
    assert len(got) == 3
    for one, rows in zip(got, held, strict=True):
        assert all(np.array_equal(one[name], rows[name]) for name in rows)
    with device_batches(held, 3) as feed:
        assert list(feed) == []


def test_the_thread_reads_ahead_and_ends_with_close():
    before = threads()
    spy = Spy(batches())
    feed = device_batches(spy, 0, prefetch=3)
    next(feed)
    assert len(threads()) == len(before) + 1
    for _ in range(3):
        next(feed)
    feed.close()
    feed.close()
    assert threads() == before
    assert len(spy.asked) <= 4 + 3 + 1  # those returned, those ready, and one in the making
    with pytest.raises(ValueError, match="these batches were closed"):
        next(feed)


def test_forgetting_to_close_leaves_no_thread():
    before = threads()
    feed = device_batches(batches(), 0)
    next(feed)
    del feed
    gc.collect()
    assert threads() == before


def test_an_open_feed_at_exit_is_silent():
    lines = """
        import numpy as np
        from jaxlib_ext.training.data import Batches, Source, device_batches
        source = Source("demo", "train", np.zeros(1000, np.uint8), np.array([0], np.uint64), vocab=256)
        feed = device_batches(Batches(source, 4, 16))
        next(feed)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(lines)], capture_output=True, text=True)
    assert done.returncode == 0 and "Exception" not in done.stderr, done.stderr


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_failure_in_the_thread_surfaces_with_its_message(prefetch):
    before = threads()
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, 1000).astype(np.uint16)
    tokens[500] = 60
    bad = Batches(Source("bad.bin", "train", tokens, np.array([0], np.uint64), vocab=60), 4, 16)
    with device_batches(bad, 0, prefetch=prefetch) as feed:
        with pytest.raises(ValueError) as caught:
            for _ in range(100):
                next(feed)
    assert str(caught.value) == "bad.bin: token 500 has id 60, beyond the vocabulary of 60"
    assert threads() == before


def test_what_does_not_divide_is_said_before_anything_is_read():
    spy = Spy(batches(batch=6))
    with pytest.raises(ValueError, match="a batch of 6 sequences of 16 tokens does not divide over") as caught:
        device_batches(spy, 0, sharding("fsdp", fsdp=8))
    assert "\n" not in str(caught.value) and spy.asked == []
    with pytest.raises(ValueError, match="start_step -1 and prefetch 2 must be at least 0"):
        device_batches(spy, -1)
