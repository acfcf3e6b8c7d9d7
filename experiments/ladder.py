"""A scaling law from a ladder of language models, and its prediction for a larger run that it did not use.

    python experiments/ladder.py                 # minutes on a laptop
    python experiments/ladder.py --mixer gla --out runs/gla
    python experiments/ladder.py --mixers "attention(heads=1),gla,mamba" --out runs/laws
    python experiments/ladder.py --only 3/16     # the third of 16 jobs of an array; the last one to end fits

Trains every size at every token budget, fits L(N, D) = E + A N^-alpha + B D^-beta to all runs but those of the largest
compute, and holds its prediction against them. Leaves runs.csv, fit.json and ladder.png. Run again, it goes on where it
was interrupted. N counts the parameters that a token is multiplied with, C = 6 N D.

With --mixers, the same for each in a folder of its own, and one table of all laws and of their differences with 95%
limits: of the exponents, of the best loss at the compute of the held-out runs, and of those runs themselves.

Exit status: 0 done, 1 a run failed or a fit is degenerate, 2 what was asked for cannot run here.
"""

import logging
import sys

import jax
import tyro
from _ladder_compare import compare
from _ladder_law import conclude
from _ladder_runs import Ladder, Rung, architectures, climb, collect, run_config, rungs
from etils import epath

from jaxlib_ext.training import distributed, job
from jaxlib_ext.training.beside import keep_to_core


def main() -> int:
    keep_to_core()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        ladder = tyro.cli(Ladder, description=__doc__)
        design = rungs(ladder)
        distributed.start()
    except (ValueError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with distributed.guard():
        status = whole(ladder, design)
        if status:
            raise SystemExit(status)
    return 0


def check(ladder: Ladder, design: list[Rung]) -> None:
    """Raises ValueError or OSError for what is wrong for all runs of an architecture, before the first run."""
    if ladder.run and ladder.run not in {r.path for r in design}:
        raise ValueError(f"the design has no run {ladder.run!r}")
    for rung in {r.folder: r for r in reversed(design)}.values():
        job.prepare(run_config(ladder, rung))
    n = len({(r.width, r.tokens) for r in design})
    if n < 7:
        raise ValueError(f"design: {n} runs are too few for a law of 5 parameters and a held-out run")


def whole(ladder: Ladder, design: list[Rung]) -> int:
    """From the checks to the conclusion; the exit status."""
    try:
        check(ladder, design)
        jax.config.update("jax_compilation_cache_dir", str(epath.Path(ladder.out) / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        complete = climb(ladder, design)
        if ladder.run:
            return 0
        rows = collect(ladder, design)
        if not complete or len(rows) < len(design):
            if distributed.is_lead():
                print(f"{len(rows)} of {len(design)} runs have ended; the law is fitted when all have")
            return 0
        return concluded(ladder, design) if distributed.is_lead() else 0
    except (FloatingPointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def concluded(ladder: Ladder, design: list[Rung]) -> int:
    """The law of each architecture, and the comparison where there are several; the exit status."""
    laws, status = [], 0
    for _, _, folder in architectures(ladder):
        mine = [r for r in design if r.folder == folder]
        laws.append(conclude(ladder, collect(ladder, mine, folder), epath.Path(ladder.out) / folder))
        if said := laws[-1].degenerate:
            name = f" of {laws[-1].mixer}" if folder else ""
            print(f"error: the fit{name} is degenerate: {said}", file=sys.stderr)
            status = 1
    if len(laws) > 1:
        compare(laws, epath.Path(ladder.out))
    return status


if __name__ == "__main__":
    sys.exit(main())
