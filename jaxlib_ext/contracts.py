"""What each family of methods must offer, and the three types that pass between them: `Seq`, `Aux`, `Cost`.

A method is a frozen dataclass of hyperparameters with pure functions. The protocols below are documentation that a
type checker reads; a method of your own needs no base class. `testing.py` checks the promises made here.

Layout is [batch, time, heads, head_dim] everywhere. B batch, T time, D width of the stream.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seq:
    """What the tokens are. Every array but key is [B, T, ...] in scan, and the same without T in step.

    Rule (`legal(seq)` checks it on the host): in one call, a real token that does not start a document stands at t = 0
    or straight after a real token. Pads may stand before, between and after documents, never inside one. start implies
    mask. A document's first token always has start, in the very first call too. Documents are contiguous and never
    resumed once left.
    """

    mask: Array  # bool: a real token; others neither write, decay, route nor count
    start: Array  # bool: first token of a document: forget all before (also frees a serving slot)
    position: Array  # int32: read by the position scheme and by nothing else
    side: dict[str, Array] = dataclasses.field(default_factory=dict)  # time-aligned extras that layers give and need
    # Randomness. Without it a method that needs it raises; an estimate raises in training, and in evaluation draws the
    # same in every call.
    key: Array | None = None
    train: bool = dataclasses.field(default=False, metadata=dict(static=True))
    # Only what a paper defines differently in training reads train: dropout, batch statistics, noisy gates, estimates.

    @property
    def doc(self) -> Array:
        """int32 [B, T], scan only: 0 continues the document that the state holds, then 1, 2, ... in order."""
        return jnp.cumsum((self.start & self.mask).astype(jnp.int32), -1)

    def at(self, t: int) -> "Seq":
        """The step's view of token t of a scan's Seq."""
        pick = lambda a: a[:, t]
        return dataclasses.replace(
            self, mask=pick(self.mask), start=pick(self.start), position=pick(self.position),
            side=jax.tree.map(pick, self.side),
        )  # fmt: skip


def whole(batch: int, time: int, **fields) -> Seq:
    """The plainest Seq: every row is one document that begins at t = 0.

    >>> whole(2, 3).position.tolist()
    [[0, 1, 2], [0, 1, 2]]
    """
    position = jnp.broadcast_to(jnp.arange(time, dtype=jnp.int32), (batch, time))
    return Seq(mask=jnp.ones((batch, time), bool), start=position == 0, position=position, **fields)


def from_starts(start: Array, mask: Array | None = None, **fields) -> Seq:
    """A Seq from document starts, bool [B, T]; positions count from 0 in each document (or in the row's first part)."""
    start = jnp.asarray(start, bool)
    mask = jnp.ones_like(start) if mask is None else jnp.asarray(mask, bool)
    start = start & mask
    t = jnp.arange(start.shape[1], dtype=jnp.int32)[None]
    begin = jax.lax.cummax(jnp.where(start, t, 0), axis=1)
    return Seq(mask=mask, start=start, position=t - begin, **fields)


def legal(seq: Seq) -> None:
    """Raises a ValueError that names row and token if a scan's Seq breaks the rule in `Seq`'s docstring."""
    mask, start = np.asarray(seq.mask), np.asarray(seq.start)
    if mask.ndim != 2 or mask.shape != start.shape or mask.shape[1] < 1:
        raise ValueError(f"mask {mask.shape} and start {start.shape} must be the same [batch, time] with time >= 1")
    faults = {
        "start without mask": start & ~mask,
        "a pad inside a document": mask[:, 1:] & ~start[:, 1:] & ~mask[:, :-1],
    }
    for what, where in faults.items():
        if where.any():
            row, t = np.argwhere(where)[0]
            raise ValueError(f"{what}: row {row}, token {t + (what[0] == 'a')}")


class Aux(NamedTuple):
    """What a method returns beside its output; empty for most. Keys and shapes are fixed by the method."""

    losses: dict = {}  # name -> float32 scalar over real tokens, coefficient applied; the step adds them up
    stats: dict = {}  # name -> scalar or small vector, logged
    buffers: dict = {}  # a subtree of params, kind "buffer" -> new value; written after the update, not in evaluation
    gives: dict = {}  # name -> [B, T, ...]: put into seq.side for the layers below


class Cost(NamedTuple):
    """Closed form of what the declaration does not show."""

    flops: float = 0.0  # of one forward pass, beside 2 x matmul parameters a token; a multiply and an add are 2
    state_bytes: int = 0  # decoding state of one sequence


def hold(keep: Array, new: Tree, old: Tree) -> Tree:
    """new where keep[B], old elsewhere, for every leaf [B, ...]: how a masked token leaves a state untouched."""

    def pick(a, b):
        return jnp.where(keep.reshape(keep.shape + (1,) * (a.ndim - keep.ndim)), a, b)

    return jax.tree.map(pick, new, old)


def index(n: Array, seq: Seq) -> tuple[Array, Array]:
    """The place of each token in its document and the new count of the open document.

    n: int32 [B], tokens that the open document has so far. Returns (int32 [B, T], int32 [B]); pads have the place of
    the token before them. In a step (no time axis) the same without T.
    """
    real = seq.mask.astype(jnp.int32)
    start = seq.start & seq.mask
    if seq.mask.ndim == 1:
        n = jnp.where(start, 0, n)
        return n, n + real
    total = jnp.cumsum(real, 1)
    before = jax.lax.cummax(jnp.where(start, total - 1, 0), axis=1)  # real tokens of this call before the document
    count = total - before + jnp.where(seq.doc == 0, n[:, None], 0)
    return count - 1, count[:, -1]


def tail(buf: Array, new: Array, seq: Seq) -> Array:
    """The last w real inputs of the open document, zeros before its start.

    buf [B, w, ...] what a state held, new [B, T, ...] the inputs of a scan. Returns [B, w, ...].
    """
    w, t = buf.shape[1], new.shape[1]
    seen = jnp.concatenate([buf, new], 1)
    # Places in `seen`. An open document has no pads inside, so its last w inputs are neighbours.
    places = jnp.arange(w, w + t)[None]
    last = jnp.max(jnp.where(seq.mask, places, w - 1), 1)
    first = jnp.max(jnp.where(seq.start & seq.mask, places, 0), 1)
    place = last[:, None] - jnp.arange(w - 1, -1, -1)[None]
    picked = jax.vmap(lambda rows, i: rows[i])(seen, place)
    keep = place >= first[:, None]
    return jnp.where(keep.reshape(keep.shape + (1,) * (new.ndim - 2)), picked, 0)


def along(v: Array, x: Array) -> Array:
    """v with leading axes of size 1 up to the rank of x: its axes meet the last ones of x, said aloud."""
    return v.reshape((1,) * (x.ndim - v.ndim) + v.shape)


def spoil(y: Array, where: Array) -> Array:
    """NaN in y [..., D] where [...] says so: the answer of a call that needs a token which was not kept."""
    return jnp.where(where[..., None], jnp.nan, y)


@runtime_checkable
class TokenMixer(Protocol):
    """Mixes over time. The constructor takes `width` first and has a default for everything else."""

    causal: ClassVar[bool] = True  # False: state() is {}, no step, and only padding, packing and kernels are checked
    needs: ClassVar[tuple[str, ...]] = ()  # names read in seq.side
    gives: ClassVar[tuple[str, ...]] = ()  # names written to Aux.gives
    align: ClassVar[int] = 1  # > 1: documents start, and calls of scan begin, on multiples of it; T is one too
    free: ClassVar[dict[str, int]] = {}  # axis -> granularity of what may be sliced

    def decl(self) -> Tree: ...

    def cost(self, tokens: int, context: float) -> Cost:
        """Of `tokens` tokens that see `context` tokens each on average. Where a token of a step costs something else
        than one of a whole row, tokens that are no more than context are those of a step, one a row.
        """
        ...

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        """Declaration of the state; all zeros is the empty state.

        length: how many tokens a document may have by the end of any later call. Fixed-size states ignore it, windows
        take min(window, length). 0 means that no call follows (training): caches have no slots and come back as they
        went in. A call that needs a token which was not kept gives NaN, never a wrong number.
        context: tokens of memory, see `bind`.
        """
        ...

    def scan(self, params: Tree, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        """x [B, T, D] -> y [B, T, D], parallel over time. y at pads is finite and read by nobody."""
        ...

    def step(self, params: Tree, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        """x [B, D] -> y [B, D]: one token, the plain reference, written on its own. Needs length >= 1."""
        ...


@runtime_checkable
class Binds(Protocol):
    """A token mixer that reads a memory (cross-attention)."""

    def bind(self, params: Tree, memory: Array, state: Tree, seq: Seq) -> Tree:
        """Writes memory [B, S, D] into the state; seq is the memory's. Document k of the row reads document k of the
        memory. Called once, before scan or step."""
        ...


@runtime_checkable
class ChannelMixer(Protocol):
    """No time and no state: y at a token depends on x at that token alone, unless pointwise is False (capacity limits,
    expert choice), and then such a model cannot be decoded token by token."""

    pointwise: ClassVar[bool] = True

    def decl(self) -> Tree: ...

    def cost(self, tokens: int) -> Cost: ...

    def apply(self, params: Tree, x: Array, seq: Seq) -> tuple[Array, Aux]:
        """x [..., D] -> y [..., D]."""
        ...


@runtime_checkable
class Norm(Protocol):
    """x [..., D] -> [..., D]."""

    def decl(self) -> Tree: ...

    def apply(self, params: Tree, x: Array, seq: Seq) -> tuple[Array, Aux]: ...


@runtime_checkable
class Position(Protocol):
    """Three hooks, each the identity unless the scheme uses it."""

    absolute: ClassVar[bool]  # True: acts once on the stream (embed, with parameters decl()); False: inside attention

    def decl(self, width: int) -> Tree: ...

    def embed(self, params: Tree, x: Array, position: Array) -> Array:
        """On the stream [..., D], once."""
        ...

    def rotate(self, x: Array, position: Array) -> Array:
        """On queries or keys [..., heads, head_dim] with position [...]."""
        ...

    def bias(self, q_position: Array, k_position: Array, heads: int) -> Array | None:
        """On logits: [..., T] and [..., S] -> [..., heads, T, S], or None."""
        ...


@runtime_checkable
class Residual(Protocol):
    """How a site's output joins the stream. A site is one token or channel mixer; i is its index, 0..sites-1, traced.

    Owns the norms. Pointwise over the leading axes: the same functions serve scan and step. z is any pytree of
    [B, ...] whose shapes do not depend on i or on sites.
    """

    def decl(self, sites: int) -> Tree:
        """{"site": one site's parameters, "ends": those of open and close}."""
        ...

    def open(self, ends: Tree, x: Array, seq: Seq) -> Tree:
        """Embedding -> z."""
        ...

    def read(self, params: Tree, z: Tree, i: Array, seq: Seq) -> Array:
        """z -> what the mixer sees."""
        ...

    def write(self, params: Tree, z: Tree, y: Array, i: Array, seq: Seq) -> Tree:
        """Joins the mixer's output y to z."""
        ...

    def close(self, ends: Tree, z: Tree, seq: Seq) -> Array:
        """z -> what the head sees."""
        ...


@runtime_checkable
class Weights(Protocol):
    """Between the stored leaves and the tree that a unit of blocks sees, copy by copy over depth."""

    def decl(self, unit: Tree, n: int) -> Tree:
        """{"shared": leaves of one copy, "layers": leaves stacked n times}."""
        ...

    def write(self, unit: Tree, n: int, dense: Tree) -> Tree:
        """Dense values of n copies (stacked) -> stored leaves; raises if they cannot be represented."""
        ...

    def unit(self, shared: Tree, layer: Tree) -> Tree:
        """The unit's ordinary parameter tree for one depth; a leaf is an array or an operator that linear takes."""
        ...
