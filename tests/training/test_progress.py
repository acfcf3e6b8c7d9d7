"""The progress line: what it says, how often, and how long it thinks that the rest will take."""

import io
import re

import jax.numpy as jnp
import pytest

from jaxlib_ext.training import progress
from jaxlib_ext.training.progress import Progress, Rate, human_count, human_time


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(terminal):
    """What a terminal shows: a carriage return goes back to the first column."""
    lines = []
    for text in terminal.getvalue().split("\n"):
        line = ""
        for part in text.split("\r"):
            line = part + line[len(part) :]
        lines.append(line)
    return lines


@pytest.mark.parametrize(
    "n, text",
    [
        (0, "0"), (1, "1"), (12, "12"), (999, "999"), (999.4, "999"), (999.6, "1k"), (1234, "1.23k"),
        (50_000, "50k"), (999_499, "999k"), (999_500, "1M"), (1.5e9, "1.5B"), (3e12, "3T"), (7e15, "7Q"),
        (-1500, "-1.5k"), (float("nan"), "nan"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_human_count(n, text):
    assert human_count(n) == text


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0.0 s"), (-3, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
        (61, "1 min 01 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 00 min"), (5400, "1 h 30 min"),
        (86399, "1 d 0 h"), (90_000, "1 d 1 h"), (1e7, "115 d 18 h"), (float("inf"), "unknown"),
    ],
)  # fmt: skip
def test_human_time(seconds, text):
    assert human_time(seconds) == text


def test_the_first_step_does_not_count_for_the_rate():
    rate = Rate()
    for now, step in [(60.0, 1), (60.5, 2), (61.0, 3)]:  # a minute of compiling
        rate.add(now, step)
    assert rate.value(61.0) == 2.0
    alone = Rate()
    alone.add(60.0, 1)
    assert alone.value(61.0) == 0


@pytest.mark.parametrize("start", [0, 5000])
def test_the_rate_holds_over_bursts_pauses_and_many_steps(start):
    rate, now = Rate(), 0.0
    for step in range(1, 3001):
        now += 1.0 if step % 10 == 0 else 0.0  # ten steps at once, as an asynchronous device has them
        if step % 500 == 0:
            now += 50.0  # evaluation, for good part of the run
        rate.add(now, start + step)
        if step > 600:
            assert 0.04 < 1 / rate.value(now) < 0.4
    assert rate.value(now) == pytest.approx(500 / 100, rel=0.15)
    assert len(rate._points) <= progress.POINTS


def test_a_pause_that_happened_once_is_forgotten():
    rate, now = Rate(), 0.0
    for step in range(1, 401):
        now += 1.0 + (500.0 if step == 50 else 0.0)
        rate.add(now, step)
        if step == 51:
            assert rate.value(now) < 0.2
    assert 0.3 < rate.value(now) < 0.6  # half of the time is not behind it yet
    for step in range(401, 700):
        now += 1.0
        rate.add(now, step)
    assert rate.value(now) == pytest.approx(1.0)


def test_the_line_says_what_a_run_wants_to_know():
    clock, out = Clock(), io.StringIO()
    line = Progress(1000, tokens=2048, flops=3e9, peak=1e11, stream=out, silent=False, clock=clock)
    for step in range(1, 101):
        clock.now += 60 if step == 1 else 0.1
        line.update(step, loss=jnp.float32(2.34567), eval_loss=2.5)
    assert line.line() == ("step 100/1000  loss 2.346  eval loss 2.5  20.5k tokens/s  30% of peak  1 min 30 s left")
    assert line.rate == pytest.approx(10) and line.left == pytest.approx(90)
    line.update(1000)
    assert "left" not in line.line() and "eval loss 2.5" in line.line()  # a figure stays until a newer one comes


def test_before_two_steps_nothing_is_claimed():
    line = Progress(10, tokens=5, flops=1.0, peak=1.0, stream=io.StringIO(), silent=False, clock=Clock())
    assert line.line() == "step 0/10" and line.rate == 0 and human_time(line.left) == "unknown"
    line.update(1)
    assert line.line() == "step 1/10"


def test_a_run_that_goes_on_counts_only_its_own_steps():
    clock = Clock()
    line = Progress(100, start=50, stream=io.StringIO(), silent=False, clock=clock)
    for step in (51, 52, 53):
        clock.now += 2
        line.update(step)
    assert line.left == pytest.approx(94)


def test_in_a_log_a_line_now_and_then_and_one_at_the_end():
    clock, out = Clock(), io.StringIO()
    with Progress(1000, stream=out, silent=False, clock=clock) as line:
        for step in range(1, 1001):
            clock.now += 0.125
            line.update(step, loss=1.0)
    lines = out.getvalue().splitlines()
    assert [int(step) for step in re.findall(r"^step (\d+)/1000", out.getvalue(), re.M)] == [
        1,
        241,
        481,
        721,
        961,
        1000,
    ]
    assert "\r" not in out.getvalue()
    line.close()
    line.update(1000)
    assert out.getvalue().splitlines() == lines  # closed is closed


def test_the_last_line_is_not_said_twice_but_a_late_figure_is_shown():
    for late, count in ((dict(), 1), (dict(eval_loss=3.0), 2)):
        clock, out = Clock(), io.StringIO()
        with Progress(1, stream=out, silent=False, clock=clock) as line:
            line.update(1, loss=1.0)
            line.update(1, **late)
        assert len(out.getvalue().splitlines()) == count
    out = io.StringIO()
    Progress(1, stream=out, silent=False).close()
    assert out.getvalue() == ""


def test_on_a_terminal_one_line_is_rewritten(monkeypatch):
    clock, out = Clock(), Terminal()
    with Progress(2000, stream=out, silent=False, clock=clock) as line:
        line.update(1, loss=1234567.0)
        clock.now += 1
        line.update(2, loss=1.0)
        assert shown(out)[-1].rstrip() == "step 2/2000  loss 1  33 min 18 s left"
        drawn = out.getvalue()
        clock.now += 0.01
        line.update(3, loss=1.0)
        assert out.getvalue() == drawn  # not more often than the eye can see
    assert [text.rstrip() for text in shown(out)][1:] == [""]
    assert shown(out)[0].startswith("step 3/2000  loss 1  ")
    monkeypatch.setenv("COLUMNS", "20")
    narrow = Terminal()
    with Progress(2000, stream=narrow, silent=False, clock=clock) as line:
        line.update(1, loss=1.0, eval_loss=2.0)
    assert all(len(text) < 20 for text in shown(narrow))


def test_processes_other_than_the_first_are_silent(monkeypatch):
    for lead, expected in ((True, 1), (False, 0)):
        monkeypatch.setattr(progress, "is_lead", lambda lead=lead: lead)
        out = io.StringIO()
        with Progress(5, stream=out) as line:
            line.update(1)
            line.update(2)
            assert line.step == 2
        assert len(out.getvalue().splitlines()) == 2 * expected
