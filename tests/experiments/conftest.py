"""Scripts as a user runs them: in processes of their own, with exit status and output."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = (
    "--data", "{data}", "--model.width", "16", "--model.mixer", "attention(heads=2)", "--batch", "4", "--time", "16",
    "--learning-rate", "0.01", "--eval-windows", "8",
)  # fmt: skip


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder with a little text to train on."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(40):
        (folder / f"{i}.txt").write_text(f"line {i} of a small text, and {i * i} more words. " * 12)
    return str(folder)


@pytest.fixture(scope="session")
def environment():
    """One compile cache for all scripts, one device unless a test asks for more, the outside mixer on the path."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # scripts compile more than they run
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": str(ROOT / "tests" / "outside"),
    }


@pytest.fixture(scope="session")
def start(environment, text):
    """start(script, *arguments, **env) -> Popen; "{data}" stands for the text folder."""

    def run(script, *arguments, **env):
        words = [a.replace("{data}", text) for a in arguments]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "experiments" / script), *words], env=environment | env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def run(start):
    """run(script, *arguments, **env) -> (exit status, output, errors)."""

    def ended(script, *arguments, **env):
        process = start(script, *arguments, **env)
        out, err = process.communicate(timeout=900)
        return process.returncode, out, err

    return ended


@pytest.fixture(scope="session")
def begin(start):
    """begin(out, *arguments, **env) -> Popen: train.py on the small model."""
    return lambda out, *arguments, **env: start("train.py", "--out", str(out), *SMALL, *arguments, **env)


@pytest.fixture(scope="session")
def train(begin):
    """train(out, *arguments, **env) -> (exit status, output, errors): the same to its end."""

    def ended(out, *arguments, **env):
        process = begin(out, *arguments, **env)
        said = process.communicate(timeout=900)
        return process.returncode, *said

    return ended
