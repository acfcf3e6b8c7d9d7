"""What some optimizers need beside the gradient, made of the model, the loss and the batch of the step.

`value_fn`, `sampled_grads` and `task` are extra arguments of an optimizer's `update`; `microbatch_grads` comes from
`halves`, which replaces the step's own gradient. An optimizer says what it needs in `tx.needs`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .. import param
from .losses import Loss, sequence

Array = jax.Array
Tree = Any
KNOWN = ("microbatch_grads", "sampled_grads", "task", "value_fn")
WHOLE = ("microbatch_grads", "sampled_grads", "value_fn")  # made from the whole batch at once


def check(needs: tuple[str, ...], accumulate: int) -> None:
    """Raises for what a training step cannot give."""
    for name in needs:
        if name not in KNOWN:
            raise ValueError(
                f"the optimizer needs {name}=..., which a training step cannot give; it has {', '.join(KNOWN)}"
            )
        if name in WHOLE and accumulate > 1:
            raise ValueError(
                f"the optimizer needs {name}, made from the whole batch: accumulate must be 1, not {accumulate}"
            )


def halves(gradient: Callable[[dict], tuple[Loss, Tree]], batch: dict[str, Array]) -> tuple[Loss, Tree, Tree]:
    """(loss, summed gradient, mean gradients of the even and the odd rows, [2, ...])."""
    if any(v.shape[0] % 2 for v in batch.values() if v.ndim):
        raise ValueError("microbatch_grads needs an even batch")
    (one, g1), (two, g2) = (gradient({k: v[i::2] for k, v in batch.items()}) for i in (0, 1))
    both = jax.tree.map(lambda a, b: jnp.stack([a / one.weight, b / two.weight]), g1, g2)
    summed = jax.tree.map(jnp.add, (one._replace(buffers={}), g1), (two._replace(buffers={}), g2))
    return summed[0]._replace(buffers=two.buffers), summed[1], both


def sampled(model: Any, batch: dict[str, Array], params: Tree, key: Array) -> dict[str, Array]:
    """The batch with targets drawn from the model's own distribution."""
    h, _ = model.hidden(params, batch["tokens"], sequence(batch))
    return dict(batch, targets=jax.random.categorical(key, model.logits(params, h)).astype(batch["targets"].dtype))


def extras(step: Any, state: Any, batch: dict[str, Array], key: Array) -> dict[str, Any]:
    """Those extra arguments that the optimizer of the step needs, but for microbatch_grads."""
    needs, found = step.needs, {}
    trained, rest = param.split(step.decl, state.params)
    if "value_fn" in needs:

        def value(p):
            loss = step.loss(step.model, param.join(p, rest), batch, key)
            return loss.total / loss.weight

        found["value_fn"] = value
    if "sampled_grads" in needs:
        draw = jax.random.fold_in(key, 1)

        def renewed(_):
            loss, grads = step.gradient(state, sampled(step.model, batch, state.params, draw), key)
            return jax.tree.map(lambda g: (g / loss.weight).astype(jnp.float32), grads)

        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), trained)
        # Drawn only where the rule looks at it: a second backward pass every so many steps.
        every = getattr(step.tx.core.rule, "every", 1)
        found["sampled_grads"] = jax.lax.cond(state.step % every == 0, renewed, lambda _: zeros, None)
    if "task" in needs and "task" in batch:
        found["task"] = batch["task"].reshape(-1)[0]
    return found
