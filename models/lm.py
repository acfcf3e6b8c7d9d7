"""A causal or bidirectional language model composed from the families.

Prefix blocks, a unit of blocks repeated over depth, suffix blocks; so a hybrid is a configuration and not a file. Depth
runs under a scan in training and unrolled in decoding, where every layer's state is an array of its own that is updated
in place. Parameters are keyed by place ("unit/layers/0/token/q"), states by depth ("unit/3/0").
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .. import param
from ..contracts import Aux, ChannelMixer, Cost, Position, Residual, Seq, TokenMixer, Weights
from ..kernels.linear import linear, take, unembed
from ..sharding import RULES, Rules, constrain
from .depth import REMAT, Context, collect, run_block, run_unit
from .positions import Rope
from .weights import Plain

Array = jax.Array
Tree = Any


@dataclasses.dataclass(frozen=True)
class Block:
    """A token mixer and then a channel mixer; either may be missing."""

    token: TokenMixer | None = None
    channel: ChannelMixer | None = None

    @property
    def sites(self) -> int:
        return (self.token is not None) + (self.channel is not None)


def _check_needs(blocks: tuple[Block, ...], given: set[str]) -> set[str]:
    """Raises if a mixer needs what none before it gives; returns all that is given after the blocks."""
    for block in blocks:
        missing = sorted(set(getattr(block.token, "needs", ())) - given)
        if missing:
            raise ValueError(f"{type(block.token).__name__} needs {missing[0]!r}, which no layer before it gives")
        given = given | set(getattr(block.token, "gives", ()))
    return given


@dataclasses.dataclass(frozen=True)
class LM:
    """vocab V, width D. unit is repeated `repeats` times between prefix and suffix.

    tied: the head is the embedding, whose rows are then drawn at D^-1/2 and scaled by D^1/2 on the way in.
    dropout: on every mixer's output while seq.train. dtype: of the computation; parameters stay float32.
    remat: what the backward pass recomputes, one of depth.REMAT. unroll: of the scan over depth; None unrolls all on
    CPU, where a scan costs time, and nothing elsewhere. rules: axis names to mesh axes for the stream.
    """

    vocab: int
    width: int
    unit: tuple[Block, ...]
    repeats: int
    residual: Residual
    prefix: tuple[Block, ...] = ()
    suffix: tuple[Block, ...] = ()
    position: Position = Rope()
    weights: Weights = Plain()
    tied: bool = False
    dropout: float = 0.0
    logit_cap: float | None = None
    dtype: str = "float32"
    remat: str = "none"
    unroll: int | None = None
    rules: Rules = RULES

    def __post_init__(self):
        if self.remat not in REMAT:
            raise ValueError(f"unknown remat policy {self.remat!r}; known are {', '.join(REMAT)}")
        if self.repeats < 1 or not self.unit:
            raise ValueError("a language model needs a unit of at least one block and repeats >= 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        given = _check_needs(self.prefix, set())
        for blocks in (self.unit, self.suffix):  # what a unit gives stays inside it
            _check_needs(blocks, given)

    # declaration

    @property
    def sites(self) -> int:
        return sum(b.sites for b in (*self.prefix, *self.unit * self.repeats, *self.suffix))

    @property
    def causal(self) -> bool:
        return all(b.token is None or b.token.causal for b in (*self.prefix, *self.unit, *self.suffix))

    def _block_decl(self, block: Block) -> Tree:
        site = self.residual.decl(self.sites)["site"]
        mixers = dict(token=block.token, channel=block.channel)
        return {k: dict(mixer=m.decl(), site=site) for k, m in mixers.items() if m is not None}

    def _unit_decl(self) -> Tree:
        return {str(i): self._block_decl(b) for i, b in enumerate(self.unit)}

    def decl(self) -> Tree:
        """The declaration of all parameters."""
        d, v = self.width, self.vocab
        table = param.embed(vocab=v, embed=d, init=d**-0.5 if self.tied else 1.0, uses=float(self.tied))
        decl = dict(
            embed=dict(table=table),
            position=self.position.decl(d) if self.position.absolute else {},
            prefix={str(i): self._block_decl(b) for i, b in enumerate(self.prefix)},
            unit=self.weights.decl(self._unit_decl(), self.repeats),
            suffix={str(i): self._block_decl(b) for i, b in enumerate(self.suffix)},
            ends=self.residual.decl(self.sites)["ends"],
            head={} if self.tied else dict(w=param.head(dict(embed=d), dict(vocab=v))),
        )
        param.check(decl)
        return decl

    def cost(self, tokens: int, context: float) -> Cost:
        """Of a forward pass over `tokens` tokens that see `context` tokens each: all matmuls and what mixers state."""
        flops, held = 2.0 * tokens * param.matmul_size(self.decl()), 0
        for block in (*self.prefix, *self.unit * self.repeats, *self.suffix):
            for cost in (
                block.token.cost(tokens, context) if block.token else Cost(),
                block.channel.cost(tokens) if block.channel else Cost(),
            ):
                flops, held = flops + cost.flops, held + cost.state_bytes
        return Cost(flops, held)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        """Declaration of the decoding state for documents of up to `length` tokens and memories of `context` tokens."""
        if not self.causal:
            raise ValueError("a bidirectional model has no decoding state")

        def of(blocks):
            return {str(i): b.token.state(batch, length, context) for i, b in enumerate(blocks) if b.token}

        unit = {str(n): of(self.unit) for n in range(self.repeats)}
        return dict(prefix=of(self.prefix), unit=unit, suffix=of(self.suffix))

    # computation

    def cast(self, params: Tree) -> Tree:
        """Parameters in the compute dtype, by kind. Everything below does it; a decoding loop does it once before."""
        return param.cast(self.decl(), params, jnp.dtype(self.dtype))

    def _embed(self, params: Tree, tokens: Array, seq: Seq) -> Array:
        x = take(params["embed"]["table"], tokens)
        if self.tied:
            x = x * jnp.asarray(self.width**0.5, x.dtype)
        if self.position.absolute:
            x = self.position.embed(params["position"], x, seq.position)
        return self.constrain(x)

    def constrain(self, x: Array) -> Array:
        """Pins the stream [B, ..., D] to the mesh: batch over the data axes."""
        return constrain(x, "batch time embed" if x.ndim == 3 else "batch embed", self.rules)

    def logits(self, params: Tree, h: Array) -> Array:
        """h [..., D] -> float32 logits [..., V]."""
        params = self.cast(params)
        w = params["embed"]["table"] if self.tied else params["head"]["w"]
        y = (unembed if self.tied else linear)(h, w, out_dtype=jnp.float32)
        return y if self.logit_cap is None else self.logit_cap * jnp.tanh(y / self.logit_cap)

    def hidden(self, params: Tree, tokens: Array, seq: Seq, memory: Array | None = None,
               memory_seq: Seq | None = None) -> tuple[Array, Aux]:  # fmt: skip
        """Training and scoring: tokens [B, T] -> the stream before the head [B, T, D], and what the mixers report."""
        params = self.cast(params)
        context = Context(self, memory, memory_seq)
        z = self.residual.open(params["ends"], self._embed(params, tokens, seq), seq)
        i, found = 0, []
        for name, blocks in (("prefix", self.prefix), ("unit", None), ("suffix", self.suffix)):
            if blocks is None:
                z, seq, aux = run_unit(context, params["unit"], z, i, seq)
                i, found = i + self.repeats * sum(b.sites for b in self.unit), [*found, aux]
                continue
            for k, block in enumerate(blocks):
                z, seq, aux = run_block(context, block, params[name][str(k)], z, i, seq, (name, str(k)))
                i, found = i + block.sites, [*found, aux]
        return self.residual.close(params["ends"], z, seq), collect(found)

    def apply(self, params: Tree, tokens: Array, seq: Seq, memory: Array | None = None,
              memory_seq: Seq | None = None) -> tuple[Array, Aux]:  # fmt: skip
        """tokens int32 [B, T] -> float32 logits [B, T, V], aux."""
        h, aux = self.hidden(params, tokens, seq, memory, memory_seq)
        return self.logits(params, h), aux

    def bind(self, params: Tree, memory: Array, state: Tree, seq: Seq) -> Tree:
        """Writes a memory [B, S, .] into the state of every mixer that reads one."""
        new = _copy(state)
        for block, p, path in self._layers(self.cast(params)):
            mixer: Any = block.token
            if hasattr(mixer, "bind"):
                held, key = _at(new, path)
                held[key] = mixer.bind(p["token"]["mixer"], memory, held[key], seq)
        return new

    def prefill(self, params: Tree, tokens: Array, state: Tree, seq: Seq) -> tuple[Array, Tree]:
        """Goes on from state by tokens [B, T] in parallel over time: the stream before the head [B, T, D], new state.
        `logits` makes logits of it, or of its last token alone."""
        return self._decode(params, tokens, state, seq, "scan")

    def step(self, params: Tree, tokens: Array, state: Tree, seq: Seq) -> tuple[Array, Tree]:
        """One token: tokens [B] -> float32 logits [B, V], new state."""
        h, state = self._decode(params, tokens, state, seq, "step")
        return self.logits(params, h), state

    def _layers(self, params: Tree):
        """(block, its parameters, where its state is) of every layer in order; needs cast parameters."""
        for k, block in enumerate(self.prefix):
            yield block, params["prefix"][str(k)], ("prefix", str(k))
        shared, stacked = params["unit"]["shared"], params["unit"]["layers"]
        for n in range(self.repeats):
            unit = self.weights.unit(shared, jax.tree.map(lambda a, n=n: a[n], stacked))
            for k, block in enumerate(self.unit):
                yield block, unit[str(k)], ("unit", str(n), str(k))
        for k, block in enumerate(self.suffix):
            yield block, params["suffix"][str(k)], ("suffix", str(k))

    def _decode(self, params: Tree, tokens: Array, state: Tree, seq: Seq, mode: str) -> tuple[Array, Tree]:
        params = self.cast(params)
        context = Context(self)
        z = self.residual.open(params["ends"], self._embed(params, tokens, seq), seq)
        new, i = _copy(state), 0
        for block, p, path in self._layers(params):
            held, key = _at(new, path)
            z, seq, _, s = context.block(block, p, z, i, seq, mode, held.get(key))
            if block.token is not None:
                held[key] = s
            i += block.sites
        return self.residual.close(params["ends"], z, seq), new


def _copy(state: Tree) -> Tree:
    """New dicts around the same arrays."""
    return jax.tree.map(lambda a: a, state)


def _at(state: Tree, path: tuple[str, ...]) -> tuple[dict, str]:
    """The dict that holds a layer's state, and its key there."""
    for key in path[:-1]:
        state = state[key]
    return state, path[-1]
