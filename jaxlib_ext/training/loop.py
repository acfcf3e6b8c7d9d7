"""The training loop: batches, updates, held-out losses, metrics, checkpoints, preemption. Nothing happens in silence.

A step's metrics are read while the next step runs, so the devices never wait for the host; before anything is saved
they are read first, so no checkpoint holds a state that came from a loss that is not finite.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .. import param, sharding
from . import config, data, distributed, hardware, losses
from .checkpoint import Checkpoints
from .job import Job
from .metrics import MetricsFile, TensorBoard, read
from .progress import Progress
from .state import State
from .storage import replace_text

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended: steps done, whether it was told to stop early, and the last losses in nats a token."""

    step: int
    preempted: bool
    train_loss: float
    eval_loss: float
    seconds: float


def evaluator(job: Job) -> Callable[[State], Row]:
    """state -> held-out losses over the fixed windows: "eval_loss", and "eval_loss_ema" where an average is kept."""

    def sums(params, batch):
        loss = losses.next_token(job.model, params, batch, None, chunk=job.config.loss_chunk, train=False)
        return loss.metrics["loss"], loss.weight

    jitted, point = jax.jit(sums), job.step.eval_params
    placed = sharding.batch_sharding(job.mesh)

    def mean(params) -> float:
        with job.step.on_mesh(), data.device_batches(job.held_out, 0, placed) as batches:
            parts = [jax.device_get(jitted(params, batch)) for batch in batches]
        total, weight = np.sum(np.asarray(parts, np.float64), 0)
        return float(total / weight)

    def evaluate(state: State) -> Row:
        row = dict(eval_loss=mean(point(state)))
        if job.config.ema is not None:
            _, rest = param.split(job.step.decl, state.params)
            row["eval_loss_ema"] = mean(param.join(state.ema, rest))
        return row

    return evaluate


class Log:
    """Rows to JSONL and TensorBoard from the lead process, and the progress line."""

    def __init__(self, job: Job, begin: int):
        self.job, self.begin = job, time.perf_counter()
        lead = distributed.is_lead()
        self.sinks: list = [MetricsFile(job.out / "metrics.jsonl")] if lead else []
        if lead and job.config.tensorboard:
            self.sinks.append(TensorBoard(job.out / "tensorboard"))
        for sink in self.sinks:
            sink.rewind(begin)
        peak = hardware.peak_flops()[0] * jax.device_count()
        tokens = job.config.batch * job.config.time
        self.progress = Progress(
            job.config.steps, tokens=tokens, flops=job.flops, peak=peak, start=begin, silent=not lead
        )
        self.last: Row = {}  # newest value of every column; those of a run that goes on come from its file
        if lead and begin:
            for row in read(job.out / "metrics.jsonl"):
                self.last |= row

    def write(self, row: Row) -> None:
        self.last |= row
        row = row | dict(time_elapsed=round(time.perf_counter() - self.begin, 3))
        for sink in self.sinks:
            sink.write(row)

    def sync(self) -> None:
        for sink in self.sinks:
            sink.sync()

    def close(self) -> None:
        self.progress.close()
        for sink in self.sinks:
            sink.close()


def _checked(step: int, metrics: Any, job: Job) -> Row:
    """A step's metrics as numbers; raises if the loss or the gradient is not finite."""
    values = {k: v.item() for k, v in jax.device_get(metrics).items()}
    if not values.pop("finite"):
        raise FloatingPointError(
            f"step {step}: loss {values['loss']:.4g}, gradient norm {values['grad_norm']:.4g} are not finite; "
            f"the last good checkpoint in {job.out} stays"
        )
    rate = float(job.schedule(step - 1))
    return dict(step=step, tokens=step * job.config.batch * job.config.time, learning_rate=rate) | values


class Loop:
    """The state of one run between its steps."""

    def __init__(self, job: Job, checkpoints: Checkpoints):
        self.job, self.checkpoints = job, checkpoints
        found = checkpoints.restore(job.step.abstract)
        self.state: State = job.step.init(jax.random.key(job.config.seed)) if found is None else found[1]
        self.done = 0 if found is None else found[0]
        if found is None and distributed.is_lead():
            replace_text(job.out / "config.json", config.dumps(job.saved))
        self.log = Log(job, self.done)
        self.evaluate = evaluator(job)
        self.pending: tuple[int, Any] | None = None
        self.saved = self.done

    def advance(self, batch: Any) -> None:
        self.state, metrics = self.job.step(self.state, batch)
        self.done += 1
        before, self.pending = self.pending, (self.done, metrics)
        self._read(before)

    def _read(self, pending: tuple[int, Any] | None) -> None:
        if pending is None:
            return
        c, row = self.job.config, _checked(*pending, self.job)
        self.log.progress.update(pending[0], loss=row["loss"])
        self.log.last |= row
        if pending[0] % c.log_every == 0 or pending[0] == c.steps:
            self.log.write(row)

    def settle(self) -> None:
        """Reads what is pending: after this the state is known to be good."""
        self._read(self.pending)
        self.pending = None

    def measure(self) -> None:
        self.settle()
        row = self.evaluate(self.state)
        self.log.progress.update(self.done, **row)
        self.log.write(dict(step=self.done) | row)

    def save(self) -> None:
        self.settle()
        if self.saved == self.done:
            return
        self.log.sync()
        c = self.job.config
        self.checkpoints.save(self.done, self.state, dict(step=self.done, samples=self.done * c.batch, data=c.data))
        self.saved = self.done


def run(job: Job) -> Result:
    """Runs or goes on with a job. Raises FloatingPointError, naming the step, when loss or gradient are not finite."""
    c = job.config
    begin, preempted = time.perf_counter(), False
    with Checkpoints(job.out / "checkpoints", keep=c.keep) as checkpoints, distributed.Preemption() as preemption:
        loop = Loop(job, checkpoints)
        placed = sharding.batch_sharding(job.mesh)
        with (
            contextlib.closing(loop.log),
            data.device_batches(job.train, loop.done, placed) as batches,
            contextlib.closing(_Trace(job)) as trace,
        ):
            while loop.done < c.steps and not preempted:
                trace.at(loop.done + 1)
                loop.advance(next(batches))
                preempted = preemption.due(loop.done)
                last = loop.done == c.steps
                if loop.done % c.eval_every == 0 or last:
                    loop.measure()
                if loop.done % c.save_every == 0 or last or preempted:
                    loop.save()
            loop.settle()
            loop.log.sync()
    last = loop.log.last
    nan = float("nan")
    return Result(loop.done, preempted, last.get("loss", nan), last.get("eval_loss", nan), time.perf_counter() - begin)


class _Trace:
    """A profiler trace of steps a to b, both included."""

    def __init__(self, job: Job):
        self.steps, self.folder, self.on = config.profile_steps(job.config.profile), job.out / "profile", False

    def at(self, step: int) -> None:
        if self.steps and not self.on and self.steps[0] <= step <= self.steps[1]:
            jax.profiler.start_trace(str(self.folder))
            self.on = True
        elif self.on and self.steps and step > self.steps[1]:
            self.close()

    def close(self) -> None:
        if self.on:
            jax.profiler.stop_trace()
            self.on = False
