"""What holds the tree together: the map, the direction of imports, what importing costs, the size of files.

Every check is a function of a root folder that returns what is wrong, one line each, so that it can be run on
the checkout and on copies of it with a fault planted.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxlib_ext import catalog

ROOT = Path(__file__).resolve().parents[1]
LINES, FUNCTION_LINES = 400, 60

BASE = ("param", "contracts", "registry")
MAY_IMPORT = {
    "__init__": (),
    "param": (),
    "contracts": (),
    "registry": (),
    "kernels": BASE,
    "sharding": BASE,
    "models": (*BASE, "kernels", "sharding"),
    "optim": ("param", "kernels", "registry"),
    "scaling": ("param",),
    "training": (*BASE, "kernels", "sharding", "models", "optim", "scaling"),
    "targets": (*BASE, "kernels", "sharding", "models", "optim"),
    "testing": ("param", "contracts", "kernels", "optim"),
    "interop": ("param", "contracts"),
    "catalog": ("param", "registry"),
    "__main__": ("catalog",),
}
# Packages that are slow to import, and where this may happen at the top of a file.
HEAVY = {
    "optax": ("optim", "testing", "training"),
    "flax": ("interop",),
    **dict.fromkeys(("chex", "grain", "matplotlib", "orbax", "pandas", "rich", "scipy"), ()),
    **dict.fromkeys(("safetensors", "tensorboardX", "tokenizers", "torch", "tqdm", "transformers", "tyro"), ()),
}
ONLY_IN = {"flax": "interop", "chex": "testing"}  # inside functions too


class Import(NamedTuple):
    name: str  # absolute and dotted, with what is imported from the module as the last part
    line: int
    late: bool  # inside a function


def files(root: Path, *folders: str) -> Iterator[Path]:
    """The Python files under folders of root. The links to models and optim are followed."""
    for folder in folders:
        for here, inner, names in os.walk(root / folder, followlinks=True):
            inner[:] = sorted(d for d in inner if not d.startswith((".", "__")))
            yield from (Path(here) / name for name in sorted(names) if name.endswith(".py"))


def imports(file: Path, package: tuple[str, ...]) -> Iterator[Import]:
    """What a file imports. package: that of the file, for relative imports."""

    def visit(node: ast.AST, late: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            parts = (*base, *([node.module] if node.module else []))
            yield from (Import(".".join((*parts, alias.name)), node.lineno, late) for alias in node.names)
        late = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), False)


def import_faults(root: Path) -> list[str]:
    """Imports against the direction, heavy ones at the top of a file, flax and chex out of their place."""
    faults = []
    for file in files(root, "jaxlib_ext"):
        path = file.relative_to(root)
        own = path.parts[1].removesuffix(".py")
        if own not in MAY_IMPORT:
            faults.append(f"{path}: {own} has no row in MAY_IMPORT")
            continue
        for name, line, late in imports(file, path.parts[:-1]):
            top, _, rest = name.partition(".")
            ours = rest.partition(".")[0]
            if top == "jaxlib_ext" and ours not in ("__version__", own, *MAY_IMPORT[own]):
                faults.append(f"{path}:{line}: {own} may not import {ours}")
            elif top in ("experiments", "tests", "models", "optim"):
                faults.append(f"{path}:{line}: nothing may import {top} by that name")
            elif top in HEAVY and not late and own not in HEAVY[top]:
                faults.append(f"{path}:{line}: {top} is imported at the top of a file; import it where it is used")
            elif top in ONLY_IN and own != ONLY_IN[top]:
                faults.append(f"{path}:{line}: only {ONLY_IN[top]} may import {top}")
    return faults


def private_faults(root: Path) -> list[str]:
    """Uses of jax._src: an import, an attribute, or a name in a string that could be imported."""
    faults = []
    for file in files(root, "jaxlib_ext", "experiments"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [f"{getattr(node, 'module', '')}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) == 1:
                names = [node.value]
            if any("_src" in name.split(".") for name in names):
                faults.append(f"{file.relative_to(root)}:{node.lineno}: jax._src is private")
    return faults


def size_faults(root: Path) -> list[str]:
    """Files and functions that are too long."""
    faults = []
    for file in files(root, "jaxlib_ext", "experiments", "tests"):
        text, path = file.read_text(encoding="utf-8"), file.relative_to(root)
        if (n := len(text.splitlines())) > LINES:
            faults.append(f"{path}: {n} lines, more than {LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                n = node.end_lineno - node.lineno + 1
                if n > FUNCTION_LINES:
                    faults.append(f"{path}:{node.lineno}: {node.name} has {n} lines, more than {FUNCTION_LINES}")
    return faults


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )


def map_faults(root: Path) -> list[str]:
    """What `python -m jaxlib_ext` says against, or where it differs from MAP.md."""
    done = python(root, "-m", "jaxlib_ext")
    if done.returncode:
        return done.stderr.splitlines()
    if done.stdout != (root / "MAP.md").read_text(encoding="utf-8"):
        return ["MAP.md differs from the code; write it by python -m jaxlib_ext --write"]
    return []


def loaded(root: Path, before: str, code: str) -> set[str]:
    """Names of the modules that running code loads in a new Python, beyond those loaded before it."""
    lines = f"import json, sys; {before}\nfirst = set(sys.modules)\n{code}\n"
    done = python(root, "-c", f"{lines}print(json.dumps(sorted(set(sys.modules) - first)))")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def package_faults(root: Path) -> list[str]:
    """Modules beside our own that `import jaxlib_ext` loads and `import jax` does not."""
    names = loaded(root, "import jax", "import jaxlib_ext")
    assert "jaxlib_ext" in names
    return [f"import jaxlib_ext loads {n}" for n in sorted(names) if n.partition(".")[0] != "jaxlib_ext"]


def heavy_faults(root: Path) -> list[str]:
    """Heavy packages loaded by importing every module but interop (beside optax), and by models.lm alone."""
    modules = [".".join(f.relative_to(root).with_suffix("").parts) for f in files(root, "jaxlib_ext")]
    modules = [m.removesuffix(".__init__") for m in modules if not m.endswith(("__main__", "interop"))]
    names = {n.partition(".")[0] for n in loaded(root, "import optax", f"import {', '.join(modules)}")}
    faults = [f"importing the library loads {n}" for n in sorted(names & set(HEAVY))]
    names = {n.partition(".")[0] for n in loaded(root, "import jax", "import jaxlib_ext.models.lm")}
    return faults + [f"importing models.lm loads {n}" for n in sorted(names & set(HEAVY))]


CHECKS = (
    catalog.problems, import_faults, private_faults, size_faults, map_faults, package_faults, heavy_faults
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_wrong_here(check):
    assert check(ROOT) == []


def test_counts_are_those_of_the_map():
    text = (ROOT / "MAP.md").read_text(encoding="utf-8")
    for name, n in catalog.counts().items():
        assert n >= 2 and f"## {name.capitalize()} ({n})\n" in text


def test_the_readme_has_the_same_counts():
    line = ", ".join(f"{n} {name}" for name, n in catalog.counts().items())
    assert f"Families so far: {line}.\n" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["models", "optim"])
def test_the_bare_names_cannot_be_imported(name):
    done = python(ROOT, "-c", f"import {name}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: import this package as jaxlib_ext.{name}")


def test_importing_the_package_takes_no_time():
    code = "import time, jax; t = time.perf_counter(); import jaxlib_ext; print(time.perf_counter() - t)"
    seconds = min(float(python(ROOT, "-c", code).stdout) for _ in range(3))
    print(f"import jaxlib_ext: {seconds:.4f} s above import jax")
    assert seconds <= 0.1


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the library, links kept as links."""
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("jaxlib_ext", "models", "optim"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=skip)
    for name in ("MAP.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


class Plant(NamedTuple):
    """A fault: in file, old (all of it if None) becomes new; check must say `says`."""

    check: object
    file: str
    old: str | None
    new: str
    says: str


METHOD = '''"""half: halves.

    y = x / 2

source: none
train: T D
decode: D
departs: none
"""


class Half:
    pass
'''
NORMS = "models/norms/"
INIT, RMS, HALF = NORMS + "__init__.py", NORMS + "rms.py", NORMS + "half.py"
LONG = "def f():\n" + "    x = 1\n" * FUNCTION_LINES


def headers(file: str, old: str | None, new: str, says: str) -> Plant:
    return Plant(catalog.problems, file, old, new, says)


def imported(file: str, new: str, says: str) -> Plant:
    return Plant(import_faults, file, None, new, says)


PLANTS = {
    "a method without a header, not listed": headers(HALF, None, "class Half:\n    pass\n", "half.py: not listed in"),
    "a method not listed": headers(HALF, None, METHOD, "half.py: not listed in NORMS"),
    "a header without a class": headers(HALF, None, METHOD.partition("class")[0], "half.py: not listed in NORMS"),
    "a helper with a header": headers(f"{NORMS}_half.py", None, METHOD, "_half.py: not listed in NORMS"),
    "a listed method without a header": headers(RMS, '"""rms: ', '"""', "rms.py: the header does not begin with"),
    "a header without a field": headers(RMS, "departs: none\n", "", "rms.py: the header lacks departs:"),
    "a field without a value": headers(RMS, "train: O(T D)\n", "train:\n", "rms.py: the header lacks train:"),
    "a field misspelt": headers(RMS, "decode:", "decoding:", "neither a field nor indented: 'decoding: O(D) a token'"),
    "a field twice": headers(RMS, "decode:", "train:", "rms.py: the header has the field 'train' twice"),
    "no equations": headers(RMS, "    y = x /", "y = x /", "rms.py: the header has no equations"),
    "another name": headers(RMS, '"""rms:', '"""root:', "the header names 'root', NORMS lists it as 'rms'"),
    "no such class": headers(RMS, "class Rms:", "class Root:", "NORMS lists Rms, which is not defined here"),
    "no such file": headers(INIT, "from .rms", "from .root", "NORMS lists 'rms' from root.py, which is not there"),
    "a registry that is no literal": headers(INIT, "NORMS = {", "NORMS = {} | {", "NORMS is not a literal dict"),
    "a registry of another thing": headers(INIT, '"rms": Rms', '"rms": None', "NORMS is not {name: class"),
    "models import training": imported(HALF, "from ...training import state\n", "models may not import training"),
    "optim imports models late": imported(
        "optim/new.py",
        "def f():\n    from ..models.lm import LM\n",
        "optim/new.py:2: optim may not import models",
    ),
    "kernels import sharding": imported(
        "jaxlib_ext/kernels/new.py", "import jaxlib_ext.sharding\n", "kernels may not import sharding"
    ),
    "scaling imports the registry": imported(
        "jaxlib_ext/scaling/new.py", "from ..registry import make\n", "scaling may not import registry"
    ),
    "testing imports models": imported(
        "jaxlib_ext/testing/new.py", "from .. import models\n", "testing may not import models"
    ),
    "training imports experiments": imported(
        "jaxlib_ext/training/new.py", "import experiments.train\n", "nothing may import experiments"
    ),
    "a package without a row": imported("jaxlib_ext/extra/__init__.py", "", "extra has no row in MAY_IMPORT"),
    "a heavy import": imported(
        "optim/new.py", "if True:\n    import grain.python\n", "new.py:2: grain is imported at the"
    ),
    "optax in models": imported(HALF, "import optax\n", "optax is imported at the top"),
    "flax in a function": imported(HALF, "def f():\n    from flax import nnx\n", "only interop may import flax"),
    "a private import": Plant(private_faults, HALF, None, "from jax import _src\n", "half.py:1: jax._src is private"),
    "a private name": Plant(private_faults, RMS, "jax.lax.rsqrt", "jax._src.lax.rsqrt", "jax._src is private"),
    "a private string": Plant(private_faults, HALF, None, 'core = "jax._src.core"\n', "jax._src is private"),
    "a long file": Plant(size_faults, HALF, None, "x = 1\n" * 401, "half.py: 401 lines, more than 400"),
    "a long function": Plant(size_faults, HALF, None, LONG, "half.py:1: f has 61 lines, more than 60"),
    "an unknown axis": Plant(map_faults, RMS, "gain(embed=", "gain(embde=", "rms.py: unknown axis 'embde'"),
    "an unknown kind": Plant(map_faults, RMS, ".gain(embed=self.width)", ".Param('gian')", "unknown kind 'gian'"),
    "an unknown axis in a state": Plant(
        map_faults,
        "models/token_mixers/gla.py",
        "state(dict(batch=batch",
        "state(dict(row=batch",
        "unknown axis 'row'",
    ),
    "a map out of date": Plant(map_faults, RMS, "train: O(T D)", "train: O(T)", "MAP.md differs"),
    "the package loads more than jax": Plant(
        package_faults,
        "jaxlib_ext/__init__.py",
        "__all__",
        "import wave\n\n__all__",
        "import jaxlib_ext loads wave",
    ),
    "a heavy import that no line shows": Plant(
        heavy_faults,
        RMS,
        "import jax\n",
        'import jax\n\n__import__("chex")\n',
        "importing the library loads chex",
    ),
    "one in the model": Plant(
        heavy_faults,
        "models/lm.py",
        "import jax\n",
        'import jax\n\n__import__("optax")\n',
        "importing models.lm loads optax",
    ),
}


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_found(name, copy):
    plant = PLANTS[name]
    file = copy / plant.file
    if plant.old is None:
        assert not file.exists()
        file.parent.mkdir(exist_ok=True)
        file.write_text(plant.new, encoding="utf-8")
    else:
        text = file.read_text(encoding="utf-8")
        assert plant.old in text
        file.write_text(text.replace(plant.old, plant.new, 1), encoding="utf-8")
    found = plant.check(copy)
    assert any(plant.says in line for line in found), found
