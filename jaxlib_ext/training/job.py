"""A run made ready: all that can be wrong with a config is found here, before anything is compiled or written."""

import dataclasses
import functools
import json
from collections.abc import Callable

import jax
from etils import epath

from .. import param, sharding
from ..models.config import build
from ..models.lm import LM
from ..optim import default_rate, innermost, make_optimizer, make_schedule
from ..scaling import mup
from . import config, data, losses, storage
from .config import RunConfig, Saved
from .step import Step, make_step


@dataclasses.dataclass(frozen=True)
class Job:
    """What `prepare` returns and `loop.run` runs."""

    config: RunConfig
    model: LM
    step: Step
    schedule: Callable
    mesh: jax.sharding.Mesh
    train: data.Batches
    held_out: data.EvalBatches

    @property
    def out(self) -> epath.Path:
        return epath.Path(self.config.out)

    @property
    def saved(self) -> Saved:
        about = json.loads(json.dumps(self.train.source.describe()))  # as it will be read again
        return Saved(self.config, self.model.vocab, about)

    @property
    def flops(self) -> float:
        """Of one training step: 3 forward passes' worth; causal attention counts the half that is not masked."""
        c = self.config
        context = (c.time + 1) / 2 if self.model.causal else c.time
        return 3 * self.model.cost(c.batch * c.time, context).flops


def loss_of(c: RunConfig):
    """The training loss that a config names."""
    return functools.partial(losses.next_token, z_loss=c.z_loss, chunk=c.loss_chunk)


def scales_of(c: RunConfig, model: LM):
    """The parameterisation that a config names: muP over the same model at another width, or None."""
    if c.base_width is None:
        return None
    base = build(dataclasses.replace(c.model, width=c.base_width), model.vocab)
    return mup(model.decl(), base.decl(), innermost(c.optimizer))


def step_of(c: RunConfig, model: LM, mesh: jax.sharding.Mesh | None) -> tuple[Step, Callable]:
    """The training step and the schedule inside it."""
    peak = default_rate(c.optimizer) if c.learning_rate is None else c.learning_rate
    schedule = make_schedule(
        c.schedule, peak, c.steps, round(c.warmup * c.steps), batch=c.batch, tokens=c.batch * c.time
    )
    decl, scales = model.decl(), scales_of(c, model)
    tx = make_optimizer(c.optimizer, schedule, param.decayed(decl), decl=decl, scales=scales)
    zero = tuple(filter(None, c.zero.split(",")))
    step = make_step(
        model, tx, loss_of(c), mesh, accumulate=c.accumulate, clip=c.clip, ema=c.ema, zero=zero, scales=scales
    )
    return step, schedule


def prepare(c: RunConfig) -> Job:
    """Raises ValueError or OSError with one line for a config that cannot run here."""
    c.check()
    if c.loss_chunk is not None and c.time % c.loss_chunk:
        raise ValueError(f"loss_chunk={c.loss_chunk} does not divide time={c.time}")
    mesh = sharding.make_mesh(c.mesh)
    train = data.open_source(c.data, "train")
    model = build(c.model, train.vocab)
    if not model.causal:
        raise ValueError("a bidirectional mixer cannot be trained to predict the next token")
    step, schedule = step_of(c, model, mesh)
    batches = data.Batches(train, c.batch, c.time, c.seed)
    held_out = data.eval_batches(data.open_source(c.data, "eval"), c.batch, c.time, c.eval_windows)
    ways = sharding.ways("batch", mesh)
    if (c.batch // c.accumulate) % ways:
        raise ValueError(f"a microbatch of {c.batch // c.accumulate} sequences does not divide over {ways} data shards")
    job = Job(c, model, step, schedule, mesh, batches, held_out)
    storage.check_writable(job.out)
    storage.check_shared(job.out)
    file = job.out / "config.json"
    if file.exists():
        said = config.difference(config.loads(file.read_text(), str(file)), job.saved)
        if said:
            raise ValueError(f"{job.out} holds another run: {said}; take another --out or the old value")
    return job
