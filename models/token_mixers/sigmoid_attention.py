"""sigmoid_attention: every key is weighed on its own by a sigmoid, and nothing is divided by a sum.

    y_t = sum_s sigmoid(q_t.k_s / sqrt(K) - log n) v_s,  s as in attention

source: Ramapuram et al. 2024, arXiv 2409.04431; code apple/ml-sigmoid-attention
train: 4 T S heads K a sequence beside the projections
decode: 4 S heads K a token; cache 2 S kv_heads K, S = min(window + sinks, capacity)
departs: n is the number of keys that a query sees, so that a row of zero logits sums to n / (n + 1) in every document
         and at every token; length= gives the paper's constant n. Norms of queries, keys and the output (qk norm,
         LayerScale), which the paper adds in some runs, are not built
"""

import dataclasses
from typing import ClassVar

from ...kernels.attention import Weigh, sigmoid
from ..options import check
from .attention import Attention


@dataclasses.dataclass(frozen=True)
class SigmoidAttention(Attention):
    """As attention. length: n of the bias -log n, the keys in sight unless given."""

    sink_logit: ClassVar[bool] = False
    length: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check("sigmoid_attention", self, "length")

    def _weigh(self, params) -> Weigh:
        return sigmoid(self.length)
