"""Training of one small model on one task, many steps in one program."""

import dataclasses
import functools
import hashlib
import json
import math
import time
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_ext import optim, param
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.training import losses
from jaxlib_ext.training.data.tasks import Task, make_task
from jaxlib_ext.training.state import State
from jaxlib_ext.training.step import make_step

Array = jax.Array
Batch = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained: the same for all of a comparison."""

    steps: int
    batch: int
    every: int  # steps between two looks at the held-out rows
    eval_rows: int
    solved: float  # held-out accuracy that ends a run
    optimizer: str
    warmup: float  # share of the steps


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, by all that decides how it ends. name: the mixer as it was asked for."""

    task: str
    name: str
    model: ModelConfig
    recipe: Recipe
    rate: float
    seed: int

    @property
    def key(self) -> str:
        """Names the result's file: another setting is another run."""
        what = dataclasses.asdict(self)
        what |= dict(name="", task=repr(make_task(self.task)))
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def draw(task: Task, key: Array, first: Array, steps: int, batch: int) -> Batch:
    """Batches of the steps first, first + 1, ..., [steps, B, T]."""
    at = first + jnp.arange(steps)
    return jax.vmap(lambda i: task.sample(jax.random.fold_in(key, i), batch))(at)


def keys(seed: int) -> tuple[Array, Array]:
    """Of the training rows of a seed, and of the held-out rows, which are the same for all seeds."""
    return jax.random.fold_in(jax.random.key(seed), 0), jax.random.fold_in(jax.random.key(0), 1)


class Trainer:
    """The programs of one model. Learning rate, schedule and seed are data, so each is compiled once a vocabulary."""

    def __init__(self, model: ModelConfig, vocab: int, recipe: Recipe):
        self.model, self.recipe = build(model, vocab), recipe
        decl = self.model.decl()
        tx = optim.make_optimizer(recipe.optimizer, self.schedule(1.0), param.decayed(decl), decl=decl)
        self.step = make_step(self.model, tx, losses.next_token, clip=1.0)
        self.many = jax.jit(lambda state, batches: jax.lax.scan(self.step.jitted, state, batches), donate_argnums=0)
        self.right = jax.jit(self._right)

    def schedule(self, rate: float):
        steps = self.recipe.steps
        return optim.make_schedule("cosine", rate, steps, round(self.recipe.warmup * steps))

    def start(self, rate: float, seed: int) -> State:
        state = self.step.init(jax.random.key(seed))
        return dataclasses.replace(state, opt=optim.set_hyper(state.opt, learning_rate=self.schedule(rate)))

    def _right(self, params: Any, batches: Batch) -> tuple[Array, Array]:
        """Sums over all targets: right answers, and targets."""

        def one(batch):
            h, _ = self.model.hidden(params, batch["tokens"], losses.sequence(batch))
            guess = jnp.argmax(self.model.logits(params, h), -1)
            return jnp.sum((guess == batch["targets"]) & batch["mask"]), jnp.sum(batch["mask"])

        right, count = jax.lax.map(one, batches)
        return jnp.sum(right), jnp.sum(count)

    def accuracy(self, state: State, held_out: Batch) -> float:
        right, count = self.right(self.step.eval_params(state), held_out)
        return float(right) / float(count)

    def train(self, task: Task, rate: float, seed: int) -> dict[str, Any]:
        """Up to recipe.steps updates; ends before when the held-out rows are solved or the loss is no number."""
        c = self.recipe
        for_train, for_eval = keys(seed)
        held_out = draw(task, for_eval, jnp.int32(0), -(-c.eval_rows // c.batch), c.batch)
        state, done, begin = self.start(rate, seed), 0, time.perf_counter()
        took, accuracy, loss = [], self.accuracy(state, held_out), math.inf
        while done < c.steps:
            n = min(c.every, c.steps - done)
            batches = jax.block_until_ready(draw(task, for_train, jnp.int32(done), n, c.batch))
            before = time.perf_counter()
            state, metrics = self.many(state, batches)
            loss = float(jnp.mean(metrics["loss"]))
            took.append((time.perf_counter() - before) / n)
            done += n
            accuracy = self.accuracy(state, held_out)
            if accuracy >= c.solved or not math.isfinite(loss):
                break
        status = "solved" if accuracy >= c.solved else "not converged" if math.isfinite(loss) else "diverged"
        return dict(
            accuracy=accuracy, loss=loss, steps=done, status=status, ms_a_step=1e3 * min(took),
            seconds=time.perf_counter() - begin,
        )  # fmt: skip


@functools.lru_cache(maxsize=1)
def trainer(model: ModelConfig, vocab: int, recipe: Recipe) -> Trainer:
    """The last one is kept: the runs of a model follow each other."""
    return Trainer(model, vocab, recipe)


def train(run: Run) -> dict[str, Any]:
    task = make_task(run.task)
    return trainer(run.model, task.vocab, run.recipe).train(task, run.rate, run.seed)
