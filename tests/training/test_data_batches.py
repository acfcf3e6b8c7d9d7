"""Order, windows and batches: pure lookups that lose nothing and repeat exactly."""

import numpy as np
import pytest

from jaxlib_ext.training.data import Batches, Source, Windows, eval_batches, open_source, place


def stream(size=1000, vocab=200, documents=9, marked=True, seed=0):
    rng = np.random.default_rng(seed)
    bounds = np.sort(rng.choice(np.arange(1, size), documents - 1, replace=False))
    bounds = np.concatenate([[0], bounds]).astype(np.uint64)
    tokens = rng.integers(1, vocab, size).astype(np.uint8)
    return Source("demo", "train", tokens, bounds, vocab=256, marked=marked)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_every_epoch_is_a_permutation(n):
    for epoch in (0, 1, 7):
        assert np.array_equal(np.sort(place(np.arange(epoch * n, (epoch + 1) * n), n, 3)), np.arange(n))


def test_orders_differ_between_epochs_and_seeds():
    n = 1000
    orders = [place(np.arange(e * n, (e + 1) * n), n, s) for s in (0, 1, 2, -5, 2**40) for e in range(5)]
    for i, one in enumerate(orders):
        for other in orders[i + 1 :]:
            assert np.mean(one == other) < 0.02  # seed + 1 is not the next epoch either


def test_the_order_looks_random_and_never_changes():
    n = 3000
    order = place(np.arange(n), n, 0)
    # Of a random order: mean step n/3, half of the neighbours rising, rank correlation about n ** -0.5.
    assert abs(np.mean(np.abs(np.diff(order))) / n - 1 / 3) < 0.02
    assert abs(np.mean(np.diff(order) > 0) - 0.5) < 0.03
    assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 0.06
    # Written down: a change here would break every run that resumes.
    assert place(np.arange(8), 1000, 0).tolist() == GOLDEN
    big = place(np.array([0, 2**40, 2**62]), 10**12, 0)
    assert big.dtype == np.int64 and (big >= 0).all() and (big < 10**12).all()


GOLDEN = [235, 97, 712, 439, 284, 432, 283, 221]


def test_any_sample_is_the_same_alone_or_in_company():
    samples = np.array([2999, 0, 17, 1000, 1000, 999])
    alone = [int(place(np.array(i), 1000, 5)) for i in samples]
    assert place(samples, 1000, 5).tolist() == alone
    assert place(samples.reshape(2, 3), 1000, 5).ravel().tolist() == alone
    with pytest.raises(ValueError, match="samples start at 0 and n at 1"):
        place(np.array([-1]), 10, 0)


@pytest.mark.parametrize("time", [1, 7, 64, 999])
def test_windows_lose_no_token_and_targets_are_the_next(time):
    source = stream()
    windows = Windows(source, time)
    rows = [windows[k] for k in range(len(windows))]
    joined = np.concatenate([row["tokens"] for row in rows])
    assert np.array_equal(joined, source.read(0, len(joined)))
    assert source.size - 1 - len(joined) < time  # what does not fill a window is less than one
    assert np.array_equal(np.concatenate([row["targets"] for row in rows]), source.read(1, len(joined) + 1))
    for row in rows:
        assert np.array_equal(row["tokens"][1:], row["targets"][:-1])
        assert row["tokens"].dtype == row["targets"].dtype == np.int32
        assert row["start"].dtype == row["mask"].dtype == bool and len(row["start"]) == len(row["mask"]) == time


def test_starts_are_the_documents_and_the_window_itself():
    for marked in (True, False):
        source = stream(marked=marked)
        time, found, masked = 64, set(), set()
        for k in range(len(windows := Windows(source, time))):
            row = windows[k]
            assert row["start"][0]
            found |= {k * time + t for t in range(1, time) if row["start"][t]}
            masked |= {k * time + t + 1 for t in range(time) if not row["mask"][t]}
        covered = len(windows) * time
        bounds = {int(b) for b in source.bounds}
        assert found == {b for b in bounds if b < covered and b % time}
        # Without a marker no loss is taken on a document's first token, wherever the window is cut.
        assert masked == (set() if marked else {b for b in bounds if 0 < b <= covered})


def test_a_target_beyond_the_window_is_masked_when_unmarked():
    tokens, bounds = np.arange(1, 10, dtype=np.uint8), np.array([0, 4], np.uint64)
    windows = Windows(Source("demo", "train", tokens, bounds, vocab=256, marked=False), 4)
    assert windows[0]["mask"].tolist() == [True, True, True, False]
    assert windows[1]["mask"].all() and windows[1]["start"].tolist() == [True, False, False, False]


