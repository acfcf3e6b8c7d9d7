"""Runs from CSV and JSONL files, as columns."""

import csv
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .data import Data


def read(path: str) -> dict[str, np.ndarray]:
    """Columns of a .csv file with a header, or of a .jsonl file of flat objects: floats where all rows are
    numbers.

    An empty cell is not a number (NaN), which a fit refuses by row. Raises FileNotFoundError and ValueError.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if file.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"{path}: tables are .csv or .jsonl")
    with file.open(newline="") as f:
        if file.suffix == ".csv":
            rows: list[dict[str, Any]] = list(csv.DictReader(f))
        else:
            rows = [json.loads(line) for line in f if line.strip()]
    if not rows:
        raise ValueError(f"{path} has no rows")
    return {str(k): _column([r.get(k) for r in rows]) for k in rows[0]}


def _column(values: list[Any]) -> np.ndarray:
    try:
        return np.array([np.nan if v in ("", None) else float(v) for v in values])
    except (TypeError, ValueError):
        return np.array([str(v) for v in values])


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """{"N": "params"} from ["N=params"].

    >>> pairs(["N=1e9,D=2e10"])
    {'N': '1e9', 'D': '2e10'}
    """
    out = {}
    for text in ",".join(texts).split(","):
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ValueError(f"write name=value, not {text!r}")
        out[name.strip()] = value.strip()
    return out


def to_data(
    table: Mapping[str, np.ndarray],
    x: Mapping[str, str],
    y: str,
    w: str | None = None,
    group: str | None = None,
    budget: str | None = None,
    note: str = "counting not stated",
) -> Data:
    """Data from columns: x is input name -> column. Raises ValueError for a column that is missing or not
    numbers."""

    def column(name: str | None, numbers: bool = True):
        if name is None:
            return None
        if name not in table:
            raise ValueError(f"no column {name!r}; there are {', '.join(table)}")
        if numbers and table[name].dtype.kind != "f":
            raise ValueError(f"column {name!r} has entries that are not numbers, such as {str(table[name][0])!r}")
        return table[name]

    columns = dict(w=column(w), group=column(group, False), budget=column(budget))
    return Data({k: column(v) for k, v in x.items()}, column(y), note=note, **columns)


def write(path: str, columns: Mapping[str, Any]) -> None:
    """Columns to a .csv file, with all digits."""
    with pathlib.Path(path).open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(columns)
        out.writerows(zip(*(np.asarray(v).tolist() for v in columns.values()), strict=True))
