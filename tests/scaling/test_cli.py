"""The command line end to end on simulated runs, its one-line errors, and what `check` finds."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import Data, lsq, table
from jaxlib_ext.scaling.__main__ import main
from jaxlib_ext.scaling.check import check_data, check_fit

THETA = ["A=406.4", "B=410.7", "E=1.69", "alpha=0.34", "beta=0.28"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli")
    grid = ["--grid", "N=1e7:1e9:5", "D=1e9:1e11:5"]
    assert main(["simulate", "--theta", *THETA, *grid, "--noise", "0.005", "-o", str(out / "runs.csv")]) == 0
    assert main(["fit", str(out / "runs.csv"), "--loss", "lsq", "-o", str(out / "fit.json")]) == 0
    return out


@pytest.mark.slow
def test_verbs(folder, capsys):
    runs, saved = str(folder / "runs.csv"), str(folder / "fit.json")
    at = ["N=1e10", "D=2e11"]
    for line, words in {
        ("predict", saved, "--at", *at, "--boot", "50", "--kind", "parametric"): ["new_run", "held out: the"],
        ("predict", saved, "--at", *at, "--mean"): ["mean"],
        ("plan", saved, "--flops", "1e21", "1e22", "--infer-tokens", "1e12"): [
            "D / N",
            "tokens to serve",
            "total",
        ],
        ("isoflop", runs, "--minimum", "akima"): ["few", "N ~ C^"],
        ("profile", saved, "--params", "alpha"): ["95% profile", "closest pair"],
        ("next", saved, "--candidates", runs, "--budget", "1e20", "--target", *at): ["spent", "target error"],
        ("compare", runs, "--laws", "chinchilla", "--loss", "lsq", "--holdout", "0.2"): [
            "chinchilla",
            "converged",
        ],
        ("check", runs): ["no repeats"],
    }.items():
        assert main(list(line)) == 0, line
        text = capsys.readouterr().out
        for word in words:
            assert word in text, (line, text)


@pytest.mark.slow
def test_plots(folder):
    pytest.importorskip("matplotlib")
    assert main(["plot", str(folder / "fit.json"), "-o", str(folder / "plots"), "--boot", "50"]) == 0
    names = {p.stem for p in (folder / "plots").glob("*.png")}
    assert names == {"residuals", "profiles", "contours", "frontier", "valleys", "corner"}
    assert all(p.stat().st_size > 5000 for p in (folder / "plots").glob("*.png"))


@pytest.mark.slow
def test_plots_of_several_laws_of_candidates_and_of_a_valley():
    pytest.importorskip("matplotlib")
    from jaxlib_ext.scaling import plots

    theta = {k: float(v) for k, v in (t.split("=") for t in THETA)}
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    runs = scaling.simulate("chinchilla", theta, dict(N=N, D=D), 0.005)
    fits = [scaling.fit(k, runs, lsq()) for k in ("chinchilla", "kaplan")]
    assert len(plots.rainbow(fits).axes) == 2
    found = scaling.next_runs(fits[0], dict(N=N, D=D), 6 * N * D, 1e20, dict(N=1e10, D=1e11))
    assert len(found.worth) == 25 and np.argmax(found.worth) == found.rows[0]
    assert len(plots.candidates(found).axes[0].lines) == 1 + len(found.rows)
    lr, B = (a.ravel() for a in np.meshgrid(np.geomspace(1e-4, 1e-2, 7), np.geomspace(1e5, 1e7, 7)))
    u, v = np.log(lr / 1e-3), np.log(B / 1e6)
    valley = Data(dict(lr=lr, B=B), 2 * np.exp(0.01 * u**2 + 0.01 * v**2 - 0.005 * u * v))
    law = scaling.LAWS["response_surface"](inputs=("lr", "B"))
    star = plots.batch_map(scaling.fit(law, valley, lsq()), {}).axes[0].lines[-1]
    np.testing.assert_allclose([star.get_xdata()[0], star.get_ydata()[0]], [1e-3, 1e6], rtol=1e-6)


def test_errors_are_one_line(folder, capsys):
    runs = str(folder / "runs.csv")
    for line, word in {
        ("fit", "none.csv"): "no such file",
        ("fit", runs, "--y", "val"): "no column 'val'; there are N, D, loss",
        ("fit", runs, "--law", "chinchila"): "unknown law",
        ("fit", runs, "--exclude", ",".join(map(str, range(22)))): "too few points",
        ("predict", runs, "--at", "N=1"): "not a saved fit",
        ("predict", str(folder / "fit.json"), "--at", "N:1"): "name=value",
        ("simulate", "--theta", *THETA, "--grid", "N=1e7", "-o", "x.csv"): "low:high:count",
    }.items():
        assert main(list(line)) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and word in err and err.count("\n") == 1, err


def test_excluded_rows_are_told(folder, capsys):
    assert main(["fit", str(folder / "runs.csv"), "--loss", "lsq", "--exclude", "0,3"]) == 0
    assert "2 of 25 rows left out: rows 0,3" in capsys.readouterr().out


def test_tables(tmp_path):
    lines = [dict(params=1e7, loss=3.0, run="a"), dict(params=1e8, loss=2.5, run="b")]
    (tmp_path / "runs.jsonl").write_text("\n".join(json.dumps(r) for r in lines))
    read = table.read(str(tmp_path / "runs.jsonl"))
    data = table.to_data(read, dict(N="params"), "loss", group="run")
    assert data.x["N"].tolist() == [1e7, 1e8] and data.group.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="not numbers, such as 'a'"):
        table.to_data(read, dict(N="run"), "loss")
    (tmp_path / "gap.csv").write_text("N,loss\n1e7,3.0\n1e8,\n")
    gap = table.to_data(table.read(str(tmp_path / "gap.csv")), dict(N="N"), "loss")
    with pytest.raises(ValueError, match="column 'y', row 1: nan"):
        scaling.fit("power", gap)
    table.write(str(tmp_path / "back.csv"), dict(N=np.array([1 / 3])))
    assert table.read(str(tmp_path / "back.csv"))["N"][0] == 1 / 3


def test_check_names_each_pitfall():
    N = np.repeat([1e8, 2e8, 4e8], 30)
    one_ratio = Data(dict(N=N, D=20 * N * np.tile(np.linspace(0.9, 1.1, 30), 3)), np.linspace(3, 2, 90))
    found = "\n".join(check_data(one_ratio, ("N", "D")))
    for words in (
        "few sizes: 3 values of N",
        "short reach",
        "one ratio",
        "no repeats",
        "checkpoints? 30 rows",
    ):
        assert words in found
    D = one_ratio.x["D"].copy()
    D[7] /= 1e9
    assert "mixed units" in "\n".join(check_data(Data(dict(N=N, D=D), one_ratio.y), ("N", "D")))
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    theta = {k: float(v) for k, v in (t.split("=") for t in THETA)}
    good = scaling.simulate("chinchilla", theta, dict(N=N, D=D), 0.003)
    assert check_fit(scaling.fit("chinchilla", good, lsq())) == []
    y = good.y.copy()
    y[11] *= 1.3
    bad = check_fit(scaling.fit("chinchilla", Data(good.x, y), scaling.lad()))
    assert any("the worst is row 11" in line for line in bad), bad


def test_importing_is_light():
    heavy = {"matplotlib", "tyro", "scipy.optimize", "flax", "optax"}
    code = f"import sys, jaxlib_ext.scaling.__main__; bad = {heavy} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", code], check=True)
