"""Faults planted in channel mixers, norms, positions, residual schemes and weights; see test_faults.py."""

import jax
import jax.numpy as jnp
import pytest

from jaxlib_ext import param, testing
from jaxlib_ext.contracts import Aux, Cost, along
from jaxlib_ext.models.channel_mixers import Glu, Mlp
from jaxlib_ext.models.norms import Layer, Rms
from jaxlib_ext.models.positions import Learned, Rope
from jaxlib_ext.models.residuals import PreNorm
from jaxlib_ext.models.weights import Plain, Shared


class Couples(Glu):
    """A token sees the mean of all tokens."""

    def apply(self, params, x, seq):
        return super().apply(params, x + x.mean(tuple(range(x.ndim - 1)), keepdims=True), seq)


class MlpAroundTheDoor(Mlp):
    def apply(self, params, x, seq):
        return jnp.tanh(x @ params["up"]) @ params["down"], Aux()


class Averages(Mlp):
    """Divides by the number of hidden units that it finds, so none can be cut; counts its activations."""

    def cost(self, tokens):
        return Cost(flops=tokens * self.hidden)

    def apply(self, params, x, seq):
        y, aux = super().apply(params, x, seq)
        return y / getattr(params["up"], "shape", (0, self.hidden))[1], aux


class LeaksOverTime(Rms):
    """Statistics over the last two axes."""

    def apply(self, params, x, seq):
        size = jnp.sqrt(jnp.mean(x * x, (-1, -2), keepdims=True) + self.eps)
        return x / size * along(params["gain"], x), Aux()


class NoEpsilon(Rms):
    """Divides zeros by zero, and by the sum of squares instead of the mean."""

    def apply(self, params, x, seq):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True) * along(params["gain"], x), Aux()


class NormWidens(Layer):
    def apply(self, params, x, seq):
        y, aux = super().apply(params, x, seq)
        return y.astype(jnp.float32), aux


class TurnsTwice(Rope):
    """Angles grow with the square of the position, and the first channel is stretched."""

    def rotate(self, x, position):
        y = super().rotate(x, position**2)
        return y.at[..., 0].multiply(1.1)


class NotThere(Learned):
    def embed(self, params, x, position):
        return x


class MarksTheStream(Rope):
    def embed(self, params, x, position):
        return x + position[..., None]


class IndexIgnoredInScan(PreNorm):
    """Scales by the site, but only where the index is a plain number."""

    def write(self, params, z, y, i, seq):
        return z + y * (1 + i if isinstance(i, int) else 1)


class DeadSite(PreNorm):
    """The third site joins nothing."""

    def write(self, params, z, y, i, seq):
        return z + jnp.where(i == 2, 0, 1).astype(z.dtype) * y


class StreamWidens(PreNorm):
    """The stream becomes float32 at the first site."""

    def write(self, params, z, y, i, seq):
        return z.astype(jnp.float32) + y

    def close(self, ends, z, seq):
        return z


class StreamGrows(PreNorm):
    """The stream gains an axis at every site."""

    def write(self, params, z, y, i, seq):
        return (z + y)[..., None, :]


class LooksSideways(PreNorm):
    """Reads the token before."""

    def read(self, params, z, i, seq):
        return super().read(params, jnp.roll(z, 1, -2), i, seq)


class SharedButCountedOnce(Shared):
    def decl(self, unit, n):
        return {"shared": unit, "layers": {}}


class ForgetsNorms(Plain):
    def unit(self, shared, layer):
        return dict(up=layer["up"], norm=layer["norm"][None])


class WritesZeros(Plain):
    def write(self, unit, n, dense):
        return {"shared": {}, "layers": jax.tree.map(jnp.zeros_like, dense)}


residual = lambda method: testing.residual(method, 16)
OTHERS = [
    (
        testing.channel_mixer,
        Couples(16),
        ["all tokens at once equal one by one", "pads are inert", "no gradient reaches pads"],
    ),
    (testing.channel_mixer, MlpAroundTheDoor(16), ["matrices may be operators"]),
    (testing.channel_mixer, Averages(16), ["cost explains the contractions", "ff may be sliced"]),
    (testing.norm, LeaksOverTime(16), ["all tokens at once equal one by one", "pads are inert"]),
    (testing.norm, NoEpsilon(16), ["the output starts with unit size", "zeros stay finite"]),
    (testing.norm, NormWidens(16), ["bfloat16 stays bfloat16"]),
    (
        testing.position,
        TurnsTwice(),
        ["logits do not change when all positions shift", "rotation keeps lengths"],
    ),
    (testing.position, NotThere(), ["an absolute scheme marks the stream"]),
    (testing.position, MarksTheStream(), ["a relative scheme leaves the stream alone"]),
    (residual, IndexIgnoredInScan(Rms(16)), ["a scan over depth equals the unrolled sites"]),
    (residual, DeadSite(Rms(16)), ["every site is live"]),
    (residual, StreamWidens(Rms(16)), ["bfloat16 stays bfloat16"]),
    (residual, StreamGrows(Rms(16)), ["the stream keeps its structure"]),
    (residual, LooksSideways(Rms(16)), ["all tokens at once equal one by one"]),
    (testing.weights, SharedButCountedOnce(), ["uses count every pass"]),
    (testing.weights, ForgetsNorms(), ["a depth sees the unit's own tree"]),
    (testing.weights, WritesZeros(), ["what is written is read again"]),
]


def broken(results) -> set[str]:
    return {r.name for r in results if not r.ok}


@pytest.mark.parametrize(("check", "method", "promises"), OTHERS, ids=[type(m).__name__ for _, m, _ in OTHERS])
def test_a_fault_in_another_family_is_caught(check, method, promises):
    assert broken(check(method)) >= set(promises)


def test_a_check_says_which_promises_are_broken():
    with pytest.raises(AssertionError) as error:
        testing.check_channel_mixer(MlpAroundTheDoor(16, ff=8))
    first, *lines = str(error.value).splitlines()
    assert first.startswith("MlpAroundTheDoor(width=16, ff=8") and "promises" in first
    assert any(line.startswith("FAIL matrices may be operators: inf") and "Wrapped" in line for line in lines)


def test_an_unknown_axis_or_kind_is_refused_where_it_is_written():
    with pytest.raises(ValueError, match="unknown axis 'embde'"):
        param.gain(embde=4)
    with pytest.raises(ValueError, match="unknown kind 'gian'"):
        param.Param("gian")
