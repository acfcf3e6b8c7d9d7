"""A ladder small enough for a test: it goes on, runs as an array of jobs, and takes a mixer from outside."""

import csv
import json
import shutil

import pytest

DESIGN = "16:8k*2,16k,32k; 24:8k,16k; 32:8k,16k,48k"
SMALL = ("--data", "{data}", "--time", "32", "--batch", "4", "--depth", "1", "--design", DESIGN, "--eval-windows", "16")


def table(folder):
    with (folder / "runs.csv").open() as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def ladder(run):
    return lambda out, *arguments: run("ladder.py", "--out", str(out), *SMALL, *arguments)


@pytest.fixture(scope="module")
def jobs(ladder, tmp_path_factory):
    """(folder, what the first job said, its table, what the second said): a ladder that an array has climbed."""
    folder = tmp_path_factory.mktemp("jobs")
    first = ladder(folder, "--only", "1/2")
    rows = table(folder)
    return folder, first, rows, ladder(folder, "--only", "2/2")


@pytest.mark.slow
def test_jobs_of_an_array_make_one_ladder(ladder, jobs):
    folder, (status, out, err), first, second = jobs
    assert status == 0 and "5 of 9 runs have ended" in out, err
    status, out, err = second
    assert status in (0, 1), err  # so little data may give a degenerate fit, which must then say so
    assert (status == 1) == ("the fit is degenerate" in err)
    rows = table(folder)
    assert len(rows) == 9 and all(row in rows for row in first)
    found = json.loads((folder / "fit.json").read_text())
    assert [(t["width"], t["tokens"]) for t in found["held_out"]] == [(32, 48000)]
    assert found["held_out"][0]["low"] < found["held_out"][0]["predicted"] < found["held_out"][0]["high"]
    assert (found["status"] == "converged") == (status == 0)
    assert (folder / "ladder.png").stat().st_size > 10_000
    again = ladder(folder)  # nothing is left to train: the same conclusion
    assert again[0] == status and "0 to do here" in again[1] and table(folder) == rows


@pytest.mark.slow
def test_several_mixers_make_one_table(ladder, jobs, tmp_path):
    """A ladder each, the one that it would be alone, and every difference with its limits."""
    both, names = tmp_path / "two", ["attention(heads=1)", "attention(heads=1,window=8)"]
    shutil.copytree(jobs[0], both / "attention-heads=1")  # the one that has been climbed alone goes on as one of two
    status, out, err = ladder(both, "--mixers", ",".join(names))
    assert status in (0, 1), err
    assert "18 runs, 9 to do here" in out
    assert len(table(both)) == 18
    with (both / "laws.csv").open() as f:
        laws = list(csv.DictReader(f))
    assert [r["mixer"] for r in laws] == names
    with (both / "differences.csv").open() as f:
        rows = {r["what"]: r for r in csv.DictReader(f)}
    assert list(rows) == ["best loss", "alpha", "beta", "E", "held-out run"]
    for name, column in (("best loss", "best_loss"), ("alpha", "alpha"), ("held-out run", "measured")):
        apart = float(laws[0][column]) - float(laws[1][column])
        found = float(rows[name]["measured" if name == "held-out run" else "value"])
        assert found == pytest.approx(apart, rel=1e-6, abs=1e-9)
        assert float(rows[name]["low"]) < float(rows[name]["high"])
    assert (both / "laws.png").stat().st_size > 10_000
    alone, here = (json.loads((folder / "fit.json").read_text()) for folder in (jobs[0], both / "attention-heads=1"))
    assert here["fit"]["theta"] == pytest.approx(alone["fit"]["theta"])


@pytest.mark.slow
def test_a_mixer_from_outside_the_package(ladder, train, tmp_path):
    status, _, err = train(tmp_path / "train", "--steps", "5", "--model.mixer", "outside_mixer:Ema")
    assert status == 0, err
    status, out, err = ladder(tmp_path / "ladder", "--mixer", "outside_mixer:Ema", "--only", "1/9")
    assert status == 0 and "1 of 9 runs have ended" in out, err
    assert table(tmp_path / "ladder")[0]["mixer"] == "outside_mixer:Ema"
