"""Commands side by side: order, number at a time, a core each, failures and stops."""

import contextlib
import os
import sys
import time

import pytest

from jaxlib_ext.training.beside import CORE, beside

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def say(text, status=0):
    return [sys.executable, "-c", f"import os, sys; print({text!r}, os.environ['{CORE}']); sys.exit({status})"]


def test_all_run_and_each_has_a_core_and_a_log(tmp_path):
    log = lambda name: tmp_path / "logs" / name
    names = list(beside({n: say(n) for n in "abcd"}, 2, log))
    assert sorted(names) == list("abcd")
    said = [log(n).read_text().split() for n in "abcd"]
    assert [words[0] for words in said] == list("abcd")
    assert {words[1] for words in said} == {"0", "1"}


def test_no_more_than_jobs_run_at_a_time(tmp_path):
    begin = time.monotonic()
    commands = {str(i): [sys.executable, "-c", "import time; time.sleep(0.4)"] for i in range(4)}
    looks = []
    assert len(list(beside(commands, 2, lambda n: tmp_path / n, lambda: looks.append(time.monotonic())))) == 4
    assert time.monotonic() - begin > 0.8
    assert len(looks) > 4 and looks[-1] - looks[0] > 0.4  # it may look at how they come along meanwhile


def test_a_failure_says_its_last_error_and_stops_the_others(tmp_path):
    begin = time.monotonic()
    with pytest.raises(OSError, match="^bad failed: the disk is full"):
        list(beside({"bad": say("error: the disk is full\nmore", 1), "long": SLEEP}, 2, lambda n: tmp_path / n))
    assert time.monotonic() - begin < 30


def test_closing_stops_what_runs(tmp_path):
    begin = time.monotonic()
    with contextlib.closing(beside({"quick": say("x"), "long": SLEEP}, 2, lambda n: tmp_path / n)) as names:
        assert next(names) == "quick"
    assert time.monotonic() - begin < 30


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call on this system")
def test_a_command_keeps_to_its_core(tmp_path):
    code = "import os; from jaxlib_ext.training import beside; beside.keep_to_core(); "
    code += "print(len(os.sched_getaffinity(0)))"
    list(beside({"one": [sys.executable, "-c", code]}, 1, lambda n: tmp_path / n))
    assert (tmp_path / "one").read_text().split()[-1] == "1"
