"""mla: latent attention; keys and values of all heads come from one short vector a token, which is all that is kept.

    c = rms(W_D x), k_h = [W_K,h c, rotated W_R x], v_h = W_V,h c
    c_q = rms(W_DQ x), q_h = [W_Q,h c_q, rotated W_QR,h c_q]
    y_t = W_o concat_h sum_s softmax_s(q_t,h.k_s,h / sqrt(K + R)) v_s,h
    step:  q.k = (W_K,h^T q).c + rotated parts,  sum_s p_s v_s = W_V,h sum_s p_s c_s,  so that no key is ever made

source: DeepSeek-V2, arXiv 2405.04434; code transformers, modeling_deepseek_v3
train: 2 T S heads (2 K + R) a sequence beside the projections
decode: 2 S heads (2 rank + R) a token; cache S (rank + R)
departs: pairs of rotated channels are (i, i + R/2), as in rope; without q_rank queries come from x (DeepSeek-V2-Lite)
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Position, Seq, spoil
from ...kernels.attention import Tokens, attention
from ...kernels.linear import dense, linear
from ..options import check
from ..positions import Rope
from . import _slots
from ._parts import rms

Array = jax.Array
Tree = dict
Pair = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class Mla:
    """width D. heads H: one per 64 of width unless given. head_dim K: of values and of keys beside the rotated part,
    D / H unless given. rank: of the latent vector, D/4 unless given. rope_dim R: rotated channels, K/2 unless given,
    even. q_rank: of the queries' latent vector, none unless given. scale: of the logits, (K + R)^-1/2 unless given.
    eps: of the norms on latent vectors.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"heads": 1, "value": 1}
    width: int
    heads: int | None = None
    head_dim: int | None = None
    rank: int | None = None
    rope_dim: int | None = None
    q_rank: int | None = None
    scale: float | None = None
    eps: float = 1e-6
    position: Position = Rope()

    def __post_init__(self):
        check("mla", self, "width heads head_dim rank rope_dim q_rank", "scale eps")
        if self.head_dim is None and self.width % self.sizes[0]:
            raise ValueError(f"mla: heads={self.sizes[0]} does not divide width={self.width}; give head_dim")
        if self.sizes[2] % 2:
            raise ValueError(f"mla: rope_dim must be even, not {self.sizes[2]}")

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(heads H, head width K, rotated channels R, rank of the latent vector)."""
        h = self.heads or max(1, self.width // 64)
        k = self.head_dim or self.width // h
        rope = max(2, k // 4 * 2) if self.rope_dim is None else self.rope_dim
        return h, k, rope, max(1, self.width // 4) if self.rank is None else self.rank

    def decl(self) -> Tree:
        h, k, rope, rank = self.sizes
        stream, latent = dict(embed=self.width), dict(rank=rank)
        asks = dict(rank=self.q_rank) if self.q_rank else stream
        decl = dict(
            down=param.matrix(stream, latent), norm=param.gain(rank=rank),
            k=param.matrix(latent, dict(heads=h, key=k)), v=param.matrix(latent, dict(heads=h, value=k)),
            k_rope=param.matrix(stream, dict(head_dim=rope)),
            q=param.matrix(asks, dict(heads=h, key=k)), q_rope=param.matrix(asks, dict(heads=h, head_dim=rope)),
            out=param.matrix(dict(heads=h, value=k), stream),
        )  # fmt: skip
        if self.q_rank:
            decl |= dict(q_down=param.matrix(stream, asks), q_norm=param.gain(rank=self.q_rank))
        return decl

    def cost(self, tokens: int, context: float) -> Cost:
        """One token is a step, which looks at latent vectors; more are a scan, which makes keys and values."""
        h, k, rope, rank = self.sizes
        a_pair = 2 * rank + rope if tokens == 1 else 2 * k + rope
        return Cost(flops=2 * tokens * context * h * a_pair, state_bytes=int(4 * context * (rank + rope)))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        _, _, rope, rank = self.sizes
        rows, slots = dict(batch=batch), dict(slot=length)
        return dict(
            latent=param.cache(rows, slots | dict(rank=rank)), rope=param.cache(rows, slots | dict(head_dim=rope)),
            position=param.count(rows, slots), count=param.count(rows),
        )  # fmt: skip

    def _normed(self, params, name: str, c: Array) -> Array:
        return rms(c.astype(jnp.float32), params[name], self.eps).astype(c.dtype)

    def _queries(self, params, x: Array, position: Array) -> Pair:
        """[..., H, K] and, rotated, [..., H, R]."""
        c = self._normed(params, "q_norm", linear(x, params["q_down"])) if self.q_rank else x
        return linear(c, params["q"]), self.position.rotate(linear(c, params["q_rope"]), position)

    def _new(self, params, x: Array, position: Array) -> Tree:
        """What is kept of tokens x [..., D]."""
        rope = self.position.rotate(linear(x, params["k_rope"])[..., None, :], position)[..., 0, :]
        return dict(latent=self._normed(params, "norm", linear(x, params["down"])), rope=rope, position=position)

    def _attend(self, q: Array, k: Array, v: Array, at: Tokens, to: Tokens, positions: Pair) -> Array:
        h, width, rope, _ = self.sizes
        bias = self.position.bias(*positions, h)
        if bias is not None:
            bias = bias.reshape(-1, k.shape[2], q.shape[3], *bias.shape[-2:])
        return attention(q, k, v, at, to, bias=bias, scale=(width + rope) ** -0.5 if self.scale is None else self.scale)

    def expanded(self, params, q: Pair, kept: Tree, at: Tokens, to: Tokens, positions: Pair) -> Array:
        """Keys and values made from latent vectors [B, S, rank], for queries [B, T, H, .] -> [B, T, D]."""
        latent, rope = kept["latent"].astype(q[0].dtype), kept["rope"].astype(q[0].dtype)
        k, v = linear(latent, params["k"]), linear(latent, params["v"])
        rope = jnp.broadcast_to(rope[:, :, None], (*k.shape[:3], rope.shape[-1]))
        y = self._attend(jnp.concatenate(q, -1)[:, :, :, None], jnp.concatenate([k, rope], -1), v, at, to, positions)
        return linear(y[:, :, :, 0], params["out"], c=2)

    def absorbed(self, params, q: Pair, kept: Tree, at: Tokens, to: Tokens, positions: Pair) -> Array:
        """The same with queries taken to the latent space: all heads look at one key and one value a token."""
        latent, rope = kept["latent"].astype(q[0].dtype), kept["rope"].astype(q[0].dtype)
        of_k, of_v = (dense(params[name], latent.shape[-1]).astype(latent.dtype) for name in "kv")
        asks = jnp.concatenate([jnp.einsum("bthk,rhk->bthr", q[0], of_k), q[1]], -1)[:, :, None]
        k = jnp.concatenate([latent, rope], -1)[:, :, None]
        y = self._attend(asks, k, latent[:, :, None], at, to, positions)[:, :, 0]
        return linear(jnp.einsum("bthr,rhv->bthv", y, of_v), params["out"], c=2)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        q, new = self._queries(params, x, seq.position), self._new(params, x, seq.position)
        slots = state["latent"].shape[1]
        if not slots:
            at = _slots.neighbours(seq)
            return self.expanded(params, q, new, at, at, (seq.position, seq.position)), state, Aux()
        view = _slots.extend(state, new, seq, _slots.Ring())
        y = self.expanded(params, q, view.seen, view.at, view.to, (seq.position, view.seen["position"]))
        return spoil(y, (view.place >= slots) & seq.mask), view.kept, Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        view = _slots.write(state, self._new(params, x, seq.position), seq, _slots.Ring())
        position = seq.position[:, None]
        q = self._queries(params, x[:, None], position)
        y = self.absorbed(params, q, view.seen, view.at, view.to, (position, view.seen["position"]))[:, 0]
        return spoil(y, (view.place >= state["latent"].shape[1]) & seq.mask), view.kept, Aux()
