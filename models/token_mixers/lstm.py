"""lstm: long short-term memory with peepholes, and the eight changes of it that the odyssey compared, as fields.

    z = tanh(W_z x_t + R_z y_{t-1} + b_z);  i, f = sigmoid(W x_t + R y_{t-1} + p * c_{t-1} + b);  c_t = f c_{t-1} + i z
    o = sigmoid(W_o x_t + R_o y_{t-1} + p_o * c_t + b_o);  y_t = o tanh(c_t);  what is returned is W y_t

source: Greff et al. 2015 (LSTM: A Search Space Odyssey), arXiv 1503.04069
train: 2 T (4 D H + 4 H^2 + D H) one token after the other, H cells; 9 H^2 more with gate_recurrence
decode: the same a token; state 2 H float32, and 3 H with gate_recurrence
departs: a matrix from the H cells to the width after it; the forget gate's bias starts at 1 and the other biases at 0
catalogue: lstm_variants; NIG, NFG, NOG: input_gate, forget_gate, output_gate=False; NIAF, NOAF: input_tanh,
           output_tanh=False; CIFG: coupled=True; NP: peepholes=False; FGR: gate_recurrence=True
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold
from ...kernels.linear import linear
from ..options import check

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class Lstm:
    """width D. inner: cells H, D unless given. input_gate, forget_gate, output_gate: a gate that is absent is 1.
    input_tanh, output_tanh: tanh of what comes in and of the cell, or themselves. coupled: the forget gate is 1 - i.
    peepholes: gates see the cell. gate_recurrence: gates see all gates of the token before. forget: the forget gate's
    bias at first.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {}
    width: int
    inner: int | None = None
    input_gate: bool = True
    forget_gate: bool = True
    output_gate: bool = True
    input_tanh: bool = True
    output_tanh: bool = True
    coupled: bool = False
    peepholes: bool = True
    gate_recurrence: bool = False
    forget: float = 1.0

    def __post_init__(self):
        check("lstm", self, "width inner")
        if self.coupled and not (self.input_gate and self.forget_gate):
            raise ValueError("lstm: coupled makes the forget gate of the input gate, so neither may be absent")
        if self.gate_recurrence and not self.gates:
            raise ValueError("lstm: gate_recurrence needs a gate, and all are absent")

    @property
    def cells(self) -> int:
        return self.inner or self.width

    @property
    def gates(self) -> str:
        """The gates that have weights, of "ifo"."""
        there = dict(i=self.input_gate, f=self.forget_gate and not self.coupled, o=self.output_gate)
        return "".join(name for name in there if there[name])

    def _bias(self, key, shape, dtype) -> Array:
        forgets = jnp.array([name == "f" for name in "z" + self.gates])
        return jnp.broadcast_to(jnp.where(forgets, self.forget, 0.0)[:, None], shape).astype(dtype)

    def decl(self) -> Tree:
        h, n = self.cells, len(self.gates)
        stream, inner, state = dict(embed=self.width), dict(inner=h), dict(state=h)
        made = dict(gate=1 + n, inner=h)  # z, then the gates
        decl = dict(
            into=param.matrix(stream, made), back=param.matrix(state, made), bias=param.bias(init=self._bias, **made),
            out=param.matrix(inner, stream),
        )  # fmt: skip
        if self.peepholes and n:
            decl["peepholes"] = param.gain(gate=n, inner=h, init=0.1)
        if self.gate_recurrence:
            decl["gates"] = param.matrix(dict(state=n * h), dict(gate=n, inner=h))
        return decl

    def cost(self, tokens: int, context: float) -> Cost:
        return Cost(state_bytes=4 * self.cells * (2 + self.gate_recurrence * len(self.gates)))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        rows = dict(batch=batch)
        state = dict(c=param.state(rows, dict(inner=self.cells)), y=param.state(rows, dict(state=self.cells)))
        if self.gate_recurrence:
            state["gates"] = param.state(rows, dict(state=len(self.gates) * self.cells))
        return state

    def _token(self, params, made: Array, state: Tree, mask: Array, start: Array) -> Tree:
        """The state after one token, of which made [B, 1 + n, H] is what W x + b gives."""
        old = hold(start & mask, jax.tree.map(jnp.zeros_like, state), state)
        back = linear(old["y"].astype(made.dtype), params["back"]).astype(jnp.float32)
        z, *gates = jnp.moveaxis(made.astype(jnp.float32) + back, 1, 0)
        if self.gate_recurrence:
            seen = linear(old["gates"].astype(made.dtype), params["gates"]).astype(jnp.float32)
            gates = [g + seen[:, n] for n, g in enumerate(gates)]
        given, peep = dict(zip(self.gates, gates, strict=True)), params.get("peepholes")

        def gate(name: str, c: Array) -> Array:
            if name not in given:
                return jnp.ones_like(c)
            sees = 0.0 if peep is None else along(peep[self.gates.index(name)], c) * c
            return jax.nn.sigmoid(given[name] + sees)

        c, i = old["c"], gate("i", old["c"])
        f = 1 - i if self.coupled else gate("f", c)
        c = f * c + i * (jnp.tanh(z) if self.input_tanh else z)
        o = gate("o", c)
        new = dict(c=c, y=o * (jnp.tanh(c) if self.output_tanh else c))
        if self.gate_recurrence:
            values = dict(i=i, f=f, o=o)
            new["gates"] = jnp.concatenate([values[name] for name in self.gates], -1)
        return hold(mask, new, old)

    def _made(self, params, x: Array) -> Array:
        made = linear(x, params["into"])
        return made + along(params["bias"], made)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        def body(state, token):
            made, mask, start = token
            state = self._token(params, made, state, mask, start)
            return state, state["y"]

        tokens = (self._made(params, x), seq.mask, seq.start)
        state, y = jax.lax.scan(body, state, jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), tokens))
        return linear(jnp.moveaxis(y, 0, 1).astype(x.dtype), params["out"]), state, Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        state = self._token(params, self._made(params, x), state, seq.mask, seq.start)
        return linear(state["y"].astype(x.dtype), params["out"]), state, Aux()
