"""Does a parameterisation keep activations, and the best learning rate, the same at every width?

    python experiments/coord_check.py                    # slopes of attention, gla and mamba
    python experiments/coord_check.py --mixers my_file:Mixer --optimizers adam --widths 64 256
    python experiments/coord_check.py --sweep 7 --steps 100 --widths 64 128 256      # the best learning rate by width

A language model is trained for a few steps on one batch at each width, from the start and with the rates that the
parameterisation says, and the root mean square of what every matrix makes of it is recorded after each. Leaves
`coordinates.csv` and a plot, or `sweep.csv` (of batches that change). Exit status 1 if a slope under muP is above the
limit, or the best rate moved by more than one point of the grid.
"""

import csv
import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
import tyro

from jaxlib_ext import optim, param, scaling
from jaxlib_ext.kernels.linear.tapped import tapped
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.lm import LM
from jaxlib_ext.registry import split_specs
from jaxlib_ext.scaling import plots
from jaxlib_ext.training import data, losses

RATES = dict(sgd=0.2, adam=0.003, lion=0.001)  # at the base width; what larger ones do is in RESULTS.md


@dataclasses.dataclass(frozen=True)
class Config:
    """What is run."""

    out: str = "runs/coord_check"
    mixers: str = "attention(heads={heads}),gla(heads={heads}),mamba"
    """Comma-separated; {heads} is width / head, so that heads keep their width."""
    head: int = 32
    optimizers: str = "sgd(momentum=0.0),adam,lion"
    """Comma-separated."""
    parameterisations: str = "mup,standard"
    """Of mup, ntk, mean_field (as param_scaling has them, absorbed) and standard, which scales nothing."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    base: int = 64
    """Width at which every parameterisation is the standard one."""
    depth: int = 2
    batch: int = 4
    time: int = 32
    steps: int = 10
    learning_rate: float | None = None
    """At the base; None: one for each optimizer."""
    zero_head: bool = True
    """Logits start at 0 under muP, so that no random part, which fades with width, hides what is learned."""
    limit: float = 0.1
    """Largest slope."""
    seeds: int = 2
    """Slopes are of the geometric mean over seeds, a sweep's losses of the mean; each seed is trained anew."""
    sweep: int = 0
    """Learning rates to try at each width instead, factors of 2 apart around learning_rate."""


