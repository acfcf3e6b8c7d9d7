"""mesa_layer: at every token the ridge regression of the values so far on their keys, applied to the query.

    q, k = unit(W x);  v = W_v x;  P_t = argmin_P sum_{s<=t} |v_s - P^T k_s|^2 + ridge_h |P|^2;  y = W_o P_t^T q_t

source: von Oswald et al. 2023, arXiv 2309.05858
train: 2 T H (5 C K + C V + 2 K V + 3 K^2) in chunks of C = 32, and Cholesky factors of K x K and C x C a chunk
decode: 4 H K V + 2 H K^2 a token beside a solve of K^3 / 3; state H K (K + V) float32
departs: the state holds the sums and not the inverse, which loses its digits as it shrinks; a decode step solves.
         float32 solves with a ridge above 5e-7 times the tokens of a document, see kernels/mesa
catalogue: mesa_layer
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ... import param
from ...contracts import Aux, Cost, Seq, hold
from ...kernels.linear import linear
from ...kernels.mesa import mesa
from ..options import check
from ._parts import unit

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class MesaLayer:
    """width D. heads H: one per 64 of width unless given. key, value: widths of a head, D/H unless given. ridge: where
    the learned ridge of every head starts.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"heads": 1}
    width: int
    heads: int | None = None
    key: int | None = None
    value: int | None = None
    ridge: float = 1.0

    def __post_init__(self):
        check("mesa_layer", self, "width heads key value", "ridge")
        if None in (self.key, self.value) and self.width % self.n:
            raise ValueError(f"mesa_layer: heads={self.n} does not divide width={self.width}; give key and value")

    @property
    def n(self) -> int:
        return self.heads or max(1, self.width // 64)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(heads H, key width K, value width V)."""
        return self.n, self.key or self.width // self.n, self.value or self.width // self.n

    def decl(self) -> Tree:
        h, k, v = self.sizes
        stream, keys, values = dict(embed=self.width), dict(heads=h, key=k), dict(heads=h, value=v)
        log = lambda key, shape, dtype: jnp.full(shape, jnp.log(self.ridge), dtype)
        return dict(
            q=param.matrix(stream, keys), k=param.matrix(stream, keys), v=param.matrix(stream, values),
            log_ridge=param.decay(heads=h, init=log), out=param.matrix(values, stream),
        )  # fmt: skip

    def cost(self, tokens: int, context: float) -> Cost:
        h, k, v = self.sizes
        return Cost(flops=tokens * h * k * (4 * v + 2 * k), state_bytes=4 * h * k * (k + v))

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        h, k, v = self.sizes
        return dict(
            gram=param.state(dict(batch=batch, heads=h), dict(key=k, state=k)),
            s=param.state(dict(batch=batch, heads=h), dict(key=k, value=v)),
        )

    def _inputs(self, params, x: Array, mask: Array) -> tuple[Array, Array, Array, Array]:
        """q, k, v, float32 [..., H, .], and the ridge [H]; a masked token has k = 0."""
        q, k, v = (linear(x, params[n]).astype(jnp.float32) for n in "qkv")
        return unit(q), jnp.where(mask[..., None, None], unit(k), 0.0), v, jnp.exp(params["log_ridge"])

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        size = state["gram"].shape[-1]
        sums = jnp.concatenate([state["gram"], state["s"]], -1)
        y, sums = mesa(*self._inputs(params, x, seq.mask), sums, seq.start & seq.mask)
        return linear(y.astype(x.dtype), params["out"], c=2), dict(gram=sums[..., :size], s=sums[..., size:]), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        q, k, v, ridge = self._inputs(params, x, seq.mask)
        old = hold(seq.start & seq.mask, jax.tree.map(jnp.zeros_like, state), state)
        gram = old["gram"] + jnp.einsum("bhk,bhj->bhkj", k, k)
        s = old["s"] + jnp.einsum("bhk,bhv->bhkv", k, v)
        size = gram.shape[-1]
        factor = jnp.linalg.cholesky(gram + ridge[None, :, None, None] * jnp.eye(size)[None, None])
        w = jax.scipy.linalg.cho_solve((factor, True), q[..., None])[..., 0]
        y = jnp.einsum("bhk,bhkv->bhv", w, s)
        return linear(y.astype(x.dtype), params["out"], c=2), dict(gram=gram, s=s), Aux()
