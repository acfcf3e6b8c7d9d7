"""The contract of a token mixer. Compiling is what costs, so all checks call the same few jitted functions.

Three rows of T tokens, with documents that begin and end anywhere, pads before, between and after them, and a document
that crosses the cut at which calls are split.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import param
from ..contracts import Seq, from_starts, legal
from .flops import dot_flops
from .verdict import TOLERANCE, Result, apart, draw, same_structure, to_results
from .wrapped import OPERATORS, cut, with_operators

Array = jax.Array
Tree = Any
_same = jax.jit(apart)
MORE = 5  # tokens that continue from a state, to compare what it holds
STEPS = "steps in bfloat16 equal scan in bfloat16"


def layout(time: int, align: int) -> tuple[Seq, list[tuple[int, int, int]]]:
    """A Seq of three rows and its documents as (row, first token, end). Everything begins on multiples of align."""
    unit = time // 12 // align * align
    if unit < 1:
        raise ValueError(f"the checks need time >= {12 * align} for align={align}")
    documents = [
        (0, 0, 3 * unit), (0, 4 * unit, 9 * unit), (0, 9 * unit, 9 * unit + 1),
        (1, 2 * unit, time),
        (2, 0, 2 * unit), (2, 2 * unit, 10 * unit - 1),
    ]  # fmt: skip
    start, mask = np.zeros((3, time), bool), np.zeros((3, time), bool)
    for row, first, end in documents:
        start[row, first], mask[row, first:end] = True, True
    seq = from_starts(start, mask)
    legal(seq)
    return seq, documents


def _fold(mixer, params, x: Array, state, seq: Seq):
    """The step, token by token: y [B, T, D] and the last state."""
    tokens = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), dataclasses.replace(seq, key=None))

    def body(state, token):
        x, seq = token
        y, state, _ = mixer.step(params, x, state, seq)
        return state, y

    state, y = jax.lax.scan(body, state, (jnp.moveaxis(x, 1, 0), tokens))
    return jnp.moveaxis(y, 0, 1), state


def _cut(seq: Seq, at: slice) -> Seq:
    return jax.tree.map(lambda a: a[:, at], seq)


class Bench:
    """One mixer with parameters, inputs and the calls that the checks compare."""

    def __init__(self, mixer, time: int, seed: int, side, memory: int):
        self.mixer = mixer
        self.seq, self.documents = layout(time, mixer.align)
        b, d = 3, mixer.width
        keys = iter(jax.random.split(jax.random.key(seed), 8))
        self.decl = mixer.decl()
        self.params = draw(self.decl, next(keys))
        self.x = jax.random.normal(next(keys), (b, time, d))
        self.more = jax.random.normal(next(keys), (b, MORE, d))
        self.weight = jax.random.normal(next(keys), (b, time, d))
        self.junk = jnp.where(self.seq.mask[..., None], self.x, 1e3)
        if mixer.needs:
            given = side(next(keys), self.x) if side else {}
            self.seq = dataclasses.replace(self.seq, side={n: given[n] for n in mixer.needs})
        self.split = 6 * (time // 12 // mixer.align * mixer.align)
        self.length = time + MORE
        self.context = memory if hasattr(mixer, "bind") else 0
        if self.context:
            width = getattr(mixer, "memory_width", None) or d
            self.memory = jax.random.normal(next(keys), (b, self.context, width))
            start = (jnp.arange(self.context) % (self.context // 3) == 0)[None].repeat(b, 0)  # three documents
            self.memory_seq = from_starts(start)
        self._bind = jax.jit(lambda *args: mixer.bind(*args))
        self._scan = jax.jit(lambda *args: mixer.scan(*args)[:2])
        self._fold = jax.jit(lambda *args: _fold(mixer, *args))
        self.gradient = jax.jit(jax.grad(self.score(self.plain), argnums=(0, 1)))
        self.apart = jax.jit(lambda a, b: apart(self.on(a), self.on(b)))

    def on(self, y: Array) -> Array:
        """y [B, T, D] with zeros at pads."""
        return jnp.where(self.seq.mask[..., None], y, 0)

    def plain(self, params, x) -> Array:
        """The call of training: y of nothing before it."""
        return self.scan(x, params, self.empty(0, params))[0]

    def score(self, f):
        """(params, x, weight [B, T, D]) -> the weighted sum of f(params, x)."""
        return lambda params, x, weight: jnp.sum(self.on(f(params, x) * weight))

    def empty(self, length: int, params=None, rows=None):
        """The empty state, with the memory bound where there is one; rows picks rows of the memory."""
        b = 3 if rows is None else len(rows)
        state = param.zeros(self.mixer.state(b, length, self.context))
        if not self.context:
            return state
        pick = (lambda a: a) if rows is None else (lambda a: a[rows])
        params = self.params if params is None else params
        return self._bind(params, pick(self.memory), state, jax.tree.map(pick, self.memory_seq))

    def scan(self, x, params=None, state=None, seq=None):
        params = self.params if params is None else params
        state = self.empty(self.length, params) if state is None else state
        return self._scan(params, x, state, self.seq if seq is None else seq)

    def fold(self, x, params=None, state=None, seq=None):
        params = self.params if params is None else params
        state = self.empty(self.length, params) if state is None else state
        return self._fold(params, x, state, self.seq if seq is None else seq)

    def after(self, state):
        """What a state says: the outputs of MORE tokens that continue from it. Rows that end in pads go on too."""
        side = jax.tree.map(lambda a: jnp.broadcast_to(a[:, :1], (a.shape[0], MORE, *a.shape[2:])), self.seq.side)
        seq = Seq(
            mask=jnp.ones((3, MORE), bool), start=jnp.zeros((3, MORE), bool), side=side,
            position=self.seq.position[:, -1:] + 1 + jnp.arange(MORE, dtype=jnp.int32)[None],
        )  # fmt: skip
        return self.fold(self.more, state=state, seq=seq)[0]


def _decoding(bench: Bench) -> dict[str, Array]:
    """Everything that compares scan, step, split calls and their states."""
    left, right = slice(0, bench.split), slice(bench.split, None)
    before, behind = _cut(bench.seq, left), _cut(bench.seq, right)
    y, s = bench.scan(bench.x)
    folded, s_folded = bench.fold(bench.x)
    y1, s1 = bench.scan(bench.x[:, left], seq=before)
    y2, s2 = bench.scan(bench.x[:, right], state=s1, seq=behind)
    y3, _ = bench.fold(bench.x[:, right], state=s1, seq=behind)
    dirty, s_dirty = bench.scan(bench.junk)
    dirty_folded, s_dirty_folded = bench.fold(bench.junk)
    reference = bench.after(s_folded)
    short = bench.length // 4  # less than some document has before the split
    few1, s_few = bench.scan(bench.x[:, left], state=bench.empty(short), seq=before)
    few2, _ = bench.scan(bench.x[:, right], state=s_few, seq=behind)
    few_folded, _ = bench.fold(bench.x, state=bench.empty(short))
    is_folded = lambda *parts: bench.apart(jnp.concatenate(parts, 1), folded)
    known = lambda v: jnp.where(jnp.isnan(v) & bench.seq.mask[..., None], folded, v)
    goes_on = lambda state: _same(bench.after(state), reference)
    return {
        "scan equals the fold of step": is_folded(y),
        "the state of scan continues as the fold's": goes_on(s),
        "split scans equal one scan": is_folded(y1, y2),
        "the state of split scans continues as the fold's": goes_on(s2),
        "scan and then steps equal one scan": is_folded(y1, y3),
        "pads are inert in scan": is_folded(dirty),
        "pads are inert in step": is_folded(dirty_folded),
        "pads leave no trace in the state of scan": goes_on(s_dirty),
        "pads leave no trace in the state of step": goes_on(s_dirty_folded),
        "beyond capacity scan gives NaN or the right value": is_folded(known(jnp.concatenate([few1, few2], 1))),
        "beyond capacity step gives NaN or the right value": is_folded(known(few_folded)),
    }


def _training(bench: Bench, notes: dict[str, str]) -> dict[str, Array]:
    """What needs no step: padding, packing, gradients. For causal mixers and others."""
    y, dirty = bench.plain(bench.params, bench.x), bench.plain(bench.params, bench.junk)
    g_params, g_x = bench.gradient(bench.params, bench.junk, bench.weight)
    finite = lambda v: jnp.where(jnp.isfinite(v).all(), 0.0, jnp.inf)
    errors = {
        "packed documents equal separate ones": _packed(bench, y),
        "pads are finite": finite(dirty),
        "pads are inert in training": bench.apart(dirty, y),
        "no gradient reaches pads": jnp.max(jnp.abs(jnp.where(bench.seq.mask[..., None], 0, g_x))),
        "the gradient is finite beside pads": finite(g_x),
        "the gradient ignores pads": _same(g_params, bench.gradient(bench.params, bench.x, bench.weight)[0]),
        OPERATORS: with_operators(lambda p: bench.plain(p, bench.x), bench.decl, bench.params, y, notes),
    }
    if not bench.mixer.causal:
        return errors
    early = bench.weight * (jnp.arange(bench.x.shape[1]) < bench.split)[None, :, None]
    reach = bench.gradient(bench.params, bench.x, early)[1]
    folded = bench.score(lambda params, x: bench.fold(x, params)[0])
    f_params, f_x = jax.jit(jax.grad(folded, argnums=(0, 1)))(bench.params, bench.x, bench.weight)
    return errors | {
        "training and prefill agree": bench.apart(y, bench.scan(bench.x)[0]),
        "no gradient flows from the future": jnp.max(jnp.abs(reach[:, bench.split :])),
        "gradients by parameter: scan equals step": _same(g_params, f_params),
        "gradients by input: scan equals step": bench.apart(g_x, f_x),
    }


def _packed(bench: Bench, y: Array) -> Array:
    """Each document alone in a row of its own, right-padded, against its place in the packed rows."""
    t = bench.x.shape[1]
    rows = np.array([r for r, _, _ in bench.documents])
    first = np.array([f for _, f, _ in bench.documents])
    size = np.array([e - f for _, f, e in bench.documents])
    place = np.minimum(first[:, None] + np.arange(t), t - 1)
    take = lambda a: a[rows[:, None], place]
    mask = jnp.asarray(np.arange(t) < size[:, None])
    alone = from_starts(jnp.zeros_like(mask).at[:, 0].set(True), mask)
    alone = dataclasses.replace(alone, side=jax.tree.map(take, bench.seq.side))
    state = bench.empty(0, rows=rows)
    if bench.context:  # the row's document of this number answers: forget the ones before it
        before = np.array(
            [sum(r == row for r, f, _ in bench.documents if f < first_) for row, first_, _ in bench.documents]
        )
        state = state | dict(open=jnp.asarray(before, jnp.int32))
    separate = bench.scan(take(bench.x), state=state, seq=alone)[0]
    return apart(jnp.where(mask[..., None], separate, 0), jnp.where(mask[..., None], take(y), 0))


def token_mixer(mixer, *, time: int = 144, seed: int = 0, side=None, memory: int = 12) -> list[Result]:
    """Runs every promise of `contracts.TokenMixer` and returns the results.

    time: tokens a row; take more than the longest chunk of the method. side: f(key, x [B, T, D]) -> {name: [B, T, ...]}
    for mixers with needs. memory: tokens that `bind` gets.
    """
    bench = Bench(mixer, time, seed, side, memory)
    param.check(bench.decl)
    zero = ("no gradient reaches pads", "no gradient flows from the future", "pads are finite",
            "the gradient is finite beside pads")  # fmt: skip
    first = _fixed_point(bench) if mixer.causal else []
    if not all(r.ok for r in first):
        return first  # the checks below go on from states, and would end in a type error
    notes: dict[str, str] = {}
    errors = _training(bench, notes) | (_decoding(bench) if mixer.causal else {})
    results = first + to_results(errors, TOLERANCE["float32"], zero, notes)
    results += [_sensible(bench), *_bf16(bench), *_sliced(bench)]
    return results + ([_flops(bench), _state_bytes(bench)] if mixer.causal else [])


def _sensible(bench: Bench) -> Result:
    """A mixer that mixes nothing would keep most promises."""
    third = jnp.zeros_like(bench.weight).at[0, 2].set(bench.weight[0, 2])
    reach = np.abs(np.asarray(bench.gradient(bench.params, bench.x, third)[1]))[0, 1:3].max(-1)
    ok = (reach > 0).all() or bool(bench.context)
    return Result("a token depends on itself and on the one before", 0.0 if ok else np.inf, 0.0)


def _bf16(bench: Bench) -> list[Result]:
    """The scan in bfloat16 against float32, and the first steps against that scan."""
    cast = lambda dtype: param.cast(bench.decl, bench.params, dtype)
    run = lambda params, x: bench.scan(x, params, bench.empty(0, params))
    low, x = cast(jnp.bfloat16), bench.x.astype(jnp.bfloat16)
    (y, s), (z, r) = run(low, x), run(bench.params, bench.x)
    said = same_structure(s, r) or ("" if y.dtype == jnp.bfloat16 else f"y is {y.dtype}")
    results = [Result("bfloat16", np.inf if said else float(bench.apart(y, z)), TOLERANCE["bfloat16"], said)]
    if said or not bench.mixer.causal:
        return results
    few, state = slice(0, MORE), bench.empty(bench.length, low)
    one, s = jax.eval_shape(lambda s: bench.mixer.step(low, x[:, 0], s, bench.seq.at(0))[:2], state)
    said = same_structure(s, state) or ("" if one.dtype == jnp.bfloat16 else f"y is {one.dtype}")
    if said:
        return [*results, Result(STEPS, np.inf, 0.0, said)]
    stepped = bench.fold(x[:, few], low, state, _cut(bench.seq, few))[0]
    real = bench.seq.mask[:, few, None]
    error = _same(jnp.where(real, stepped, 0), jnp.where(real, y[:, few], 0))
    return [*results, Result(STEPS, float(error), TOLERANCE["bfloat16"])]


def _fixed_point(bench: Bench) -> list[Result]:
    """The state keeps structure, shape and dtype through scan and step, also at length 0."""
    said = []
    for length in (0, bench.length):
        state = jax.eval_shape(lambda length=length: bench.empty(length))
        scanned = jax.eval_shape(lambda s: bench.scan(bench.x, state=s)[1], state)
        said.append(same_structure(scanned, state))
    stepped = jax.eval_shape(lambda s: bench.mixer.step(bench.params, bench.x[:, 0], s, bench.seq.at(0))[1], state)
    said.append(same_structure(stepped, state))
    return [Result("the state is a fixed point", np.inf if any(said) else 0.0, 0.0, next(filter(None, said), ""))]


def _flops(bench: Bench) -> Result:
    """2 x matmul parameters + cost(...).flops of a step against the contractions in its jaxpr."""
    state = bench.empty(bench.length)
    step = lambda params, s: bench.mixer.step(params, bench.x[:, 0], s, bench.seq.at(0))[0]
    counted = dot_flops(step, bench.params, state) / 3
    weights = 2 * param.matmul_size(bench.decl) - _bound(bench)
    context = bench.context or bench.length
    stated = weights + bench.mixer.cost(1, context + bool(bench.context)).flops
    return Result("cost explains the contractions of a step", abs(counted / stated - 1), 1e-9, f"{counted:.0f} FLOPs")


def _state_bytes(bench: Bench) -> Result:
    """cost(...).state_bytes against the declared state of one sequence, counters left out."""
    stated = bench.mixer.cost(1, bench.context or bench.length).state_bytes
    held = param.nbytes(bench.mixer.state(1, bench.length, bench.context), "cache", "state")
    return Result("cost states the bytes of the state", abs(stated - held), 0.0, f"{stated} of {held} bytes")


def _bound(bench: Bench) -> float:
    """FLOPs of weights that `bind` has used already, once for the memory."""
    if not bench.context:
        return 0.0
    state = param.zeros(bench.mixer.state(3, bench.length, bench.context))
    bind = lambda p: bench.mixer.bind(p, bench.memory, state, bench.memory_seq)
    return dot_flops(bind, bench.params) / (3 * bench.context)


def _sliced(bench: Bench) -> list[Result]:
    """For every axis that a mixer calls free: slicing it equals setting the rest to zero."""
    results = []
    sizes = {name: n for p in param.leaves(bench.decl) for name, n in p.dims}
    for axis, grain in bench.mixer.free.items():
        if sizes.get(axis, 0) <= grain:
            continue
        keep = (sizes[axis] // 2 + grain - 1) // grain * grain
        state = bench.mixer.state(3, 0, bench.context)

        def run(masked, axis=axis, keep=keep, state=state):
            params = cut(bench.decl, bench.params, axis, keep, masked)
            held = param.zeros(state) if masked else cut(state, param.zeros(state), axis, keep, False)
            if bench.context:
                held = bench.mixer.bind(params, bench.memory, held, bench.memory_seq)
            return bench.mixer.scan(params, bench.x, held, bench.seq)[0]

        error = jax.jit(lambda run=run: apart(run(False), run(True)))()
        results.append(Result(f"{axis} may be sliced", float(error), TOLERANCE["float32"]))
    return results