def model_of(c: Config, mixer: str, width: int, vocab: int) -> LM:
    return build(ModelConfig(width=width, depth=c.depth, mixer=mixer.format(heads=width // c.head)), vocab)


def scales_of(c: Config, model: LM, base: LM, name: str, optimizer: str):
    """The tree of scales, None for the standard parametrisation."""
    if name == "standard":
        return None
    decl, rule = model.decl(), optim.innermost(optimizer)
    if name == "mup":
        return scaling.mup(decl, base.decl(), rule, zero_head=c.zero_head)
    return scaling.absorbed(scaling.param_scaling(decl, base.decl(), name, rule), rule)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and what is compiled of it once, for all optimizers and parameterisations."""

    model: LM

    @functools.cached_property
    def decl(self):
        return self.model.decl()

    @functools.cached_property
    def draw(self):
        return jax.jit(lambda key: param.init(self.decl, key))

    @functools.cached_property
    def gradient(self):
        def loss(params, batch):
            found = losses.next_token(self.model, params, batch, None)
            return found.total / found.weight

        return jax.jit(jax.value_and_grad(loss))

    @functools.cached_property
    def look(self):
        """(params, batch) -> [(path, root mean square)] of what every matrix makes, in the order of the computation."""
        found, keep = [], lambda path, rms: found.append((path, rms))

        @jax.jit
        def run(params, batch):
            return self.model.apply(tapped(self.decl, params, keep), batch["tokens"], losses.sequence(batch))[0]

        def seen(params, batch):
            found.clear()
            jax.block_until_ready(run(params, batch))
            jax.effects_barrier()
            return list(found)

        return seen


@functools.cache
def subject(c: Config, mixer: str, width: int, vocab: int) -> Subject:
    return Subject(model_of(c, mixer, width, vocab))


@functools.cache
def optimizer_of(c: Config, case: tuple[str, str, str], width: int, vocab: int):
    """(optimizer, its jitted update, scales)."""
    mixer, optimizer, name = case
    one, base = (subject(c, mixer, w, vocab) for w in (width, c.base))
    scales = scales_of(c, one.model, base.model, name, optimizer)
    tx = optim.make_optimizer(optimizer, rate_of(c, optimizer), decl=one.decl, scales=scales, weight_decay=0.0)
    return tx, jax.jit(tx.update), scales


def batches(c: Config, source) -> Callable[[int], dict]:
    """step -> batch."""
    rows = data.Batches(source, c.batch, c.time, 0).rows
    return lambda step: rows(step, 0, c.batch)


def training(
    c: Config, case: tuple[str, str, str], vocab: int, width: int, seed: int, batch_of: Callable[[int], dict],
    factor: float = 1.0,
):  # fmt: skip
    """Yields (params, loss of the step before, nan at first): before the first step and after each. factor: of the
    learning rate."""
    one = subject(c, case[0], width, vocab)
    tx, update, scales = optimizer_of(c, case, width, vocab)
    params = one.draw(jax.random.key(seed))
    if scales is not None:
        params = param.fold(lambda _, p, v, s: v if s is None else v * s.init, one.decl, params, scales)
    state = optim.set_hyper(tx.init(params), learning_rate=factor * rate_of(c, case[1]))
    yield params, float("nan")
    for step in range(c.steps):
        loss, grads = one.gradient(params, batch_of(step))
        delta, state = update(grads, state, params)
        params = optax.apply_updates(params, delta)
        yield params, loss


def rate_of(c: Config, optimizer: str) -> float:
    if c.learning_rate is not None:
        return c.learning_rate
    rule = optim.innermost(optimizer)
    if rule not in RATES:
        raise ValueError(f"give a --learning-rate for {optimizer}")
    return RATES[rule]


def measured(c: Config, case: tuple[str, str, str], source, width: int) -> dict[str, np.ndarray]:
    """{layer: root mean square before training and after each step}, the geometric mean over seeds."""
    batch = batches(c, source)(0)
    look = subject(c, case[0], width, source.vocab).look
    found = [
        [look(p, batch) for p, _ in training(c, case, source.vocab, width, seed, lambda _: batch)]
        for seed in range(c.seeds)
    ]
    with np.errstate(divide="ignore"):
        mean = np.exp(np.mean(np.log([[[rms for _, rms in one] for one in run] for run in found]), 0))
    layers, times = [], {}
    for path, _ in found[0][0]:
        times[path] = times.get(path, -1) + 1
        layers.append(path.replace("unit/layers", f"layer {times[path]}").replace("/mixer", ""))
    return dict(zip(layers, mean.T, strict=True))


def swept(c: Config, case: tuple[str, str, str], source, width: int) -> dict[float, float]:
    """{learning rate: mean loss of the last tenth of the steps}, seeds averaged."""
    found, batch_of = {}, batches(c, source)
    for i in range(c.sweep):
        factor = 2.0 ** (i - c.sweep // 2)
        runs = [
            [loss for _, loss in training(c, case, source.vocab, width, seed, batch_of, factor)]
            for seed in range(c.seeds)
        ]
        ends = np.array(jax.device_get(runs))[:, -max(c.steps // 10, 1) :]
        found[factor * rate_of(c, case[1])] = float(np.mean(ends))
    return found


def write(c: Config, name: str, fields: tuple[str, ...], rows: list[tuple]) -> None:
    Path(c.out).mkdir(parents=True, exist_ok=True)
    with (Path(c.out) / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(fields)
        writer.writerows(rows)


def cases(c: Config) -> list[tuple[str, str, str]]:
    return [
        (m, o, p) for m in split_specs(c.mixers) for o in split_specs(c.optimizers)
        for p in split_specs(c.parameterisations)
    ]  # fmt: skip


def check(c: Config, source) -> int:
    checks, rows, bad = {}, [], 0
    for case in cases(c):
        begin = time.perf_counter()
        found = scaling.coordinate_check(functools.partial(measured, c, case, source), c.widths)
        title = " ".join(case)
        checks[title] = found
        layer, step, slope = found.worst()
        print(f"\n{title}: largest slope {slope:+.3f} ({layer}, step {step}), {time.perf_counter() - begin:.0f} s")
        print(found, flush=True)
        bad += case[2] == "mup" and not found.within(c.limit)
        for w, width in enumerate(c.widths):
            rows += [(*case, width, s, n, found.rms[w, s, i]) for s in range(c.steps + 1)
                     for i, n in enumerate(found.layers)]  # fmt: skip
        write(c, "coordinates.csv", ("mixer", "optimizer", "parameterisation", "width", "step", "layer", "rms"), rows)
        plots.coordinates(checks).savefig(Path(c.out) / "coordinates.png", dpi=120)
    return 1 if bad else 0


def sweep(c: Config, source) -> int:
    rows, bad = [], 0
    for case in cases(c):
        best = []
        for width in c.widths:
            found = swept(c, case, source, width)
            rates = list(found)
            best.append(int(np.nanargmin([found[r] for r in rates])))
            rows += [(*case, width, r, found[r]) for r in rates]
            line = "  ".join(f"{found[r]:.3f}{'*' if i == best[-1] else ' '}" for i, r in enumerate(rates))
            print(f"{' '.join(case)}  width {width:5d}  best {rates[best[-1]]:.3g}   {line}", flush=True)
        bad += case[2] == "mup" and max(best) - min(best) > 1
        write(c, "sweep.csv", ("mixer", "optimizer", "parameterisation", "width", "learning_rate", "loss"), rows)
    return 1 if bad else 0


def main(c: Config) -> int:
    source = data.open_source("stdlib", "train")
    try:
        return sweep(c, source) if c.sweep else check(c, source)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
