"""hyena: gates and long convolutions in turn, whose filters are made by a small network of the lag.

    v, x^1 .. x^N = conv(W x);  z^1 = v;  z^{n+1}_t = x^n_t sum_{j < L} h^n_j z^n_{t-j};  y = W_o z^{N+1}
    h_j = exp(-|s| j/L) F(j/L, cos 2 pi k j/L, sin 2 pi k j/L),  F = W_3 sin(W_2 sin(W_1 . + b_1) + b_2)

source: Poli et al. 2023, arXiv 2302.10866; code HazyResearch/safari
train: N D T log(T) by a transform of 2 T, N D T log(T)^2 where a row has several documents, 2 N D T^2 by blocks below
       256 tokens, and 2 L R (R + N D) for the filters. cost() bills the sum that a step adds, 2 N D T min(L, context),
       and not what a transform does in its place
decode: 2 S N D and as much as S tokens of the filters' network a token, S = min(length, capacity); cache S N D
departs: filters reach `length` tokens, whatever T is. Sines have their frequency in the initial W_1, filters start at
         L^-1/2, lag 0 has no weight beside them, and the windows' speeds learn as other parameters do. As the authors',
         one transform of a row is causal up to rounding: a later token moves an earlier output of a filter by up to 4
         float32 epsilons of its channel's loudest, and what is not finite reaches the whole row; other forms are exact
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ... import param
from ...contracts import Aux, Cost, Seq, along, index, spoil
from ...kernels.attention import PAD, Tokens
from ...kernels.exact import einsum
from ...kernels.long_conv import FORMS, long_conv
from ...kernels.short_conv import short_conv, short_conv_step
from ..options import check
from . import _slots
from ._hyena import gated, projected, projections, taps_held

Array = jax.Array
Tree = dict
SLOWEST, FASTEST = math.log(100) / 1.5, math.log(100) / 0.3  # a window is down to 1% at 1.5 or at 0.3 of the length


def _normal(std: float):
    return lambda key, shape, dtype: std * jax.random.normal(key, shape, dtype)


def _speeds(key, shape, dtype) -> Array:
    return jnp.linspace(SLOWEST, FASTEST, shape[-1], dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Hyena:
    """width D. order N: filters and gates. length L: tokens that a filter reaches, the token itself included. conv:
    taps before the gates. rank R: hidden width of the filters' network. bands: frequencies of the lag that it sees.
    frequency: how fast its sines turn at first. form: "direct", "toeplitz" or "fft", see kernels/long_conv; by size
    unless given.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"inner": 1}
    width: int
    order: int = 2
    length: int = 1024
    conv: int = 3
    rank: int = 32
    bands: int = 4
    frequency: float = 10.0
    form: str | None = None

    def __post_init__(self):
        check("hyena", self, "width order length rank bands", "frequency", taps="conv")
        if self.form is not None and self.form not in FORMS:
            raise ValueError(f"hyena: form is one of {', '.join(FORMS)}, not {self.form!r}")

    @property
    def features(self) -> int:
        """Of a lag, before the network."""
        return 1 + 2 * self.bands

    def decl(self) -> Tree:
        e, r, made = self.features, self.rank, dict(gate=self.order, inner=self.width)
        # The network is run on lags and not on tokens, always in full float32: what it makes is as
        # sensitive as a decay, and in fewer digits its first factor, the lag, would go in steps.
        network = dict(
            w1=param.decay(position=e, rank=r, init=_normal(self.frequency * e**-0.5)), b1=param.decay(rank=r),
            w2=param.decay(state=r, rank=r, init=_normal(r**-0.5)), b2=param.decay(rank=r),
            w3=param.decay(rank=r, **made, init=_normal((r * self.length) ** -0.5)),
            speed=param.decay(inner=self.width, init=_speeds),
        )  # fmt: skip
        return projections(self.width, self.order, self.conv) | dict(filter=network)

    def cost(self, tokens: int, context: float) -> Cost:
        d, n, r = self.width, self.order, self.rank
        seen = min(self.length, context)
        once = 2 * seen * r * (self.features + r + n * d)  # of a call, however many tokens it has
        held = seen * n * d + (self.conv - 1) * (n + 1) * d
        return Cost(flops=once + 2 * tokens * d * (n * seen + (n + 1) * self.conv), state_bytes=int(4 * held))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        slots = min(self.length, length)
        return dict(
            conv=taps_held(self.width, self.order, self.conv, batch),
            z=param.cache(dict(batch=batch), dict(slot=slots, gate=self.order, inner=self.width)),
            count=param.count(dict(batch=batch)),
        )

    def filters(self, params: Tree, lag: Array) -> Array:
        """h of lags [...] in tokens -> float32 [..., N, D]; lags below `length` alone have a meaning."""
        p = params["filter"]
        part = lag.astype(jnp.float32)[..., None] / self.length
        angle = part * along(jnp.asarray(2 * np.pi * np.arange(1, self.bands + 1), jnp.float32), part)
        seen = jnp.concatenate([part, jnp.cos(angle), jnp.sin(angle)], -1)
        for n in "12":
            seen = einsum("...i,ij->...j", seen, p[f"w{n}"])
            seen = jnp.sin(seen + along(p[f"b{n}"], seen))
        window = jnp.exp(-part * along(jnp.abs(p["speed"]), part))
        return einsum("...r,rnd->...nd", seen, p["w3"]) * window[..., None, :]

    def _past(self, state: Tree) -> Array:
        """What was filtered before the call, oldest first and zeros where nothing was: [B, S, N, D]."""
        slots = state["z"].shape[1]
        place = state["count"][:, None] - slots + jnp.arange(slots)[None]
        rows = jnp.take_along_axis(state["z"], (place % slots)[..., None, None], 1)
        return jnp.where((place >= 0)[..., None, None], rows, 0)

    def _overflows(self, place: Array, slots: int) -> Array:
        return (place >= slots) & (self.length > slots)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        u, held = projected(short_conv, params, x, state["conv"], seq)
        slots, start, kept = state["z"].shape[1], seq.start & seq.mask, []
        past = self._past(state) if slots else None
        taps = self.filters(params, jnp.arange(min(self.length, slots + x.shape[1])))

        def filtered(n: int, z: Array) -> Array:
            kept.append(z)
            before = None if past is None else past[:, :, n]
            return long_conv(z, taps[:, n], start, held=before, implementation=self.form)

        y = gated(params, u, seq.mask, filtered)
        if not slots:
            return y, state | dict(conv=held), Aux()
        place, count = index(state["count"], seq)
        tokens = Tokens(jnp.where(seq.mask, seq.doc, PAD), place)
        new = _slots.keep(state, dict(z=jnp.stack(kept, 2)), tokens, count, _slots.Ring())
        return spoil(y, self._overflows(place, slots) & seq.mask), dict(conv=held, count=count) | new, Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        u, held = projected(short_conv_step, params, x, state["conv"], seq)
        slots, layout = state["z"].shape[1], _slots.Ring()
        place, count = index(state["count"], seq)
        row, slot = jnp.arange(x.shape[0]), jnp.where(seq.mask, layout.slot(place, slots), slots)
        theirs = layout.place(slots, count)
        lag = (count - 1)[:, None] - theirs  # of what a slot holds: every row of the batch has lags of its own
        h = jnp.where((theirs >= 0)[..., None, None], self.filters(params, lag), 0.0)
        kept = []

        def filtered(n: int, z: Array) -> Array:
            kept.append(state["z"][:, :, n].at[row, slot].set(z, mode="drop"))
            return einsum("bsd,bsd->bd", h[:, :, n], kept[-1])

        y = gated(params, u, seq.mask, filtered)
        new = dict(conv=held, z=jnp.stack(kept, 2), count=count)
        return spoil(y, self._overflows(place, slots) & seq.mask), new, Aux()
