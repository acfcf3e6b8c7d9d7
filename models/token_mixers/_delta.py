"""The part that DeltaNet and Gated DeltaNet have in common: projections, convolutions, the delta rule, the step."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, hold
from ...kernels.delta_rule import delta_rule
from ...kernels.linear import linear
from ...kernels.short_conv import short_conv, short_conv_step
from ..options import check
from ._parts import convolve, unit

Array = jax.Array
Tree = dict
Inputs = tuple[Array, Array, Array, Array, Array]


@dataclasses.dataclass(frozen=True)
class DeltaRule:
    """A mixer around the delta rule. A subclass says its sizes, log decay and output.

    width D. heads H. key, value: widths of a head. conv: taps. beta_max: writing strengths are in (0, beta_max); up to
    2 the eigenvalue along a key may be as low as -1. eps: of the norm on each head's output.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"heads": 1}
    name: ClassVar[str]
    width: int
    heads: int | None = None
    key: int | None = None
    value: int | None = None
    conv: int = 4
    beta_max: float = 1.0
    eps: float = 1e-5

    def __post_init__(self):
        check(self.name, self, "width heads key value", "eps", taps="conv")
        h, k, v = self.sizes
        if min(k, v) < 1:
            raise ValueError(f"{self.name}: heads={h}, key={k}, value={v}; give key and value")
        if not 0 < self.beta_max <= 2:
            raise ValueError(f"{self.name}: beta_max must be in (0, 2], not {self.beta_max}")

    @property
    def n(self) -> int:
        return self.heads or max(1, self.width // 128)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(heads H, key width K, value width V)."""
        raise NotImplementedError

    def _log_decay(self, params, x: Array, beta: Array) -> Array:
        """float32 [..., H] as beta, at most 0."""
        raise NotImplementedError

    def _output(self, params, x: Array, y: Array) -> Array:
        """y float32 [..., H, V] -> [..., D]."""
        raise NotImplementedError

    def decl(self) -> Tree:
        h, k, v = self.sizes
        stream, out = dict(embed=self.width), dict(heads=h, value=v)
        heads = dict(q=dict(heads=h, key=k), k=dict(heads=h, key=k), v=out)
        return (
            {name: param.matrix(stream, axes) for name, axes in heads.items()}
            | {f"{name}_conv": param.conv(dict(conv=self.conv), copies=axes) for name, axes in heads.items()}
            | dict(beta=param.matrix(stream, dict(heads=h)), norm=param.gain(value=v), out=param.matrix(out, stream))
        )

    def cost(self, tokens: int, context: float) -> Cost:
        h, k, v = self.sizes
        channels = h * (2 * k + v)
        flops = tokens * (6 * h * k * v + 2 * self.conv * channels)
        return Cost(flops=flops, state_bytes=4 * (h * k * v + (self.conv - 1) * channels))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        h, k, v = self.sizes
        held = lambda **axes: param.state(dict(batch=batch), dict(conv=self.conv - 1, heads=h, **axes))
        s = param.state(dict(batch=batch, heads=h), dict(key=k, value=v))
        return dict(q=held(key=k), k=held(key=k), v=held(value=v), s=s)

    def _inputs(self, run, params, x: Array, state: Tree, seq: Seq) -> tuple[Inputs, Tree]:
        """q, k, v, beta, log decay, float32, and new convolution states. A masked token has beta = 0, no decay."""
        heads, held = {}, {}
        for name in "qkv":
            y, held[name] = convolve(run, linear(x, params[name]), params[f"{name}_conv"], state[name], seq)
            heads[name] = jax.nn.silu(y.astype(jnp.float32))
        q, k = unit(heads["q"]) * heads["q"].shape[-1] ** -0.5, unit(heads["k"])
        real = seq.mask[..., None]
        beta = self.beta_max * jax.nn.sigmoid(linear(x, params["beta"]).astype(jnp.float32))
        g = jnp.where(real, self._log_decay(params, x, beta), 0.0)
        return (q, k, heads["v"], jnp.where(real, beta, 0.0), g), held

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        inputs, held = self._inputs(short_conv, params, x, state, seq)
        y, s = delta_rule(*inputs, state["s"], seq.start & seq.mask)
        return self._output(params, x, y), held | dict(s=s), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        (q, k, v, beta, g), held = self._inputs(short_conv_step, params, x, state, seq)
        s = hold(seq.start & seq.mask, jnp.zeros_like(state["s"]), state["s"])
        s = jnp.exp(g)[..., None, None] * s
        error = v - jnp.einsum("bhk,bhkv->bhv", k, s)
        s = s + jnp.einsum("bhk,bhv->bhkv", k, beta[..., None] * error)
        return self._output(params, x, jnp.einsum("bhk,bhkv->bhv", q, s)), held | dict(s=s), Aux()
