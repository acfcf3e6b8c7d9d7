"""The families and their methods, read from the headers of their files: what the map comes from.

A method file's docstring is its header. It begins with `name: one sentence.`, then come equations, indented
by four spaces, then the fields `source:`, `train:`, `decode:`, `departs:` (for an optimizer's rule `source:`,
`state:`, `defaults:`, `departs:`) and, where they apply, `couples:` and `catalogue:`; a value goes on over
indented lines. The name is the key in the family's registry, which is
a literal dict in `__init__.py`.

In a family's folder every file that holds a public class, or a line that begins a field, is a method and must
be listed; a helper has neither, or begins with an underscore and has no field. Headers are read without
importing the methods, so a checkout that is not installed can be read too.
"""

import ast
import dataclasses
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import param, registry

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = ("source", "train", "decode", "departs")
RULE = ("source", "state", "defaults", "departs")
OPTIONAL = ("couples", "catalogue")
WIDTH, CONTEXT = 128, 1024  # the size at which the map counts

_FIELD = re.compile(rf"({'|'.join(sorted({*REQUIRED, *RULE, *OPTIONAL}))}):\s*(.*)")
_TITLE = re.compile(r"(\w+): (\S.*)")


@dataclasses.dataclass(frozen=True)
class Family:
    """module: under jaxlib_ext, a folder with one method a file. registry: the literal dict in its
    `__init__.py`, name -> class. decl: method -> declaration of its parameters at WIDTH, if it has any.
    fields: what a header must have."""

    module: str
    registry: str
    decl: Callable[[Any], Any] | None = None
    fields: tuple[str, ...] = REQUIRED


FAMILIES = {
    "token mixers": Family("models.token_mixers", "TOKEN_MIXERS", lambda m: m.decl()),
    "channel mixers": Family("models.channel_mixers", "CHANNEL_MIXERS", lambda m: m.decl()),
    "norms": Family("models.norms", "NORMS", lambda m: m.decl()),
    "positions": Family("models.positions", "POSITIONS", lambda m: m.decl(WIDTH)),
    "residuals": Family("models.residuals", "RESIDUALS", lambda m: m.decl(1)),
    "weights": Family("models.weights", "WEIGHTS"),
    "optimizers": Family("optim.rules", "RULES", fields=RULE),
}


@dataclasses.dataclass(frozen=True)
class Header:
    """What a method file says of itself."""

    name: str
    what: str
    equations: str
    fields: dict[str, str]


def header(docstring: str | None, required: tuple[str, ...] = REQUIRED) -> Header:
    """Parses a method's docstring; a ValueError names what is missing.

    >>> fields = "source: none\\ntrain: T D\\ndecode: D\\ndeparts: none"
    >>> said = header(f"half: halves.\\n\\n    y = x / 2\\n\\n{fields}")
    >>> said.name, said.fields["train"]
    ('half', 'T D')
    """
    title, _, rest = (docstring or "").strip().partition("\n\n")
    found = _TITLE.fullmatch(" ".join(title.split()))
    if not found:
        raise ValueError('the header does not begin with "name: one sentence."')
    equations, fields, last = [], {}, None
    for line in rest.splitlines():
        field = _FIELD.fullmatch(line)
        if field:
            last, value = field.groups()
            if last in fields:
                raise ValueError(f"the header has the field {last!r} twice")
            fields[last] = value.strip()
        elif last is None:
            equations.append(line)
        elif line.startswith(" ") and line.strip():
            fields[last] = f"{fields[last]} {line.strip()}".strip()
        elif line.strip():
            raise ValueError(f"the header has a line that is neither a field nor indented: {line!r}")
    missing = [f for f in required if not fields.get(f)]
    if missing:
        raise ValueError(f"the header lacks {', '.join(f'{f}:' for f in missing)}")
    if not any(line.startswith("    ") for line in equations):
        raise ValueError("the header has no equations (lines indented by four spaces)")
    name, what = found.groups()
    return Header(name, what, "\n".join(equations).strip("\n"), fields)


def _folder(root: Path, family: Family) -> Path:
    return root.joinpath("jaxlib_ext", *family.module.split("."))


