"""Several commands at once on one machine, each on a core of its own: two small models then train twice as fast."""

import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

CORE = "JAXLIB_EXT_CORE"  # which of its cores a command started here keeps to, if it calls `keep_to_core`


def keep_to_core() -> None:
    """In the command, before jax counts the cores. Does nothing where nobody asked or the system cannot."""
    if CORE in os.environ and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ[CORE]) % len(cores)]})


def beside(commands: Mapping[str, Sequence[str]], jobs: int, log: Callable[[str], pathlib.Path],
           look: Callable[[], None] = lambda: None) -> Iterator[str]:  # fmt: skip
    """Runs the commands in their order, `jobs` at a time, and yields the name of each as it ends.

    log: name -> file for its output. look: called many times a second while they run. Raises OSError with the last
    error line of a command that fails; the others are then sent SIGTERM and waited for, as they are when the iterator
    is closed.
    """
    queue, running, free = list(commands), {}, list(range(jobs))
    try:
        while queue or running:
            while queue and free:
                name, place = queue.pop(0), free.pop(0)
                running[name] = _start(commands[name], log(name), place), place
            time.sleep(0.05)
            look()
            for name in [n for n, (process, _) in running.items() if process.poll() is not None]:
                process, place = running.pop(name)
                free.append(place)
                if process.returncode:
                    raise OSError(f"{name} failed: {_last_line(log(name))}")
                yield name
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def _start(words: Sequence[str], log: pathlib.Path, place: int) -> subprocess.Popen:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        return subprocess.Popen(words, stdout=out, stderr=out, env=os.environ | {CORE: str(place)})


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_text().strip().splitlines() or ["nothing was said"]
    said = [line for line in lines if line.startswith("error: ")]
    return (said or lines)[-1].removeprefix("error: ")
