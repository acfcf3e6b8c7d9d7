"""What a run measures, as rows: a JSON object a line in a file, and TensorBoard if asked.

A row is a dict with the integer "step"; columns that hold wall-clock time are named `time_...`, so that two
runs can be compared without them. After a crash and `rewind(step)`, every row up to the checkpoint's step is
there once.
"""

import json
import os
import secrets
import tempfile
from collections.abc import Callable
from typing import Any

from .storage import is_local, reason, replace_text

Row = dict[str, Any]


def read(path: str | os.PathLike) -> list[Row]:
    """The rows of a metrics file. A last line that is not complete is left out: the run may be writing it.

    Raises ValueError that names file and line if another line is not a row.
    """
    from etils import epath

    return [json.loads(line) for line in _lines(epath.Path(path))]


class MetricsFile:
    """Appends rows to a file, one line each, and goes on where it ended. One process of a run has it.

    A row is with the operating system when `write` returns: killing the process loses none. On gs:// nothing
    can be appended, so the file is kept in a temporary folder here and uploaded by `sync` and `close`; the
    rows since the last `sync` are then lost with the process, which is why it comes before a checkpoint.
    """

    def __init__(self, path: str | os.PathLike):
        from etils import epath

        self.path = epath.Path(path)
        self._folder, self._local = None, self.path
        if not is_local(self.path):
            self._folder = tempfile.TemporaryDirectory(prefix="jaxlib_ext-")
            self._local = epath.Path(self._folder.name) / self.path.name
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._folder and self.path.exists():
                self._local.write_bytes(self.path.read_bytes())
            self._file = self._keep(lambda row: True)
        except OSError as error:
            raise self._failure(error) from error

    def write(self, row: Row) -> None:
        """Adds a row: "step", the other columns by name, then the times. Arrays become numbers or lists."""
        if not isinstance(_plain(row.get("step")), int):
            raise ValueError(f'a row of metrics needs a whole number "step", not {row.get("step")!r}')
        keys = sorted(row, key=lambda name: (name != "step", name.startswith("time_"), name))
        line = (json.dumps({name: row[name] for name in keys}, default=_plain) + "\n").encode()
        try:
            while line:  # a short write is how a disk says that it is nearly full
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._failure(error) from error

    def sync(self) -> None:
        """Puts all rows where a power cut, or on gs:// the end of this process, does not lose them."""
        try:
            if self._folder:
                self.path.write_bytes(self._local.read_bytes())
            else:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from error

    def rewind(self, step: int) -> None:
        """Drops the rows after `step`, in one go. For a run that goes on from a checkpoint."""
        try:
            self._file.close()
            self._file = self._keep(lambda row: row["step"] <= step)
            self.sync()
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()
            if self._folder:
                self._folder.cleanup()

    def _keep(self, wanted: Callable[[Row], bool]) -> Any:
        """The file, open at its end, with the wanted rows and without a line that a crash has cut off."""
        text = "".join(line + "\n" for line in _lines(self._local) if wanted(json.loads(line)))
        if self._local.exists() and self._local.read_bytes() != text.encode():
            replace_text(self._local, text)
        return open(self._local, "ab", buffering=0)

    def _failure(self, error: OSError) -> OSError:
        return OSError(f"cannot write metrics to {self.path}: {reason(error)}")


class TensorBoard:
    """The same rows as TensorBoard events; a vector becomes a curve an entry. Needs tensorboardX."""

    def __init__(self, path: str | os.PathLike):
        self.path, self._writer = os.fspath(path), _writer(path)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            value = _plain(value)
            entries = enumerate(value) if isinstance(value, list) else [(None, value)]
            for i, number in entries:
                if name != "step" and isinstance(number, int | float):
                    self._writer.add_scalar(name if i is None else f"{name}/{i}", number, _plain(row["step"]))

    def sync(self) -> None:
        self._writer.flush()

    def rewind(self, step: int) -> None:
        """Makes TensorBoard hide what was written for later steps."""
        self._writer.close()
        self._writer = _writer(self.path, purge_step=step + 1)

    def close(self) -> None:
        self._writer.close()


def _writer(path: str | os.PathLike, **options: Any) -> Any:
    try:
        import tensorboardX
    except ImportError:
        raise ImportError("TensorBoard needs the package tensorboardX: pip install tensorboardX") from None
    # Its files are named by the second, and a second one of that second would replace the first.
    return tensorboardX.SummaryWriter(os.fspath(path), filename_suffix=f".{secrets.token_hex(4)}", **options)


def _lines(path: Any) -> list[str]:
    """The complete lines of a file of rows; none if there is no file."""
    if not path.exists():
        return []
    *lines, torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            good = isinstance(json.loads(line)["step"], int)
        except (ValueError, TypeError, KeyError):
            good = False
        if not good:
            raise ValueError(f"{path} line {number} is not a row of metrics: {line[:60]!r}")
    return [line.decode() for line in lines]


def _plain(value: Any) -> Any:
    """Arrays of numpy and jax as Python numbers and lists."""
    return value.tolist() if hasattr(value, "tolist") else value
