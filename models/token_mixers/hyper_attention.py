"""hyper_attention: softmax attention whose large entries are found by sorting and whose rest is sampled.

    y = merge(A_blocks(sorted q, sorted k), A_sample),  A_sample: m uniform keys outside a query's block, weight n / m
    merge by log-sum-exp;  causal(n) = causal(first half), merge(causal(second half), second half against first)

source: Han et al. 2023, arXiv 2310.05869; compared with insuhan/hyper-attn
train: 4 T (L + (block + samples) log2(T / L) / 2) heads K a sequence, L in least / 2 .. least, 2 T bits heads K for the
       signs of each halving, and a sort
decode: exact, 4 S heads K a token; cache 2 S kv_heads K
departs: neighbours in the sorting differ in one sign, as the paper says, where the authors' code permutes the wrong way
         and neighbours may differ in more; documents and padding are masked, where the code lets padded keys weigh in.
         Calls of up to `least` tokens, steps and calls that go on from a state are exact
couples: time, beyond `least` tokens: an estimate, drawn anew from seq.key in every call. Without a key training
         raises, and evaluation draws the same each time; which keys a query meets exactly depends on how later queries
         sort as well, as in the paper
"""

import dataclasses
import math
from typing import ClassVar

import jax

from ...contracts import Aux, Cost, Seq
from ...kernels.attention import hyper
from ..options import check, without_bias
from . import _slots
from .attention import Attention

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class HyperAttention(Attention):
    """As attention, without window, cap and sinks. least: longest call that is exact. block: of sorted keys. samples:
    keys drawn for a head. bits: signs that are sorted by. Training on longer calls needs seq.key; evaluation
    without one draws the same in every call.
    """

    window: ClassVar[int | None] = None
    cap: ClassVar[float | None] = None
    sinks: ClassVar[int] = 0
    sink_logit: ClassVar[bool] = False
    least: int = 4096
    block: int = 256
    samples: int = 256
    bits: int = 7

    def __post_init__(self):
        super().__post_init__()
        check("hyper_attention", self, "least block samples bits")
        without_bias("hyper_attention", self.position)

    @property
    def _how(self) -> Tree:
        return dict(is_causal=self.causal, least=self.least, block=self.block, samples=self.samples, bits=self.bits)

    def cost(self, tokens: int, context: float) -> Cost:
        """Whole rows, whose tokens see half of them where causal, by what training executes. Causal tokens that are no
        more than each of them sees go on from a state, as in a step, and are exact.
        """
        exact = super().cost(tokens, context)
        time = math.ceil(2 * context - 1 if self.causal else context)
        if time <= self.least or (self.causal and tokens <= context):
            return exact
        near, signs = hyper.pairs(time, **self._how)
        n, g, k = self.sizes
        return exact._replace(flops=tokens / time * n * g * k * (4 * near + 2 * signs))

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        if x.shape[1] <= self.least or (state and state["k"].shape[1]):
            return super().scan(params, x, state, seq)
        q, new = self._queries(params, x, seq.position), self._new(params, x, seq.position)
        if seq.key is None and seq.train:
            raise ValueError(f"hyper_attention: calls of more than least={self.least} tokens need seq.key in training")
        key = jax.random.key(0) if seq.key is None else seq.key
        y = hyper.hyper_attention(
            q, new["k"], new["v"], _slots.neighbours(seq).doc, key, **self._how,
            scale=self.sizes[2] ** -0.5 if self.scale is None else self.scale,
        )  # fmt: skip
        return self._output(params, y), state, Aux()