def test_a_sequence_longer_than_the_data_names_both():
    assert len(Windows(stream(), 999)) == 1
    message = "a sequence of 1000 tokens is longer than the data: the train split of demo has 1000 tokens, and 1001"
    for make in (
        lambda s: Windows(s, 1000),
        lambda s: Batches(s, 4, 1000),
        lambda s: eval_batches(s, 4, 1000, 2),
    ):
        with pytest.raises(ValueError, match=message):
            make(stream())
    for bad, message in (((0, 8), "batch must be at least 1, not 0"), ((4, 0), "at least 1 token, not 0")):
        with pytest.raises(ValueError, match=message):
            Batches(stream(), *bad)


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(one[name], other[name]) and one[name].dtype == other[name].dtype, name


def test_rows_are_samples_however_they_are_shared_out():
    batches = Batches(stream(), 8, 16, seed=4)
    for step in (0, 7, 1000):  # 62 windows: step 7 crosses into the second epoch
        whole = batches.rows(step, 0, 8)
        same(whole, {k: np.stack([batches.sample(step * 8 + r)[k] for r in range(8)]) for k in whole})
        for processes in (2, 4, 8):
            size = 8 // processes
            parts = [batches.rows(step, p * size, (p + 1) * size) for p in reversed(range(processes))]
            same(whole, {k: np.concatenate([part[k] for part in reversed(parts)]) for k in whole})
    # Another process, another batch size: the same samples in the same order.
    wider = Batches(stream(), 16, 16, seed=4).rows(3, 0, 16)
    same(wider, {k: np.concatenate([batches.rows(s, 0, 8)[k] for s in (6, 7)]) for k in wider})
    assert not np.array_equal(batches.rows(0, 0, 8)["tokens"], Batches(stream(), 8, 16, seed=5).rows(0, 0, 8)["tokens"])
    with pytest.raises(IndexError, match="rows 4 .. 9 of step 0: there are 8 rows"):
        batches.rows(0, 4, 9)


def test_an_epoch_reads_every_window_once():
    batches = Batches(stream(), 1, 16, seed=4)
    n = len(batches.windows)
    firsts = sorted(batches.windows[k]["tokens"].tobytes() for k in range(n))
    for epoch in (0, 3):
        seen = sorted(batches.sample(epoch * n + i)["tokens"].tobytes() for i in range(n))
        assert seen == firsts


def test_held_out_windows_are_fixed_and_spread():
    source = stream()
    batches = eval_batches(source, 4, 16, windows=10)
    assert batches.steps == 3 and batches.time == 16 and len(list(batches)) == 3
    assert batches.chosen == tuple(k * 62 // 10 for k in range(10))
    rows = [batches.rows(2, r, r + 1) for r in range(4)]
    for r, row in enumerate(rows):
        assert row["mask"].all() if r < 2 else not row["mask"].any()
    whole = list(batches)
    for n, k in enumerate(batches.chosen):
        same({name: v[n % 4] for name, v in whole[n // 4].items()}, batches.windows[k])
    # The batch size changes nothing but the grouping.
    other = np.concatenate([b["tokens"] for b in eval_batches(source, 5, 16, windows=10)])
    assert np.array_equal(other, np.concatenate([b["tokens"] for b in whole])[:10])
    with pytest.raises(IndexError, match="there are 4 rows and 3 steps"):
        batches.rows(3, 0, 4)
    with pytest.raises(ValueError, match="windows must be at least 1, not 0"):
        eval_batches(source, 4, 16, windows=0)


def test_too_few_held_out_windows_are_all_used_and_said(caplog):
    batches = eval_batches(stream(), 4, 64, windows=500)
    assert batches.chosen == tuple(range(15))
    assert caplog.messages == ["the train split of demo has 15 windows of 64 tokens, not 500: all are used"]


def test_a_window_list_is_a_source_for_grain():
    import grain

    windows = Windows(stream(), 16)
    dataset = grain.MapDataset.source(windows).shuffle(seed=0).repeat().batch(4)
    batch = dataset[3]
    assert batch is not None and batch["tokens"].shape == (4, 16)


def test_the_default_corpus_gives_batches():
    batches = Batches(open_source("stdlib"), 4, 128, seed=0)
    rows = batches.rows(10**6, 0, 4)  # far beyond the first epoch
    assert rows["tokens"].shape == (4, 128) and rows["mask"].all()
    assert np.array_equal(rows["tokens"][:, 1:] == 0, rows["start"][:, 1:])  # byte 0 is the marker alone
