"""The checks have teeth: every planted fault breaks the promise that is named beside it.

A fault is one of our methods with one function replaced. What it must break is listed; it may break more.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest

from jaxlib_ext import testing
from jaxlib_ext.contracts import Aux, Cost, along
from jaxlib_ext.kernels.linear import linear
from jaxlib_ext.models.token_mixers import Attention, Gla, Mamba

TIME = 24
COST = "cost explains the contractions of a step"
EMPTY = jnp.zeros_like


class PadsDecay(Gla):
    """A masked token writes nothing but decays the state."""

    def _inputs(self, params, x, mask):
        gate = super()._inputs(params, x, jnp.ones_like(mask))[3]
        return *super()._inputs(params, x, mask)[:3], gate


class PadsDecayInScan(PadsDecay):
    """The same in scan alone."""

    step = lambda self, *args: Gla.step(Gla(self.width, self.heads), *args)


class ChunkCarryDropped(Gla):
    """The second half of a call does not see the first."""

    def scan(self, params, x, state, seq):
        half = x.shape[1] // 2
        cut = lambda tree, at: jax.tree.map(lambda a: a[:, at], tree)
        one, two = (cut((x, seq), at) for at in (slice(0, half), slice(half, None)))
        y1, state, _ = super().scan(params, one[0], state, one[1])
        y2, state, aux = super().scan(params, two[0], jax.tree.map(EMPTY, state), two[1])
        return jnp.concatenate([y1, y2], 1), state, aux


class CallCarryDropped(Gla):
    """A call begins with an empty state."""

    def scan(self, params, x, state, seq):
        return super().scan(params, x, jax.tree.map(EMPTY, state), seq)


class StateNotReturned(Gla):
    """A call gives back the state that it got."""

    def scan(self, params, x, state, seq):
        y, _, aux = super().scan(params, x, state, seq)
        return y, state, aux


class OnePercent(Gla):
    """scan is larger than step by one part in a hundred."""

    def scan(self, params, x, state, seq):
        y, state, aux = super().scan(params, x, state, seq)
        return 1.01 * y, state, aux


class OneAhead(Gla):
    """Inside chunks of 8 a token sees a little of the next one, in the queries only."""

    def _inputs(self, params, x, mask):
        if x.ndim == 3:
            last = (jnp.arange(x.shape[1]) % 8 == 7)[None, :, None]
            x = x + 0.01 * jnp.where(last, 0.0, jnp.roll(x, -1, 1))
        return super()._inputs(params, x, mask)


class StartIgnored(Gla):
    """Documents run into each other, in scan and step alike."""

    scan = lambda self, p, x, s, seq: Gla.scan(self, p, x, s, dataclasses.replace(seq, start=EMPTY(seq.start)))
    step = lambda self, p, x, s, seq: Gla.step(self, p, x, s, dataclasses.replace(seq, start=EMPTY(seq.start)))


class AroundTheDoor(Gla):
    """The last matrix is contracted by an einsum."""

    def _output(self, params, x, y):
        y = y * along(params["norm"], y) * jax.nn.silu(linear(x, params["read"]))
        return jnp.einsum("...hv,hvd->...d", y.astype(x.dtype), params["out"])


class ConvKeepsPads(Mamba):
    """The convolution's state is the last inputs of the row, whatever they are."""

    def scan(self, params, x, state, seq):
        y, new, aux = super().scan(params, x, state, seq)
        u = linear(x, params["into"])[..., 0, :].astype(jnp.float32)
        return y, new | dict(conv=jnp.concatenate([state["conv"], u], 1)[:, 1 - self.conv :]), aux


class RingWraps(Attention):
    """Beyond its slots attention goes on with the keys that are left."""

    def _overflows(self, place, slots):
        return jnp.zeros_like(place, bool)


class StateRounded(Gla):
    """scan returns a bfloat16 state."""

    def scan(self, params, x, state, seq):
        y, state, aux = super().scan(params, x, state, seq)
        return y, jax.tree.map(lambda s: s.astype(jnp.bfloat16), state), aux


class OneMatmulMore(Gla):
    """cost counts the gates a second time, and the state as bfloat16."""

    def cost(self, tokens, context):
        h, k, _ = self.sizes
        right = super().cost(tokens, context)
        return Cost(right.flops + 2 * tokens * self.rank * h * k, right.state_bytes // 2)


class WideOutput(Gla):
    """y is float32 whatever x is; and key cannot be sliced, since its size scales the queries."""

    free: ClassVar[dict[str, int]] = {"key": 1}

    def scan(self, params, x, state, seq):
        y, state, aux = super().scan(params, x, state, seq)
        return y.astype(jnp.float32), state, aux

    def _inputs(self, params, x, mask):
        q, k, v, g = super()._inputs(params, x, mask)
        return q / q.shape[-1], k, v, g


class Mute(Gla):
    """Every token for itself, and NaN at pads."""

    def scan(self, params, x, state, seq):
        y = linear(linear(x, params["v"]), params["out"], c=2)
        return jnp.where(seq.mask[..., None], y, jnp.nan), state, Aux()


class SeesAll(Attention):
    """Not causal, and documents see each other."""

    def _attend(self, params, q, k, v, at, to, *positions):
        at, to = (tokens._replace(doc=EMPTY(tokens.doc)) for tokens in (at, to))
        return super()._attend(params, q, k, v, at, to, *positions)


MIXERS = {
    PadsDecay(16, heads=2): [f"pads leave no trace in the state of {f}" for f in ("scan", "step")],
    ChunkCarryDropped(16, heads=2): [
        "scan equals the fold of step",
        "gradients by parameter: scan equals step",
    ],
    CallCarryDropped(16, heads=2): ["split scans equal one scan"],
    OnePercent(16, heads=2): ["scan equals the fold of step", "gradients by input: scan equals step"],
    OneAhead(16, heads=2): ["no gradient flows from the future"],
    StartIgnored(16, heads=2): ["packed documents equal separate ones"],
    AroundTheDoor(16, heads=2): ["matrices may be operators"],
    ConvKeepsPads(16, n=4): ["the state of scan continues as the fold's"],
    RingWraps(16, heads=2): [f"beyond capacity {f} gives NaN or the right value" for f in ("scan", "step")],
    StateRounded(16, heads=2): ["the state is a fixed point"],
    OneMatmulMore(16, heads=2): [COST, "cost states the bytes of the state"],
    Mute(16, heads=2): ["a token depends on itself and on the one before", "pads are finite"],
    PadsDecayInScan(16, heads=2): ["the state of scan continues as the fold's"],
    StateNotReturned(16, heads=2): ["scan and then steps equal one scan"],
    WideOutput(16, heads=2): ["bfloat16", "key may be sliced"],
    SeesAll(16, heads=2, causal=False): [
        "packed documents equal separate ones",
        "pads are inert in training",
    ],
}


def broken(results) -> set[str]:
    return {r.name for r in results if not r.ok}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixer", "promises"), MIXERS.items(), ids=lambda v: "" if isinstance(v, list) else type(v).__name__
)
def test_a_fault_in_a_token_mixer_is_caught(mixer, promises):
    assert broken(testing.token_mixer(mixer, time=TIME)) >= set(promises)


@pytest.mark.slow
def test_the_methods_under_the_faults_keep_every_promise():
    for mixer in (Gla(16, heads=2), Mamba(16, n=4), Attention(16, heads=2)):
        assert not broken(testing.token_mixer(mixer, time=TIME))
