"""python -m jaxlib_ext.scaling fit | predict | plan | isoflop | compare | profile | next | hparams | simulate | plot
| check

Tables are .csv or .jsonl files; a fit is kept as JSON. `fit runs.csv -o fit.json` comes first for most.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from . import hparams, table
from .check import check_data, check_fit
from .data import Data
from .design import KINDS as DESIGNS
from .design import next_runs
from .economy import lifetime
from .fit import Fit, fit
from .identify import identify
from .isoflop import KINDS as ISOFLOPS
from .isoflop import isoflop
from .law import named
from .laws import LAWS
from .losses import Loss, huber, lad, learned, lsq
from .plan import optimal
from .predict import predict
from .profile import profile
from .resample import KINDS as BOOTSTRAPS
from .resample import Draws, bootstrap
from .select import by_compute, select
from .simulate import simulate


def _numbers(texts: Sequence[str]) -> dict[str, float]:
    try:
        return {k: float(v) for k, v in table.pairs(texts).items()}
    except ValueError as error:
        raise ValueError(f"write name=number: {error}") from None


def _loss(a: argparse.Namespace) -> Loss:
    robust = {"huber": huber, "learned": learned}
    return robust[a.loss](a.huber, a.space) if a.loss in robust else {"lsq": lsq, "lad": lad}[a.loss](a.space)


def _data(a: argparse.Namespace, inputs: Sequence[str]) -> Data:
    chosen = table.pairs(a.x) if a.x else {}
    x = {k: chosen.get(k, k) for k in {**dict.fromkeys(inputs), **chosen}}
    data = table.to_data(table.read(a.table), x, a.y, a.w, a.group, a.budget_column, a.note)
    if not a.exclude:
        return data
    rows = np.ones(len(data.y), bool)
    rows[[int(i) for i in a.exclude.split(",")]] = False
    return data.take(rows, f"rows {a.exclude}")


def _saved(path: str) -> Fit:
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    return Fit.from_json(file.read_text())


def _draws(got: Fit, a: argparse.Namespace) -> Draws | None:
    return bootstrap(got, a.boot, kind=a.kind) if a.boot else None


def run_fit(a: argparse.Namespace) -> None:
    law = named(a.law, LAWS)
    got = fit(law, _data(a, law.inputs), _loss(a), starts=a.starts, fixed=_numbers(a.fixed) if a.fixed else None)
    print(got.report())
    draws = _draws(got, a)
    if draws is not None:
        print(f"{draws.n} {draws.kind} refits, 95% intervals")
        for k, (low, high) in draws.interval().items():
            print(f"  {k:10} [{low:.6g}, {high:.6g}]")
        print(f"  at a bound: {draws.bound or 'none'}; not settled: {int((~draws.settled).sum())}")
    if a.out:
        pathlib.Path(a.out).write_text(got.to_json())


def run_predict(a: argparse.Namespace) -> None:
    got = _saved(a.fit)
    print(predict(got, _numbers(a.at), _draws(got, a), a.level, "mean" if a.mean else "new_run"))


def run_plan(a: argparse.Namespace) -> None:
    got = _saved(a.fit)
    draws = _draws(got, a)
    print(optimal(got, [float(c) for c in a.flops], draws=draws, level=a.level))
    if a.infer_tokens:
        for c in a.flops:
            goal = float(optimal(got, float(c)).loss[0])
            print(f"the same loss as C = {float(c):.4g} with {a.infer_tokens:g} tokens to serve:")
            best = lifetime(got, a.infer_tokens, loss=goal, draws=draws, level=a.level)
            for k in ("N", "D", "train", "infer", "total"):
                ends = f"  [{best.low[k]:.5g}, {best.high[k]:.5g}]" if best.low and best.high else ""
                print(f"  {k:6} {getattr(best, k):12.6g}{ends}")


def run_isoflop(a: argparse.Namespace) -> None:
    print(isoflop(_data(a, ("N", "D")), a.minimum))


def run_compare(a: argparse.Namespace) -> None:
    laws = [named(s, LAWS) for s in a.laws]
    inputs = dict.fromkeys(k for law in laws for k in law.inputs)
    split = by_compute(a.holdout)
    print(select(laws, _data(a, tuple(inputs)), a.by, split, _loss(a), starts=a.starts))


def run_profile(a: argparse.Namespace) -> None:
    got = _saved(a.fit)
    for name in a.params or got.problem.free:
        print(profile(got, name, a.level))
    print(identify(got))


def run_next(a: argparse.Namespace) -> None:
    got, rows = _saved(a.fit), table.read(a.candidates)
    missing = [k for k in got.law.inputs if k not in rows]
    if missing:
        raise ValueError(f"{a.candidates} has no column {missing[0]!r}")
    if a.cost and a.cost not in rows:
        raise ValueError(f"{a.candidates} has no column {a.cost!r}")
    if not a.cost and not {"N", "D"} <= set(rows):
        raise ValueError("name the cost column with --cost; without one the cost is 6 N D")
    cost = rows[a.cost] if a.cost else 6 * rows["N"] * rows["D"]
    x = {k: rows[k] for k in got.law.inputs}
    print(next_runs(got, x, cost, a.budget, _numbers(a.target) if a.target else None, a.design, a.power))


def run_hparams(a: argparse.Namespace) -> None:
    law, source = hparams.StepLaw(), "published (arXiv 2503.04715)"
    if a.sweeps:
        rows = table.read(a.sweeps)
        names = ("N", "D", "lr", "batch", "loss")
        missing = [k for k in names if k not in rows]
        if missing:
            raise ValueError(f"{a.sweeps} has no column {missing[0]!r}; sweeps have {', '.join(names)}")
        law, draws, found = hparams.fit_step_law(*(rows[k] for k in names), near=a.near)
        source = f"fitted to {int(found.ok.sum())} of {len(found.ok)} valleys of {a.sweeps}"
        print(found)
        for k, v in draws.items():
            low, high = np.percentile(v, [2.5, 97.5])
            print(f"  {k:12} {getattr(law, k):10.4f}  [{low:.4f}, {high:.4f}]")
    best = law(a.N, a.D)
    print(f"N = {a.N:.4g} without embedding, D = {a.D:.4g} tokens; {source}")
    print(f"  learning rate  {best['lr']:.4g}")
    print(f"  batch          {best['batch']:.4g} tokens, {best['batch'] / a.length:.4g} sequences of {a.length}")
    published = 93.20 * (a.N / 1e6) ** 0.47 * 512
    print(f"  critical batch {published:.4g} tokens at compute-optimal D (93.20 N^0.47 sequences of 512, 2410.21676)")


def run_simulate(a: argparse.Namespace) -> None:
    axes = {}
    for k, text in table.pairs(a.grid).items():
        parts = text.split(":")
        if len(parts) != 3:
            raise ValueError(f"write {k}=low:high:count, not {k}={text}")
        axes[k] = np.geomspace(float(parts[0]), float(parts[1]), int(parts[2]))
    x = dict(zip(axes, (v.ravel() for v in np.meshgrid(*axes.values())), strict=True))
    data = simulate(a.law, _numbers(a.theta), x, a.noise, tails=a.tails)
    table.write(a.out, {**data.x, "loss": data.y})
    print(f"{len(data.y)} runs in {a.out}")


def run_plot(a: argparse.Namespace) -> None:
    from . import plots

    got, folder = _saved(a.fit), pathlib.Path(a.out)
    folder.mkdir(parents=True, exist_ok=True)
    draws = bootstrap(got, a.boot, kind=a.kind) if a.boot else None
    figures = {
        "residuals": plots.residuals(got),
        "profiles": plots.profiles([profile(got, k) for k in got.problem.free]),
    }
    if tuple(got.law.inputs) == ("N", "D"):
        figures |= {"contours": plots.contours(got, draws), "frontier": plots.frontier(got, draws)}
        figures["valleys"] = plots.valleys(got.data, isoflop(got.data))
    if draws is not None:
        figures["corner"] = plots.corner(draws)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)
        print(folder / f"{name}.png")


def run_check(a: argparse.Namespace) -> None:
    if a.table.endswith(".json"):
        got = _saved(a.table)
        found = check_data(got.data, got.law.inputs) + check_fit(got)
    else:
        found = check_data(_data(a, named(a.law, LAWS).inputs), named(a.law, LAWS).inputs)
    print("\n".join(found) if found else "nothing found")


def _shared() -> tuple[argparse.ArgumentParser, ...]:
    """Options that several verbs have: of tables of runs, losses, the bootstrap and saved fits."""
    runs, loss, boot, saved = (argparse.ArgumentParser(add_help=False) for _ in range(4))
    runs.add_argument("table", help="runs, .csv or .jsonl")
    runs.add_argument("--x", nargs="+", metavar="NAME=COLUMN", help="columns of inputs whose names differ")
    runs.add_argument("--y", default="loss", help="column of the loss")
    runs.add_argument("--w", help="column of weights")
    runs.add_argument("--group", help="column that names the run of a checkpoint")
    runs.add_argument("--budget-column", help="column of compute budgets")
    runs.add_argument("--exclude", help="rows to leave out, 0-based, such as 0,4,7")
    runs.add_argument("--note", default="counting not stated", help="how N, D and FLOPs were counted")
    loss.add_argument("--loss", default="huber", choices=("huber", "lsq", "lad", "learned"))
    loss.add_argument("--huber", type=float, default=1e-3, metavar="DELTA", help="width of the Huber loss")
    loss.add_argument("--space", default="log", choices=("log", "raw"))
    loss.add_argument("--starts", type=int, default=64)
    boot.add_argument("--boot", type=int, default=0, help="bootstrap refits; 0 for none")
    boot.add_argument("--kind", default="pairs", choices=BOOTSTRAPS, help="parametric suits few runs")
    saved.add_argument("fit", help="a fit, .json")
    saved.add_argument("--level", type=float, default=0.95)
    return runs, loss, boot, saved


def parser() -> argparse.ArgumentParser:
    """The command line, one sub-command a verb."""
    top = argparse.ArgumentParser("python -m jaxlib_ext.scaling", description=(__doc__ or "\n\n").split("\n")[2])
    verbs = top.add_subparsers(required=True, metavar="verb")
    formatter = argparse.ArgumentDefaultsHelpFormatter

    def verb(run, text, *parents):
        p = verbs.add_parser(run.__name__[4:], help=text, description=text, parents=parents, formatter_class=formatter)
        p.set_defaults(run=run)
        return p

    runs, loss, boot, saved = _shared()
    p = verb(run_fit, "fit a law", runs, loss, boot)
    p.add_argument("--law", default="chinchilla", help=f"one of {', '.join(LAWS)}, with options in brackets")
    p.add_argument("--fixed", nargs="+", metavar="NAME=VALUE")
    p.add_argument("-o", "--out", help="where the fit goes, .json")
    p = verb(run_predict, "the law at new inputs, for one new run", saved, boot)
    p.add_argument("--at", nargs="+", required=True, metavar="NAME=VALUE")
    p.add_argument("--mean", action="store_true", help="interval for the law instead of a run")
    p = verb(run_plan, "compute-optimal size and tokens", saved, boot)
    p.add_argument("--flops", nargs="+", required=True)
    p.add_argument("--infer-tokens", type=float, help="tokens to serve over the model's life")
    p = verb(run_isoflop, "minima of loss at equal compute", runs)
    p.add_argument("--minimum", default="parabola", choices=ISOFLOPS)
    p = verb(run_compare, "order laws", runs, loss)
    p.add_argument("--laws", nargs="+", default=["chinchilla", "kaplan", "gadre"])
    p.add_argument("--by", default="extrapolate", choices=("extrapolate", "kfold", "aicc"))
    p.add_argument("--holdout", type=float, default=0.1, help="share of the runs, those with most compute")
    p = verb(run_profile, "profile intervals and directions", saved)
    p.add_argument("--params", nargs="+")
    p = verb(run_next, "which runs to do next", saved)
    p.add_argument("--candidates", required=True, help="table with the law's inputs")
    p.add_argument("--budget", type=float, required=True)
    p.add_argument("--cost", help="column of costs")
    p.add_argument("--target", nargs="+", metavar="NAME=VALUE")
    p.add_argument("--design", default="target", choices=DESIGNS)
    p.add_argument("--power", type=float, default=0.4)
    p = verb(run_hparams, "learning rate and batch size for a size and a number of tokens")
    p.add_argument("--N", type=float, required=True, help="parameters without the embedding")
    p.add_argument("--D", type=float, required=True, help="training tokens")
    p.add_argument("--length", type=int, default=2048, help="tokens of a sequence")
    p.add_argument("--sweeps", help="table with N, D, lr, batch (tokens) and loss: fits the law to it")
    p.add_argument("--near", type=float, default=0.01, help="runs count whose loss is this near to the lowest")
    p = verb(run_simulate, "runs from a known law")
    p.add_argument("--law", default="chinchilla")
    p.add_argument("--theta", nargs="+", required=True, metavar="NAME=VALUE")
    p.add_argument("--grid", nargs="+", required=True, metavar="NAME=LOW:HIGH:COUNT")
    p.add_argument("--noise", type=float, default=0.01)
    p.add_argument("--tails", type=float, help="degrees of freedom of the noise; normal without")
    p.add_argument("-o", "--out", required=True, help="where the runs go, .csv")
    p = verb(run_plot, "pictures of a fit", saved, boot)
    p.add_argument("-o", "--out", required=True, help="folder")
    p = verb(run_check, "what is known to mislead, in runs or in a fit (.json)", runs)
    p.add_argument("--law", default="chinchilla")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb. What the user can mend is one line on the standard error, with exit status 2."""
    a = parser().parse_args(arguments)
    try:
        a.run(a)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