def listed(root: Path, family: Family) -> dict[str, tuple[str, Path]]:
    """Name -> (class, file) of a family's registry, read from `__init__.py` without importing it."""
    init = _folder(root, family) / "__init__.py"
    files, table = {}, None
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            file = init.parent.joinpath(*node.module.split(".")).with_suffix(".py")
            files |= {alias.asname or alias.name: (alias.name, file) for alias in node.names}
        elif isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [family.registry]:
            table = node.value
    if not isinstance(table, ast.Dict):
        raise ValueError(f"{init}: {family.registry} is not a literal dict")
    found = {}
    for key, value in zip(table.keys, table.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(value, ast.Name) or value.id not in files:
            raise ValueError(f"{init}: {family.registry} is not {{name: class imported from this folder}}")
        found[key.value] = files[value.id]
    return found


def _classes(tree: ast.Module) -> set[str]:
    return {n.name for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")}


def _is_method(file: Path) -> bool:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    fields = any(map(_FIELD.fullmatch, (ast.get_docstring(tree) or "").splitlines()))
    return fields or (bool(_classes(tree)) and not file.name.startswith("_"))


def _read(root: Path, family: Family, problems: list[str]) -> list[tuple[Header, Path]]:
    """Headers of one family in the order of its registry; what is wrong is added to problems."""
    try:
        names = listed(root, family)
    except ValueError as error:
        problems.append(str(error))
        return []
    rows, init = [], _folder(root, family) / "__init__.py"
    for name, (cls, file) in names.items():
        if not file.is_file():
            problems.append(f"{init}: {family.registry} lists {name!r} from {file.name}, which is not there")
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        try:
            said = header(ast.get_docstring(tree), family.fields)
            if said.name != name:
                raise ValueError(f"the header names {said.name!r}, {family.registry} lists it as {name!r}")
            if cls not in _classes(tree):
                raise ValueError(f"{family.registry} lists {cls}, which is not defined here")
            rows.append((said, file))
        except ValueError as error:
            problems.append(f"{file}: {error}")
    known = {file for _, file in names.values()}
    for file in sorted(init.parent.glob("*.py")):
        if file not in known and file != init and _is_method(file):
            problems.append(f"{file}: not listed in {family.registry} (a helper has no public class, no fields)")
    return rows


def problems(root: Path = ROOT) -> list[str]:
    """One line for everything that is wrong with headers and registries under root; empty if all is well."""
    found: list[str] = []
    for family in FAMILIES.values():
        _read(root, family, found)
    return found


def methods(root: Path = ROOT) -> dict[str, list[tuple[Header, Path]]]:
    """Family -> (header, file) of its methods. A ValueError lists what `problems` finds."""
    found: list[str] = []
    rows = {name: _read(root, family, found) for name, family in FAMILIES.items()}
    if found:
        raise ValueError("\n".join(found))
    return rows


def counts(root: Path = ROOT) -> dict[str, int]:
    """Family -> number of methods.

    >>> counts()["norms"] >= 2
    True
    """
    return {name: len(rows) for name, rows in methods(root).items()}


def _sizes(name: str, family: Family) -> tuple[str, str]:
    """Parameters at WIDTH and bytes of the decoding state at CONTEXT, as text; "" where a method has none."""
    of = lambda module, attribute: getattr(importlib.import_module(f"jaxlib_ext.{module}"), attribute)
    norm = of("models.norms", "NORMS")["rms"](WIDTH)
    method = registry.make(name, of(family.module, family.registry), family.registry, width=WIDTH, norm=norm)
    size = f"{param.size(family.decl(method)):,}" if family.decl else ""
    if not hasattr(method, "state"):
        return size, ""
    return size, f"{param.nbytes(method.state(1, CONTEXT, CONTEXT)):,}"


def _row(root: Path, family: Family, said: Header, file: Path) -> dict[str, str]:
    try:
        size, held = _sizes(said.name, family)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    link = file.relative_to(root / "jaxlib_ext").as_posix()
    link = link if (root / link).exists() else f"jaxlib_ext/{link}"
    return {
        "name": f"[{said.name}]({link})",
        "what": said.what,
        "source": said.fields["source"],
        "parameters": size,
        "state bytes": held,
        "state": said.fields.get("state", ""),
        "train": said.fields.get("train", ""),
        "decode": said.fields.get("decode", ""),
        "couples": said.fields.get("couples", ""),
    }


def _table(rows: list[dict[str, str]]) -> list[str]:
    """Markdown; a column that is empty for the whole family is left out."""
    columns = [c for c in rows[0] if any(r[c] for r in rows)]
    line = lambda cells: f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |"
    return [line(columns), line(["---"] * len(columns)), *(line([r[c] for c in columns]) for r in rows)]


def text() -> str:
    """The map as markdown: one table a family, one row a method."""
    lines = [
        "# Map",
        "",
        "Made by `python -m jaxlib_ext --write` from the headers of the method files. Parameters are those",
        f"of one method at width {WIDTH} with default options, state bytes those of {CONTEXT} tokens of one",
        "sequence in float32. Costs are forward: T time, S context, D width, K and V widths of a head.",
    ]
    for name, rows in methods().items():
        cells = [_row(ROOT, FAMILIES[name], *row) for row in rows]
        lines += ["", f"## {name.capitalize()} ({len(rows)})", "", *(_table(cells) if cells else [])]
    return "\n".join(lines) + "\n"
