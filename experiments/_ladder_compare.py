"""Several ladders in one table: every law, and how far each two are apart with 95% limits."""

import csv
import io
import itertools
import json
from typing import Any

import numpy as np
from _ladder_law import Law, inputs
from _ladder_plot import compare as plot
from etils import epath

from jaxlib_ext import scaling
from jaxlib_ext.training.progress import human_count
from jaxlib_ext.training.storage import replace_text

Row = dict[str, Any]


def budget_of(laws: list[Law]) -> float:
    """FLOPs at which losses are compared: the held-out runs' own differ by their parameters, so their middle."""
    return float(np.exp(np.mean([np.log(law.budget) for law in laws])))


def laws_table(laws: list[Law], budget: float) -> list[Row]:
    """One row a law, with 95% intervals."""
    rows = []
    for law in laws:
        plan = scaling.optimal(law.fit, budget, draws=law.draws)
        ends, low, high = law.draws.interval(), plan.low or {}, plan.high or {}
        row: Row = dict(mixer=law.mixer, runs=law.fit.n)
        for name, value in law.fit.theta.items():
            row |= {name: value, f"{name}_low": ends[name][0], f"{name}_high": ends[name][1]}
        row |= dict(best_loss=float(plan.loss[0]), best_loss_low=float(low["loss"][0]),
                    best_loss_high=float(high["loss"][0]), best_N=float(plan.N[0]), best_D=float(plan.D[0]),
                    measured=law.measured, rms_log_residual=float(np.sqrt(np.mean(law.fit.residuals() ** 2))),
                    status=law.fit.status.value)  # fmt: skip
        rows.append(row)
    return rows


def differences(laws: list[Law], budget: float) -> list[Row]:
    """One row a pair and quantity."""
    rows: list[Row] = []
    for a, b in itertools.combinations(laws, 2):
        both = a.fit, b.fit, a.draws, b.draws
        exponent = lambda name: lambda fit, theta: theta[name]
        found = {
            "best loss": scaling.difference(*both, scaling.best_loss(budget), relative=True),
            "alpha": scaling.difference(*both, exponent("alpha")),
            "beta": scaling.difference(*both, exponent("beta")),
            "E": scaling.difference(*both, exponent("E")),
        }
        pair = f"{a.mixer} - {b.mixer}"
        rows += [dict(pair=pair, what=k, value=d.value, low=d.low, high=d.high) for k, d in found.items()]
        rows.append(held_out(a, b))
    return rows


def held_out(a: Law, b: Law) -> Row:
    """Loss of the held-out runs: of the same width and tokens, each at its own parameters. The measured difference is
    to lie within the limits, which are those for a new run of each."""
    at = [{k: v[:1] for k, v in inputs(law.held).items()} for law in (a, b)]

    def loss(fit, theta):
        return scaling.loss_at(at[fit is b.fit])(fit, theta)

    d = scaling.difference(a.fit, b.fit, a.draws, b.draws, loss, relative=True, new_run=True)
    measured = a.held[0]["eval_loss"] - b.held[0]["eval_loss"]
    return dict(pair=f"{a.mixer} - {b.mixer}", what="held-out run", value=d.value, low=d.low, high=d.high,
                measured=measured, inside=d.low <= measured <= d.high)  # fmt: skip


def write(path: epath.Path, rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*dict.fromkeys(k for r in rows for k in r)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_text(path, text.getvalue())


def compare(laws: list[Law], folder: epath.Path) -> None:
    """Prints both tables; leaves laws.csv, differences.csv, laws.json and laws.png."""
    budget = budget_of(laws)
    rows, pairs = laws_table(laws, budget), differences(laws, budget)
    print(f"\nlaws, 95% intervals; best loss at C = {human_count(budget)} FLOPs")
    print(f"{'mixer':<26}{'alpha':<24}{'beta':<24}{'E':<24}{'best loss':<24}{'held out':<10}")
    span = lambda r, k: f"{r[k]:.3f} [{r[f'{k}_low']:.3f}, {r[f'{k}_high']:.3f}]"
    for r in rows:
        print(f"{r['mixer']:<26}" + "".join(f"{span(r, k):<24}" for k in ("alpha", "beta", "E", "best_loss"))
              + f"{r['measured']:<10.3f}" + ("" if r["status"] == "converged" else f"  {r['status']}"))  # fmt: skip
    print("\ndifferences, 95% limits; * where 0 is outside them")
    for r in pairs:
        mark = "*" if r["low"] > 0 or r["high"] < 0 else " "
        verdict = f"  measured {r['measured']:+.3f}: {'inside' if r['inside'] else 'OUTSIDE'}" if "inside" in r else ""
        print(f"{r['pair']:<40}{r['what']:<14}{r['value']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}] {mark}{verdict}")
    write(folder / "laws.csv", rows)
    write(folder / "differences.csv", pairs)
    fits = {law.mixer: json.loads(law.fit.to_json()) for law in laws}
    replace_text(folder / "laws.json", json.dumps(dict(budget=budget, fits=fits, differences=pairs), indent=1) + "\n")
    plot(folder / "laws.png", laws, pairs, budget)
    print(f"\nwrote {folder / 'runs.csv'}, laws.csv, differences.csv, laws.json, laws.png, and a folder a mixer")
