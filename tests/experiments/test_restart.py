"""A run that is killed, stopped or damaged goes on as if nothing had been: bit by bit."""

import json
import os
import random
import signal
import time

import jax
import numpy as np
import pytest

from jaxlib_ext.models.config import build
from jaxlib_ext.training import load
from jaxlib_ext.training.checkpoint import Checkpoints
from jaxlib_ext.training.config import loads
from jaxlib_ext.training.job import step_of

STEPS = 60
OPTIONS = ("--steps", str(STEPS), "--save-every", "10", "--eval-every", "20", "--log-every", "1", "--ema", "0.9")


def rows(folder):
    """All metrics rows without their time columns."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time_")} for line in lines]


def final(folder):
    """Every array of the last checkpoint, and its step."""
    saved = folder / "config.json"
    config, vocab, _ = loads(saved.read_text(), str(saved))
    step, _ = step_of(config, build(config.model, vocab), None)
    n, state, extra = Checkpoints(folder / "checkpoints").restore(step.abstract)
    return n, [np.asarray(v) for v in jax.tree.leaves(state)], extra


def same(a, b):
    assert rows(a) == rows(b)
    (n, left, extra), (m, right, other) = final(a), final(b)
    assert n == m == STEPS and extra == other
    for x, y in zip(left, right, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    status, _, err = train(out, *OPTIONS)
    assert status == 0, err
    assert [r["step"] for r in rows(out) if "loss" in r] == list(range(1, STEPS + 1))
    assert [r["step"] for r in rows(out) if "eval_loss" in r] == [20, 40, 60]
    return out


def killed_when(begin, out, condition):
    """Runs until condition(out) and kills at once; False if the run ended before."""
    process = begin(out, *OPTIONS)
    try:
        while process.poll() is None:
            if condition(out):
                process.send_signal(signal.SIGKILL)
                process.communicate()
                return True
            time.sleep(0.001)
        process.communicate()
        return False
    finally:
        if process.poll() is None:
            process.kill()


def steps_logged(out):
    file = out / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def saving(out):
    """A save is under way: a folder without a manifest."""
    folder = out / "checkpoints"
    return folder.exists() and any(not (p / "manifest.json").exists() for p in folder.iterdir() if p.is_dir())


@pytest.mark.slow
def test_sigkill_at_random_steps_and_in_saves_changes_nothing(begin, train, whole, tmp_path):
    rng = random.Random(0)
    counts = [rng.randrange(5, 55) for _ in range(4)]
    conditions = [lambda out, n=n: steps_logged(out) >= n for n in counts] + [saving] * 3
    kills = 0
    for i, condition in enumerate(conditions):
        out = tmp_path / str(i)
        kills += killed_when(begin, out, condition)
        status, _, err = train(out, *OPTIONS)
        assert status == 0, err
        same(out, whole)
    assert kills >= 5, "the run ended before it could be killed"


def test_one_kill_and_a_restart(begin, train, whole, tmp_path):
    assert killed_when(begin, tmp_path, lambda out: steps_logged(out) >= 33)
    status, _, err = train(tmp_path, *OPTIONS)
    assert status == 0, err
    same(tmp_path, whole)


@pytest.mark.slow
def test_sigterm_saves_and_ends_with_status_0(begin, train, whole, tmp_path):
    process = begin(tmp_path, *OPTIONS)
    while steps_logged(tmp_path) < 7:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "preempted, saved" in out
    assert Checkpoints(tmp_path / "checkpoints").latest() == rows(tmp_path)[-1]["step"] < STEPS
    assert train(tmp_path, *OPTIONS)[0] == 0
    # the eval rows of a preempted run are those of the whole one, and so is everything else
    same(tmp_path, whole)


@pytest.mark.slow
def test_a_changed_model_or_data_names_the_field(train, whole, tmp_path):
    for change, said in (
        (("--model.width", "32"), "model.width was 16, is 32"),
        (("--seed", "1"), "seed was 0, is 1"),
        (("--model.mixer", "gla(heads=2)"), "model.mixer was 'attention(heads=2)', is 'gla(heads=2)'"),
    ):
        status, _, err = train(whole, *OPTIONS, *change)
        assert status == 2 and said in err and err.count("\n") == 1


@pytest.mark.slow
def test_another_mesh_goes_on_with_the_same_batches(begin, train, whole, tmp_path):
    assert killed_when(begin, tmp_path, lambda out: steps_logged(out) >= 25)
    status, _, err = train(tmp_path, *OPTIONS, "--mesh", "fsdp=2,tensor=2", JAX_NUM_CPU_DEVICES="4")
    assert status == 0, err
    for row, expected in zip(rows(tmp_path), rows(whole), strict=True):
        assert row["step"] == expected["step"]
        for name in row.keys() & {"loss", "eval_loss"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-4)


def test_load_gives_back_model_and_parameters(whole):
    model, params, step = load(str(whole))
    averaged = load(str(whole), ema=True)[1]
    assert step == STEPS and model.width == 16
    assert any(
        (np.asarray(a) != np.asarray(b)).any() for a, b in zip(*map(jax.tree.leaves, (params, averaged)), strict=True)
    )


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(train, tmp_path):
    options = ("--steps", "40", "--save-every", "2", "--optimizer", "sgd", "--learning-rate", "1e12", "--schedule",
               "linear", "--warmup", "1.0", "--clip", "None")  # fmt: skip
    status, _, err = train(tmp_path, *options)
    assert status == 1 and "error: step " in err and "not finite" in err
    step = int(err.split("error: step ")[1].split(":")[0])
    latest = Checkpoints(tmp_path / "checkpoints").latest()
    assert latest is None or latest < step


@pytest.mark.slow
def test_a_profile_and_tensorboard_are_written_when_asked_for(train, tmp_path):
    options = ("--steps", "6", "--profile", "2:3", "--tensorboard", "--log-every", "2")
    status, _, err = train(tmp_path, *options)
    assert status == 0, err
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
