"""laughing_hyena: hyena whose filters are sums of decaying waves, so that it decodes as a recurrence.

    v, x^1 .. x^N = conv(W x);  z^1 = v;  z^{n+1} = x^n (h^n * z^n);  y = W_o z^{N+1}
    h_0 = d,  h_j = Re sum_m g_m R_m lambda_m^{j-1},  lambda = exp(-rate + i angle),  g = sqrt(1 - |lambda|^2)
    s_t = lambda s_{t-1} + z_t,  (h * z)_t = Re sum_m g_m R_m s_{m,t-1} + d z_t

source: Massaroli et al. 2023 (Laughing Hyena Distillery), arXiv 2310.18780; hyena: arXiv 2302.10866
train: 2 T N D (C + 8 M) in chunks of C = 16, M modes a channel
decode: 2 N D (2 M + conv) a token; state 2 M N D + (conv - 1) (N + 1) D float32
departs: g keeps the size of what is filtered while a mode learns to last longer. `distilled` takes the modes of a
         trained hyena from the singular vectors of its filters' Hankel matrices, and their weights by least squares,
         where the paper descends gradients. Filters are not tied across channels into heads (MultiHyena)
catalogue: laughing_hyena_distill
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ... import param
from ...contracts import Aux, Cost, Seq, along, hold
from ...kernels.exact import einsum
from ...kernels.lti import lti, modal
from ...kernels.short_conv import short_conv, short_conv_step
from ..options import check, ordered
from ._hyena import gated, projected, projections, taps_held
from ._parts import log_uniform
from .hyena import Hyena

Array = jax.Array
Tree = dict


@dataclasses.dataclass(frozen=True)
class LaughingHyena:
    """width D. order N: filters and gates. modes M: waves of a filter. conv: taps before the gates. shortest, longest:
    range of the times, in tokens, in which modes decay to 1/e at first.
    """

    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    align: ClassVar[int] = 1
    free: ClassVar[dict[str, int]] = {"inner": 1}
    width: int
    order: int = 2
    modes: int = 8
    conv: int = 3
    shortest: float = 2.0
    longest: float = 1000.0

    def __post_init__(self):
        check("laughing_hyena", self, "width order modes", taps="conv")
        ordered("laughing_hyena", self, "shortest", "longest")

    def decl(self) -> Tree:
        made = dict(gate=self.order, inner=self.width)
        modes = made | dict(state=self.modes)
        turns = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, 0.0, math.pi)
        weights = lambda key, shape, dtype: self.modes**-0.5 * jax.random.normal(key, shape, dtype)
        logs = log_uniform(1 / self.longest, 1 / self.shortest)
        filters = dict(
            log_rate=param.decay(**modes, init=logs), angle=param.decay(**modes, init=turns),
            re=param.gain(**modes, init=weights), im=param.gain(**modes, init=weights), skip=param.gain(**made),
        )  # fmt: skip
        return projections(self.width, self.order, self.conv) | dict(filter=filters)

    def cost(self, tokens: int, context: float) -> Cost:
        d, n, m = self.width, self.order, self.modes
        held = 2 * m * n * d + (self.conv - 1) * (n + 1) * d
        return Cost(flops=2 * tokens * d * (2 * m * n + (n + 1) * self.conv), state_bytes=4 * held)

    def state(self, batch: int, length: int, context: int = 0) -> Tree:
        s = param.state(dict(batch=batch), dict(gate=self.order, inner=self.width, state=2 * self.modes))
        return dict(conv=taps_held(self.width, self.order, self.conv, batch), s=s)

    def modal(self, params: Tree) -> tuple[Array, ...]:
        """rate, angle, real and imaginary weights [N, D, M] and skip [N, D], float32."""
        p = params["filter"]
        rate = jnp.exp(p["log_rate"])
        size = jnp.sqrt(-jnp.expm1(-2 * rate))
        return rate, p["angle"], size * p["re"], size * p["im"], p["skip"]

    def filters(self, params: Tree, lag: Array) -> Array:
        """h of lags [T] in tokens -> float32 [T, N, D]."""
        rate, angle, re, im, skip = self.modal(params)
        n = jnp.maximum(lag - 1, 0).astype(jnp.float32)[:, None, None, None]
        waves = along(re, n) * jnp.cos(n * along(angle, n)) - along(im, n) * jnp.sin(n * along(angle, n))
        h = jnp.sum(jnp.exp(-n * along(rate, n)) * waves, -1)
        return jnp.where((lag == 0)[:, None, None], along(skip, h), h)

    def scan(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        u, held = projected(short_conv, params, x, state["conv"], seq)
        made, ends = self.modal(params), []

        def filtered(n: int, z: Array) -> Array:
            y, s = lti(z, state["s"][:, n], seq.start & seq.mask, seq.mask, modal(*(v[n] for v in made)))
            ends.append(s)
            return y

        y = gated(params, u, seq.mask, filtered)
        return y, dict(conv=held, s=jnp.stack(ends, 1)), Aux()

    def step(self, params, x: Array, state: Tree, seq: Seq) -> tuple[Array, Tree, Aux]:
        u, held = projected(short_conv_step, params, x, state["conv"], seq)
        rate, angle, re, im, skip = self.modal(params)
        decay, weights = jnp.exp(-rate), jnp.concatenate([re, -im], -1)
        a, b = decay * jnp.cos(angle), decay * jnp.sin(angle)
        old = hold(seq.start & seq.mask, jnp.zeros_like(state["s"]), state["s"])
        ends = []

        def filtered(n: int, z: Array) -> Array:
            p, q = jnp.split(old[:, n], 2, -1)
            c, s = along(a[n], p), along(b[n], p)
            new = jnp.concatenate([c * p - s * q + z[..., None], s * p + c * q], -1)
            ends.append(hold(seq.mask, new, old[:, n]))
            return einsum("bds,ds->bd", old[:, n], weights[n]) + along(skip[n], z) * z

        y = gated(params, u, seq.mask, filtered)
        return y, dict(conv=held, s=jnp.stack(ends, 1)), Aux()


def hankel(taps: np.ndarray) -> np.ndarray:
    """taps [L] -> [L // 2 + 1, (L + 1) // 2] with entries taps_{i+j}, float64; its rank is the filter's order."""
    return np.lib.stride_tricks.sliding_window_view(np.asarray(taps, np.float64), (len(taps) + 1) // 2)


def order_of(taps: np.ndarray, tolerance: float) -> int:
    """The least order d of a filter's taps from lag 1 on whose next Hankel singular value is at most tolerance.

    No system of order d comes nearer in Hankel norm than that value. M waves have order 2 M, M if none of them turns.
    """
    return int(np.sum(np.linalg.svd(hankel(taps), compute_uv=False) > tolerance))


def modes_of(taps: np.ndarray, modes: int) -> tuple[np.ndarray, np.ndarray]:
    """lambda and R, complex [M], of waves whose sum Re sum_m R_m lambda_m^j is close to taps [L], on the host.

    Kung's method: the shift that the leading singular vectors of the Hankel matrix of taps obey has the waves as its
    eigenvalues. M waves are found exactly from 4 M taps or more: the Hankel matrix then has 2 M columns or more and one
    row more than columns, so that the shift from its first rows to its last ones is determined. Places that are not
    needed have R = 0.
    """
    if len(taps) < 4 * modes:
        raise ValueError(f"laughing_hyena: modes={modes} are found from {4 * modes} taps or more, not {len(taps)}")
    left, size, _ = np.linalg.svd(hankel(taps), full_matrices=False)
    rank = min(2 * modes, int(np.sum(size > 1e-10 * size[0])) if size[0] > 0 else 0)
    found = np.zeros(0, complex)
    while rank:
        roots = np.linalg.eigvals(np.linalg.lstsq(left[:-1, :rank], left[1:, :rank], rcond=None)[0])
        found = roots[roots.imag >= 0]  # of a pair one is enough
        if len(found) <= modes:
            break
        rank -= 1
    found = np.where(np.abs(found) < 1 - 1e-6, found, found / np.maximum(np.abs(found), 1e-30) * (1 - 1e-6))
    waves = found[None] ** np.arange(len(taps))[:, None]
    weights = np.linalg.lstsq(np.concatenate([waves.real, -waves.imag], 1), taps, rcond=None)[0]
    re, im = np.split(weights, 2)
    rest = modes - len(found)
    return np.append(found, np.full(rest, 0.5)), np.append(re + 1j * im, np.zeros(rest))


def distilled(mixer: Hyena, params: Tree, modes: int) -> tuple[LaughingHyena, Tree]:
    """A laughing_hyena with a hyena's projections, and modes that stand for its filters as well as so many can.

    On the host, by one singular value decomposition a filter of as many rows as half its length.
    """
    new = LaughingHyena(mixer.width, order=mixer.order, modes=modes, conv=mixer.conv)
    h = np.asarray(mixer.filters(params, jnp.arange(mixer.length)), np.float64)
    waves = [[modes_of(h[1:, n, d], modes) for d in range(mixer.width)] for n in range(mixer.order)]
    root, weight = (np.array([[w[i] for w in row] for row in waves]) for i in (0, 1))
    modulus = np.maximum(np.abs(root), 1e-8)  # less is over after one token in float32, and has no logarithm at 0
    size = np.sqrt(1 - modulus**2)
    filters = dict(
        log_rate=np.log(-np.log(modulus)), angle=np.angle(root), re=np.real(weight) / size, im=np.imag(weight) / size,
        skip=h[0],
    )  # fmt: skip
    filters = {k: jnp.asarray(v, jnp.float32) for k, v in filters.items()}
    return new, {k: params[k] for k in params if k != "filter"} | dict(filter=filters)
