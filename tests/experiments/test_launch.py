"""The launch examples name options that train.py has and meshes that exist."""

import dataclasses
import pathlib
import re
import subprocess

import pytest

from jaxlib_ext.sharding import parse_mesh
from jaxlib_ext.training.config import RunConfig

FOLDER = pathlib.Path(__file__).parent.parent.parent / "experiments" / "launch"
FILES = ["slurm.sh", "gke_jobset.yaml", "tpu_vm.sh"]


@pytest.mark.parametrize("name", FILES)
def test_options_and_meshes(name):
    call = (FOLDER / name).read_text().partition("experiments/train.py")[2]
    options = dict(re.findall(r"(?:^|[ -])--([a-z_]+)[= ]([^\s'\"]+|\"[^\"]*\")", call, re.MULTILINE))
    fields = {f.name for f in dataclasses.fields(RunConfig)}
    train = {k: v for k, v in options.items() if k not in ("zone", "worker", "command")}  # those are gcloud's
    assert {"out", "mesh", "batch", "steps"} <= set(train) <= fields
    assert parse_mesh(train["mesh"])
    assert int(train["batch"]) % 32 == 0


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".sh")])
def test_shell_syntax(name):
    subprocess.run(["bash", "-n", FOLDER / name], check=True)
