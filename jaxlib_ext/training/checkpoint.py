"""Checkpoints: one folder a step, written in the background by Orbax, whole or not there at all.

    with Checkpoints("out/checkpoints") as checkpoints:
        found = checkpoints.restore(abstract_state)
        ...
        checkpoints.save(step, state, dict(data=position))

The path of an array ("params/unit/0/token/q") is its key, so any sharding, mesh and process count can read
what another wrote. Orbax does not notice a flipped byte; the manifest (manifest.py) does. A plain
`orbax.checkpoint.StandardCheckpointer` can open the folder of a step, as nested dicts.
"""

import json
import logging
import os
import re
import threading
from typing import Any

import jax
import jax.numpy as jnp

from . import leaves, manifest
from .distributed import barrier, is_lead
from .storage import agree, check_shared, check_writable, reason

__all__ = ["Checkpoints", "check_shared", "check_writable"]

log = logging.getLogger("jaxlib_ext.training")

Tree = Any

TIMEOUT = 3600  # seconds in which all processes must have written their part
MADE = re.compile(r"[0-9]+(\.orbax-checkpoint-tmp.*)?")  # folders that a save makes


class Checkpoints:
    """The checkpoints of one run. Every process of the run makes the same calls in the same order.

    folder: local or gs://, shared by all processes. keep: how many checkpoints stay.

    Used as a context it can save: it makes the folder and removes what an interrupted save has left. Without,
    it only reads and changes nothing, so it may look into the folder of a run that is under way.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        from etils import epath

        if keep < 1:
            raise ValueError(f"keep={keep}: at least one checkpoint must stay")
        self.folder, self.keep = epath.Path(folder).expanduser().resolve(), keep
        self._orbax: Any = None
        self._done: set[int] = set()  # saved or restored here: known to be states of this run
        self._under_way: int | None = None
        self._background: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> "Checkpoints":
        import orbax.checkpoint as ocp

        if is_lead():
            self._clean()  # first: what it removes may be what fills the disk
            check_writable(self.folder)
        logging.getLogger("absl").addFilter(_quiet)
        # Made in the background, a folder that cannot be made would be noticed only after five minutes.
        options = ocp.AsyncOptions(timeout_secs=TIMEOUT, create_directories_asynchronously=False)
        self._orbax = ocp.StandardCheckpointer(async_options=options)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        try:
            if error is None:
                self.wait()
            else:
                self._drain()
                if self._error is not None:  # the caller's exception counts for more
                    log.warning("%s", self._failure(self._error))
        finally:
            self._orbax.close()
            self._orbax = None
            logging.getLogger("absl").removeFilter(_quiet)

    def save(self, step: int, tree: Tree, extra: dict[str, Any]) -> None:
        """Saves the state after `step`. When it returns, the arrays are off the devices and may be donated.

        tree: any pytree of jax arrays; None and arrays of size zero are fine. extra: JSON.

        First waits for the save before. The checkpoint exists once its files are hashed and the manifest is
        written, in the background; then those too many are deleted, and those of later steps, from which this
        run has gone back. A step that this object has saved or restored is not written again.

        Raises ValueError for what cannot be saved, OSError with the cause if this save or the one before
        failed. The checkpoints that are there stay.
        """
        if self._orbax is None:
            raise ValueError("checkpoints are saved inside `with Checkpoints(...) as checkpoints:`")
        arrays = leaves.by_path(tree)
        for path, leaf in arrays.items():
            if jax.process_count() > 1 and leaf.is_fully_addressable:
                raise ValueError(f"{path} lives on devices of one process only: give it a sharding over the mesh")
        kinds = {path: leaves.kind(leaf) for path, leaf in arrays.items()}
        about = dict(step=int(step), leaves=kinds, extra=_json(extra))
        state = leaves.nested({path: leaf for path, leaf in arrays.items() if leaf.size})
        if not state:
            raise ValueError("there is no array to save")
        self._drain()
        self._raise()
        if step not in self._done:
            self._start(int(step), state, about)

    def check(self) -> None:
        """Raises OSError if the save under way has failed already. Never waits."""
        if self._background is not None and not self._background.is_alive():
            self._drain()
        elif self._under_way is not None and self._background is None:
            try:
                self._orbax.check_for_errors()
            except Exception as error:
                self._error = error
        self._raise()

    def wait(self) -> None:
        """Returns when the last save is a checkpoint, in every process. Raises OSError if it failed."""
        self._drain()
        self._raise()
        barrier("checkpoint written")

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, rising. Their files are not looked at."""
        if not self.folder.exists():
            return []
        numbers = [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]
        return sorted(n for n in numbers if (self._at(n) / manifest.NAME).exists())

    def latest(self) -> int | None:
        """The last step that has a checkpoint."""
        return max(self.steps(), default=None)

    def read_extra(self, step: int) -> dict[str, Any]:
        """What `save` was given as extra. Raises ValueError if the checkpoint is not there or damaged."""
        return self._manifest(step)["extra"]

    def restore(self, abstract_tree: Tree, step: int | None = None) -> tuple[int, Tree, dict] | None:
        """(step, tree, extra) of the newest checkpoint whose every file is what its manifest says.

        abstract_tree: `jax.ShapeDtypeStruct`s, or arrays. Each leaf arrives with the sharding given there,
        whatever it was saved with; without one, in a run of one process, on the first device. step: this one
        or none.

        A damaged checkpoint is skipped with a warning that names the file, and the one before is taken. None
        if there is no checkpoint. Raises ValueError if there are some and all are damaged, if `step` is
        damaged or not there, and if the tree is not what was saved: that names the first path that differs.
        """
        import orbax.checkpoint as ocp

        self._drain()
        self._raise()
        abstract = leaves.by_path(abstract_tree, jax.ShapeDtypeStruct)
        wanted = {path: leaves.placed(path, leaf) for path, leaf in abstract.items()}
        choice = agree(lambda: self._choose(step, {path: leaves.kind(leaf) for path, leaf in wanted.items()}))
        if choice is None:
            return None
        taken, extra = choice
        with ocp.StandardCheckpointer() as reader:
            target = leaves.nested({path: leaf for path, leaf in wanted.items() if leaf.size})
            found = leaves.by_path(reader.restore(self._at(taken), target))
        for path, leaf in wanted.items():
            if not leaf.size:
                found[path] = jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
        self._done.add(taken)
        tree = jax.tree.unflatten(jax.tree.structure(abstract_tree), [found[path] for path in wanted])
        return taken, tree, extra

    def _at(self, step: int) -> Any:
        return self.folder / str(step)

    def _clean(self) -> None:
        found = sorted(self.folder.iterdir(), key=lambda path: path.name) if self.folder.is_dir() else []
        for path in found:
            if MADE.fullmatch(path.name) and path.is_dir() and not (path / manifest.NAME).exists():
                log.warning("%s has no %s: left by an interrupted save, removed", path, manifest.NAME)
                try:
                    path.rmtree()
                except OSError as error:
                    raise OSError(f"cannot remove {path}: {reason(error)}") from error

    def _manifest(self, step: int) -> dict[str, Any]:
        try:
            return manifest.read(self._at(step))
        except FileNotFoundError:
            there = ", ".join(map(str, self.steps())) or "none"
            raise ValueError(f"no checkpoint {step} in {self.folder}; there are: {there}") from None

    def _choose(self, step: int | None, kinds: dict[str, str]) -> tuple[int, dict] | None:
        faults = []
        for n in [step] if step is not None else reversed(self.steps()):
            try:
                content = self._manifest(n)
                leaves.compare(f"checkpoint {self._at(n)}", content["leaves"], kinds)
                manifest.verify(self._at(n), content)
                return n, content["extra"]
            except manifest.Damaged as error:
                if step is not None:
                    raise
                faults.append(error)
                log.warning("%s; this checkpoint is skipped", error)
        if faults:
            raise ValueError(f"no checkpoint in {self.folder} is whole; of the newest: {faults[0]}")
        return None

    def _start(self, step: int, state: Tree, about: dict[str, Any]) -> None:
        self._under_way = step
        try:
            if is_lead() and self._at(step).exists():
                log.warning("checkpoint %s is replaced", self._at(step))
                manifest.remove(self._at(step))
            barrier(f"checkpoint {step}")  # hashing the last one may take longer than Orbax would wait
            self._orbax.save(self._at(step), state)
        except Exception as error:
            self._error = error
            self._raise()
        if is_lead():
            # Not a daemon: a script that ends without leaving the context still finishes its checkpoint.
            self._background = threading.Thread(target=self._finish, args=(step, about))
            self._background.start()

    def _finish(self, step: int, about: dict[str, Any]) -> None:
        """In process 0, in the background: when Orbax is through in all processes, makes it a checkpoint."""
        try:
            self._orbax.wait_until_finished()
            manifest.write(self._at(step), about)
        except Exception as error:
            self._error = error
            return
        try:
            steps = self.steps()
            for n in [n for n in steps if n <= step][: -self.keep] + [n for n in steps if n > step]:
                if n > step:
                    log.warning("checkpoint %s is of a later step than %d: removed", self._at(n), step)
                manifest.remove(self._at(n))
        except Exception as error:  # the run can go on; the next save tries again
            log.warning("cannot remove old checkpoints in %s: %s", self.folder, reason(error))

    def _drain(self) -> None:
        """Waits for the save under way and keeps its error."""
        if self._under_way is None:
            return
        if self._background is not None:
            self._background.join()
            self._background = None
        else:
            try:
                self._orbax.wait_until_finished()
            except Exception as error:
                self._error = self._error or error
        if self._error is None:
            self._done.add(self._under_way)
            self._under_way = None

    def _failure(self, error: Exception) -> str:
        return f"checkpoint {self._under_way} could not be saved in {self.folder}: {reason(error)}"

    def _raise(self) -> None:
        if self._error is not None:
            error, text = self._error, self._failure(self._error)
            self._error = self._under_way = None
            raise OSError(text) from error


def _json(extra: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(extra))
    except (TypeError, ValueError) as error:
        raise ValueError(f"extra must be JSON: {error}") from None


def _quiet(record: logging.LogRecord) -> bool:
    # Orbax logs a failure with three tracebacks. It is raised here too, so they would only hide the one line.
    return not (record.exc_info and "orbax" in record.pathname)
