"""How a block runs at its sites, how a unit runs over depth, and what the backward pass keeps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from .. import param
from ..contracts import Aux, Seq

Array = jax.Array
Tree = Any
NAMES = ("token_out", "channel_out")  # what the mixers of a block return

_policies = jax.checkpoint_policies
REMAT = {
    "none": None,  # keep everything
    "full": _policies.nothing_saveable,  # keep the stream between units
    "dots": _policies.dots_with_no_batch_dims_saveable,  # keep the results of contractions with weights
    "names": _policies.save_only_these_names(*NAMES),  # keep what mixers return
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=list(NAMES),
        offload_src="device",
        offload_dst="pinned_host",
    ),  # the same in host memory
}


def dropout(y: Array, rate: float, seq: Seq) -> Array:
    """Zeroes a share of y and scales up the rest. The mixer had the same key, hence the fold."""
    if not (seq.train and rate):
        return y
    if seq.key is None:
        raise ValueError("dropout needs seq.key in training")
    keep = jax.random.bernoulli(jax.random.fold_in(seq.key, 1), 1 - rate, y.shape)
    return jnp.where(keep, y / (1 - rate), 0)


@dataclasses.dataclass(frozen=True)
class Context:
    """What is the same for every block of one call: the model and, for cross-attention in training, the memory."""

    model: Any
    memory: Array | None = None
    memory_seq: Seq | None = None

    def empty(self, mixer, params: Tree, batch: int) -> Tree:
        """The state of a call that nothing follows, with the memory in it where the mixer reads one."""
        s = 0 if self.memory is None else self.memory.shape[1]
        state = param.zeros(mixer.state(batch, 0, s))
        if hasattr(mixer, "bind"):
            if self.memory is None:
                raise ValueError(f"{type(mixer).__name__} reads a memory and none was given")
            state = mixer.bind(params, self.memory, state, self.memory_seq)
        return state

    def block(self, block, params: Tree, z: Tree, i, seq: Seq, mode: str, state: Tree | None):
        """One block at site i. Returns z, seq with what the token mixer gives, {place: Aux}, the mixer's new state."""
        model, found = self.model, {}
        for kind, mixer in (("token", block.token), ("channel", block.channel)):
            if mixer is None:
                continue
            p = params[kind]
            keyed = seq if seq.key is None else dataclasses.replace(seq, key=jax.random.fold_in(seq.key, i))
            x = model.residual.read(p["site"], z, i, keyed)
            if kind == "token":
                y, state, aux = getattr(mixer, mode)(p["mixer"], x, state, keyed)
                seq = dataclasses.replace(seq, side=seq.side | aux.gives) if aux.gives else seq
            else:
                y, aux = mixer.apply(p["mixer"], x, keyed)
            y = dropout(checkpoint_name(y, f"{kind}_out"), model.dropout, keyed)
            z = model.residual.write(p["site"], z, y, i, keyed)
            found[kind] = aux._replace(gives={})
            i = i + 1
        return z, seq, found, state

    def trained(self, block, params: Tree, z: Tree, i, seq: Seq, path: tuple[str, ...]):
        """One block of a call that nothing follows. Returns z, seq, Aux under the block's path."""
        mixer = block.token
        state = None if mixer is None else self.empty(mixer, params["token"]["mixer"], seq.mask.shape[0])
        z, seq, found, _ = self.block(block, params, z, i, seq, "scan", state)
        return z, seq, collect([_placed(aux, (*path, kind)) for kind, aux in found.items()])


def _nest(path: tuple[str, ...], tree: Tree) -> Tree:
    for key in reversed(path):
        tree = {key: tree}
    return tree


def _placed(aux: Aux, path: tuple[str, ...]) -> Aux:
    """A mixer's report under its place; buffers at their path among the parameters."""
    stats = {"/".join(path): aux.stats} if aux.stats else {}
    return Aux(aux.losses, stats, _nest((*path, "mixer"), aux.buffers) if aux.buffers else {})


def run_block(context: Context, block, params: Tree, z: Tree, i: int, seq: Seq, path: tuple[str, ...]):
    """A prefix or suffix block in training. Returns z, seq, Aux."""
    body = lambda params, z, seq: context.trained(block, params, z, i, seq, path)
    return _remat(context.model.remat, body)(params, z, seq)


def _remat(name: str, body):
    return body if name == "none" else jax.checkpoint(body, policy=REMAT[name], prevent_cse=False)


def run_unit(context: Context, params: Tree, z: Tree, i: int, seq: Seq):
    """The unit n times under a scan over depth. Returns z, seq, Aux with losses summed and the rest stacked."""
    model = context.model
    per_unit = sum(b.sites for b in model.unit)

    def body(z, inputs):
        n, layer = inputs
        unit = model.weights.unit(params["shared"], layer)
        inside, site, reports = seq, i + n * per_unit, []
        for k, block in enumerate(model.unit):
            z, inside, aux = context.trained(block, unit[str(k)], z, site, inside, (str(k),))
            site = site + block.sites
            reports.append(aux)
        return jax.tree.map(lambda a: model.constrain(a) if a.ndim == 3 else a, z), collect(reports)

    unroll = model.unroll if model.unroll is not None else model.repeats if jax.default_backend() == "cpu" else 1
    layers = (jnp.arange(model.repeats), params["layers"])
    z, aux = jax.lax.scan(_remat(model.remat, body), z, layers, unroll=min(unroll, model.repeats))
    return z, seq, _of_unit(aux, params)


def _of_unit(aux: Aux, params: Tree) -> Aux:
    """Stacked reports of the unit as the model's: losses summed, buffers where their parameters are stored."""

    def merge(stored, new):  # shared parameters have shared buffers: the mean over depth
        if isinstance(new, dict):
            return {k: merge(stored[k], v) for k, v in new.items()}
        return new if new.shape == stored.shape else jnp.mean(new, 0)

    buffers = {}
    if aux.buffers:
        name = "layers" if params["layers"] else "shared"
        buffers = {"unit": {name: merge(params[name], aux.buffers)}}
    losses = {k: jnp.sum(v) for k, v in aux.losses.items()}
    return Aux(losses, {f"unit/{k}": v for k, v in aux.stats.items()}, buffers)


def _merge(a: Tree, b: Tree) -> Tree:
    return {k: _merge(a[k], b[k]) if k in a and k in b else a.get(k, b.get(k)) for k in (*a, *(set(b) - set(a)))}


def collect(reports: list[Aux]) -> Aux:
    """Several reports as one: losses of one name add up, stats and buffers stand side by side."""
    losses, stats, buffers = {}, {}, {}
    for aux in reports:
        for name, value in aux.losses.items():
            losses[name] = losses.get(name, 0.0) + value
        stats |= aux.stats
        buffers = _merge(buffers, aux.buffers)
    return Aux(losses, stats, buffers)
