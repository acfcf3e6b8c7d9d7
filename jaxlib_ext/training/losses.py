"""Losses as sums and weights, so that accumulated and sharded gradients are exactly those of the whole batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..contracts import Aux, Seq, from_starts

Array = jax.Array
Tree = Any


class Loss(NamedTuple):
    """What a loss function returns. The objective is total / weight, over all microbatches and devices together."""

    total: Array  # float32 scalar: summed over what is counted
    weight: Array  # float32 scalar: how much is counted (tokens)
    metrics: dict[str, Array] = {}  # name -> float32 scalar sums, reported divided by weight
    buffers: dict = {}  # a subtree of params -> new values, see contracts.Aux


def sequence(batch: dict[str, Array], key: Array | None = None, train: bool = False) -> Seq:
    """The Seq of a batch of windows; without "start", every row is one document."""
    tokens = batch["tokens"]
    start = batch.get("start")
    if start is None:
        start = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None] == 0, tokens.shape)
    return from_starts(start, key=key, train=train)


def cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """float32 logits [..., V] and int targets [...] -> nats [...] and log partition [...]."""
    z = jax.nn.logsumexp(logits, -1)
    return z - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0], z


def _summed(model, params: Tree, h: Array, targets: Array, weight: Array) -> tuple[Array, Array]:
    nats, z = cross_entropy(model.logits(params, h), targets)
    return jnp.sum(nats * weight), jnp.sum(z * z * weight)


def next_token(model, params: Tree, batch: dict[str, Array], key: Array | None, *, z_loss: float = 0.0,
               chunk: int | None = None, train: bool = True) -> Loss:  # fmt: skip
    """Cross-entropy of the next token in nats.

    batch: tokens int32 [B, T], targets int32 [B, T], and optionally start bool [B, T] (a document begins) and mask
    [B, T] (counted targets). z_loss: coefficient of the squared log partition (Chowdhery et al. 2022, arXiv
    2204.02311). chunk: logits of that many tokens at a time are made, used and made again backwards, so the [B, T, V]
    array never is.
    """
    h, aux = model.hidden(params, batch["tokens"], sequence(batch, key, train))
    targets = batch["targets"]
    weight = batch["mask"].astype(jnp.float32) if "mask" in batch else jnp.ones(targets.shape, jnp.float32)
    if chunk is None:
        nats, squares = _summed(model, params, h, targets, weight)
    else:
        t = targets.shape[1]
        if t % chunk:
            raise ValueError(f"loss chunk={chunk} does not divide the sequence of {t}")
        cut = lambda a: jnp.moveaxis(a.reshape(a.shape[0], t // chunk, chunk, *a.shape[2:]), 1, 0)
        one = jax.checkpoint(lambda part: _summed(model, params, *part))
        nats, squares = map(jnp.sum, jax.lax.map(one, (cut(h), cut(targets), cut(weight))))
    return _with_aux(nats, squares, jnp.sum(weight), aux, z_loss)


def _with_aux(nats: Array, squares: Array, weight: Array, aux: Aux, z_loss: float) -> Loss:
    total, metrics = nats, {"loss": nats}
    if z_loss:
        total = total + z_loss * squares
        metrics["z_loss"] = z_loss * squares
    for name, value in aux.losses.items():  # means over real tokens: weighted here like the tokens they are of
        total = total + value * weight
        metrics[name] = value * weight
    return Loss(total, weight, metrics, aux.buffers)
