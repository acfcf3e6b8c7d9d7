"""plan.py as a user runs it: table, JSON, exit statuses, one line for everything that is refused."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxlib_ext.targets import topology

pytestmark = pytest.mark.targets
ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = (
    "--width",
    "64",
    "--depth",
    "2",
    "--mixer",
    "attention(heads=2)",
    "--channel",
    "glu",
    "--vocab",
    "256",
    "--seq",
    "64",
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """plan(*arguments) -> (exit status, output, errors, what the JSON file holds or None)."""
    folder = tmp_path_factory.mktemp("plan")

    def run(*arguments):
        out = folder / "plan.json"
        out.unlink(missing_ok=True)
        words = [sys.executable, str(ROOT / "experiments" / "plan.py"), *arguments, "--out", str(out)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment, cwd=folder)
        return done.returncode, done.stdout, done.stderr, json.loads(out.read_text()) if out.exists() else None

    return run


def refused(result, said):
    status, _, err, data = result
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(lines) == 1 and said in lines[0] and "Traceback" not in err and data is None, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "v5e:16"), "the torus of v5e has 2 dimensions"),
        (("--model", "8b"), "unknown model '8b'"),
        (("--option", "xla_flag"), "option 'xla_flag' is not flag=value"),
    ],
)
def test_refusals_that_need_no_compiler(plan, arguments, said):
    refused(plan(*arguments), said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "v5e:3x5"), "libtpu has no such topology"),
        (("--target", "v5e:4x4", "--mesh", "fsdp=3"), "mesh fsdp=3 needs 3 devices, 16 are here"),
        (("--target", "h100x8", "--batch", "4"), "does not divide over 8"),
        (("--target", "h100x8", *TINY, "--mixer", "attenton"), "did you mean attention"),
    ],
)
def test_refusals(plan, target, arguments, said):
    target("v5e:2x2" if arguments[1].startswith("v5e") else "h100x8")
    refused(plan(*arguments), said)


@pytest.mark.parametrize("name", ["v5e:4x4", "h100x8"])
def test_a_missing_package_is_one_line(name, monkeypatch, capsys):
    script = ROOT / "experiments" / "plan.py"
    found = importlib.util.spec_from_file_location("plan", script)
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "plan", module)
    found.loader.exec_module(module)
    monkeypatch.setattr(topology, "_version", lambda package: None)
    monkeypatch.setattr(sys, "argv", [str(script), "--target", name, "--out", ""])
    assert module.main() == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert 'pip install "jaxlib-ext[targets]"' in line


def test_a_plan(plan, target):
    target("h100x2")
    status, out, err, data = plan(
        *TINY, "--target", "h100x2", "--mesh", "fsdp=2", "--batch", "8", "--optimizer", "lion"
    )
    assert status == 0, err
    assert "memory per device" in out and "collectives per step" in out and "MFU at most" in out and "compiling" in err
    report = data["report"]
    assert report["mesh"] == {"fsdp": 2} and report["memory"]["needed"] > 0 and data["plan"]["optimizer"] == "lion"
    assert report["roofline"]["floor"] > 0


def test_out_of_memory(plan, target):
    target("h100x1")
    huge = ("--target", "h100x1", "--batch", "65536", "--vocab", "4096", "--remat", "none")
    status, _, err, data = plan(*TINY, *huge)
    assert status == 1 and data is None, err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "out of memory on h100x1" in line and line.count("GiB") == 2
    assert "what would help: " in err and "--remat full" in err and "--accumulate 2" in err


def test_a_search_ranks_what_fits(plan, target):
    target("h100x2")
    status, out, err, data = plan(*TINY, "--target", "h100x2", "--batch", "8", "--search", "--limit", "3")
    assert status == 0, err
    ranked = data["ranked"]
    assert len(ranked) == 3 and "3 fit, 3 compiled" in out
    assert any("--limit is reached" in reason for reason in data["refused"].values())
    floors = [row["report"]["roofline"]["floor"] for row in ranked]
    assert floors == sorted(floors)
    assert {row["choice"]["mesh"] for row in ranked} >= {"fsdp=2", "tensor=2"}
