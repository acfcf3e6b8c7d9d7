"""sparse_transformer: half of the heads look nearby, the other half at few tokens that between them reach everything.

    y_t = W_1 A(t, near) + W_2 A(t, far),  A(t, S) = softmax attention of the half's heads to s in S, s <= t
    strided:  near = {t - l, .., t},  far = {s: (t - s) mod l = 0}
    fixed:    near = {s: s div l = t div l},  far = {s: s mod l >= l - c}

source: Child et al. 2019, arXiv 1904.10509; code openai/sparse_attention
train: 4 T (min(2 l, T) + T/l) heads K / 2 a sequence (strided; c T/l when fixed) beside the projections
decode: 2 (l + S/l) heads K a token (strided); cache (l + S) kv_heads K, or (l + c S/l) kv_heads K when fixed
departs: the two sets are those of different heads, the third of the paper's three ways to join them; far heads of the
         fixed pattern all have the same columns, and read zero before the first one; the paper's initialisation of
         output projections (1 / sqrt(2 N)) and its recomputation belong to the model
"""

import dataclasses
from typing import ClassVar

import jax

from ...contracts import Aux, Cost, Position, Seq
from ..options import check
from ..positions import Rope
from ._sparse import Block, Columns, Strided
from .attention import Attention

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class SparseTransformer:
    """width D. heads: query heads, an even number, one per 64 of width and at least 2 unless given. kv_heads: key
    heads, even, heads unless given. head_dim K: D / heads unless given. pattern: "strided" or "fixed". stride l: best
    near the square root of the length. columns c: of the fixed pattern. scale: of the logits, K^-1/2 unless given.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"kv_heads": 1, "group": 1}
    width: int
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    pattern: str = "strided"
    stride: int = 128
    columns: int = 8
    scale: float | None = None
    position: Position = Rope()

    def __post_init__(self):
        check("sparse_transformer", self, "width heads kv_heads head_dim stride", "scale")
        if self.pattern not in ("strided", "fixed"):
            raise ValueError(f'sparse_transformer: pattern is "strided" or "fixed", not {self.pattern!r}')
        if self.stride < 2 or self.pattern == "fixed" and not 1 <= self.columns <= self.stride:
            said = f"columns={self.columns}, stride={self.stride}"
            raise ValueError(f"sparse_transformer: needs stride >= 2 and columns in 1..stride, not {said}")
        for name, heads in (("heads", self._heads), ("kv_heads", self.kv_heads or 2)):
            if heads % 2:
                raise ValueError(f"sparse_transformer: {name} must be even, one half near and one far, not {heads}")
        if self.head_dim is None and self.width % self._heads:
            said = f"heads={self._heads} does not divide width={self.width}"
            raise ValueError(f"sparse_transformer: {said}; give head_dim")
        self.halves  # noqa: B018  raises what attention raises

    @property
    def _heads(self) -> int:
        return self.heads or max(2, self.width // 128 * 2)

    @property
    def halves(self) -> dict[str, Attention]:
        """The two halves of the heads, each a mixer of its own."""
        half = dict(
            width=self.width, heads=self._heads // 2, kv_heads=self.kv_heads and self.kv_heads // 2, scale=self.scale,
            head_dim=self.head_dim or self.width // self._heads, position=self.position,
        )  # fmt: skip
        if self.pattern == "strided":
            return dict(near=Attention(window=self.stride + 1, **half), far=Strided(stride=self.stride, **half))
        return dict(
            near=Block(window=self.stride, **half), far=Columns(stride=self.stride, columns=self.columns, **half)
        )

    def decl(self) -> Tree:
        decl = {name: mixer.decl() for name, mixer in self.halves.items()}
        for half in decl.values():  # drawn as one matrix of all heads would be
            half["out"] = dataclasses.replace(half["out"], init=(2 * half["out"].fan_in) ** -0.5)
        return decl

    def cost(self, tokens: int, context: float) -> Cost:
        near, far = (mixer.cost(tokens, context) for mixer in self.halves.values())
        return Cost(near.flops + far.flops, near.state_bytes + far.state_bytes)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        return {name: mixer.state(batch, length) for name, mixer in self.halves.items()}

    def _both(self, params, x: Array, state: Tree, seq: Seq, mode: str) -> tuple[Array, Tree, Aux]:
        ran = {n: getattr(m, mode)(params[n], x, state[n], seq) for n, m in self.halves.items()}
        return ran["near"][0] + ran["far"][0], {name: new for name, (_, new, _) in ran.items()}, Aux()

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        return self._both(params, x, state, seq, "scan")

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        return self._both(params, x, state, seq, "step")
