"""Where a run writes: local folders and gs:// alike, found fit before anything is computed."""

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .distributed import barrier, is_lead


def is_local(path: Any) -> bool:
    """False for gs:// and its like."""
    return "://" not in os.fspath(path)


def replace_text(path: Any, text: str) -> None:
    """Writes a text file in one step: whoever reads it finds the old content or the new one, never a part."""
    part = path.parent / (path.name + ".part")
    try:
        with part.open("wb") as f:
            f.write(text.encode())
            if is_local(path):
                f.flush()
                os.fsync(f.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # a part that cannot be completed is of no use
            part.unlink(missing_ok=True)
        raise


def check_writable(folder: Any) -> None:
    """Makes the folder if need be, writes a small file there and removes it. Raises OSError in one line."""
    from etils import epath

    folder = epath.Path(folder)
    probe = folder / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(probe, "x" * 4096)
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {reason(error)}") from error


def check_shared(folder: Any, seconds: float = 10.0) -> None:
    """Raises ValueError if some process does not see in the folder what process 0 writes there.

    So it tells a local folder on several machines from a shared one. seconds: how long a file may take to be
    seen. All processes call it; with one it does nothing. Process 0 raises OSError if it cannot write there.
    """
    from etils import epath

    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    folder = epath.Path(folder)
    name = agree(lambda: f".shared-{secrets.token_hex(8)}")
    token = folder / name
    if is_lead():
        check_writable(folder)
        token.write_text(name)
    barrier("checkpoint folder")
    end = time.monotonic() + seconds
    while not (seen := token.exists()) and time.monotonic() < end:
        time.sleep(0.2)
    all_seen = np.ravel(multihost_utils.process_allgather(np.int32(seen)))
    if is_lead():
        token.unlink()
    if not all_seen.all():
        blind = ", ".join(str(i) for i in np.flatnonzero(all_seen == 0))
        raise ValueError(
            f"{folder} is not shared by all processes: process {blind} does not see the files of process 0; "
            "give a folder on a shared file system or gs://"
        )


def agree(decide: Callable[[], Any]) -> Any:
    """What process 0 decides (JSON), in every process. Its ValueError or OSError is a ValueError there."""
    if jax.process_count() == 1:
        return decide()
    from jax.experimental import multihost_utils

    text, failure = b"", None
    if is_lead():
        try:
            answer = dict(value=decide())
        except (ValueError, OSError) as error:
            failure, answer = error, dict(error=str(error))
        text = json.dumps(answer).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    data = np.frombuffer(text, np.uint8) if is_lead() else np.zeros(size, np.uint8)
    answer = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(data), np.uint8)))
    if failure is not None:
        raise failure
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["value"]


def reason(error: BaseException) -> str:
    """One line; of a failed write in tensorstore, whose texts run to half a page, what the system said."""
    text = str(error)
    said = re.search(r": ([^:\[\]]+) \[os_error_code", text)
    return said[1] if said else (getattr(error, "strerror", None) or (text.splitlines() or [repr(error)])[0])
