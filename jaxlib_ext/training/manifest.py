"""The manifest of a checkpoint: name, size and SHA-256 of every file, written last.

A folder without `manifest.json` is no checkpoint. The manifest appears in one rename after every other file
is complete, and is the first to go when a checkpoint is deleted, so a process killed at any moment leaves no
folder that looks whole and is not. It carries a hash of itself too.
"""

import concurrent.futures
import hashlib
import json
import os
from typing import Any

from .storage import is_local, reason, replace_text

NAME = "manifest.json"
SCHEMA = 1
CHUNK = 1 << 22  # bytes read at a time
THREADS = 8  # hashlib and file reads release the lock of the interpreter


class Damaged(ValueError):
    """A checkpoint is not what its manifest says. The text names checkpoint, file and fault."""

    def __init__(self, folder: Any, name: str, what: str):
        super().__init__(f"checkpoint {folder}: {name} {what}")


def digest(path: Any, flush: bool = False) -> str:
    """SHA-256 of a file, in hexadecimal. flush: also see to it that the file survives a power cut."""
    state = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(CHUNK):
            state.update(chunk)
        if flush and is_local(path):
            os.fsync(f.fileno())
    return state.hexdigest()


def files(folder: Any) -> dict[str, Any]:
    """Every file below the folder but the manifest, by its name relative to the folder, sorted."""
    found, todo = {}, [("", folder)]
    while todo:
        prefix, at = todo.pop()
        for path in at.iterdir():
            if path.is_dir():
                todo.append((f"{prefix}{path.name}/", path))
            elif prefix or not path.name.startswith(NAME):
                found[prefix + path.name] = path
    return dict(sorted(found.items()))


def write(folder: Any, about: dict[str, Any]) -> None:
    """Makes the folder a checkpoint: hashes all its files and writes the manifest.

    about: JSON to keep in the manifest beside "schema", "files" and "sha256".
    """
    paths = files(folder)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        hashes = pool.map(lambda path: digest(path, flush=True), paths.values())
        rows = {
            name: dict(size=paths[name].stat().length, sha256=text) for name, text in zip(paths, hashes, strict=True)
        }
    content = dict(about, schema=SCHEMA, files=rows)
    replace_text(folder / NAME, json.dumps(dict(content, sha256=_own(content)), indent=1) + "\n")


def read(folder: Any) -> dict[str, Any]:
    """The content of the manifest. Raises FileNotFoundError if there is none, Damaged if it is damaged."""
    try:
        content = json.loads((folder / NAME).read_bytes())
        own = content.pop("sha256")
        schema = content["schema"]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(folder, NAME, f"cannot be read ({reason(error)})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(folder, NAME, "is truncated or changed: it is no manifest") from None
    if own != _own(content):
        raise Damaged(folder, NAME, "is changed: it does not have its SHA-256")
    if schema != SCHEMA:
        raise ValueError(f"{folder / NAME} has schema {schema}; this version reads {SCHEMA}")
    return content


def verify(folder: Any, content: dict[str, Any]) -> None:
    """Raises Damaged unless every file of the manifest is there with its size and SHA-256."""
    rows = content["files"]
    for name, row in rows.items():  # what costs little first
        try:
            size = (folder / name).stat().length
        except FileNotFoundError:
            raise Damaged(folder, name, "is missing") from None
        except OSError as error:
            raise Damaged(folder, name, f"cannot be read ({reason(error)})") from None
        if size != row["size"]:
            what = "truncated" if size < row["size"] else "changed"
            raise Damaged(folder, name, f"is {what}: {size} bytes instead of {row['size']}")

    def hashed(name):
        try:
            return digest(folder / name)
        except OSError as error:
            raise Damaged(folder, name, f"cannot be read ({reason(error)})") from None

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for name, found in zip(rows, pool.map(hashed, rows), strict=True):
            if found != rows[name]["sha256"]:
                raise Damaged(folder, name, "is changed: it does not have the SHA-256 of the manifest")


def remove(folder: Any) -> None:
    """Deletes a checkpoint, the manifest first."""
    (folder / NAME).unlink(missing_ok=True)
    folder.rmtree()


def _own(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
