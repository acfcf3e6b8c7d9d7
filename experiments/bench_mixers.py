"""Speed and memory of the kernels behind the mixers: the chunked form against the plain loop over tokens.

    python experiments/bench_mixers.py
    python experiments/bench_mixers.py --mixers mamba2,gla --times 2048

hyena has convolutions in place of a recurrence: "hyena" is the form that is chosen by size against one transform of the
row, "hyena_toeplitz" products with blocks throughout against the same, "hyena_packed" the form for several documents.
For every mixer the forward pass and the gradient by all inputs, both forms taking turns in one process, so a drift of
the machine hits both alike; medians of the pairs' ratios with 95% intervals (bootstrap). Memory is what the compiled
gradient takes beside its arguments and results. Limits: executed contractions against a measured float32 matrix
product, and inputs and results moved once against a measured copy.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from _turns import in_turns, ratio

from jaxlib_ext import param
from jaxlib_ext.contracts import whole
from jaxlib_ext.kernels.delta_rule import delta_rule
from jaxlib_ext.kernels.dplr import dplr
from jaxlib_ext.kernels.gla import gla
from jaxlib_ext.kernels.linear_scan import linear_scan
from jaxlib_ext.kernels.long_conv import long_conv
from jaxlib_ext.kernels.lti import legs_matrices, legs_step, lti, matrices, modal
from jaxlib_ext.kernels.mesa import mesa
from jaxlib_ext.kernels.selective_scan import selective_scan, token
from jaxlib_ext.kernels.ssd import ssd
from jaxlib_ext.models.token_mixers import Armt
from jaxlib_ext.testing import dot_flops
from jaxlib_ext.training.hardware import peak_flops

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured."""

    mixers: str = (
        "mamba2,retention,gla,delta_net,gated_deltanet,rwkv7,mesa_layer,mamba,rglru,lssl,laughing_hyena,armt,"
        "hyena,hyena_toeplitz,hyena_packed"
    )
    times: str = "2048,16384"
    heads: int = 4
    dim: int = 64
    """Key and value width of a head; mamba has heads x dim channels of 16 states, rglru and hyena of one, lssl of 32,
    laughing_hyena of 8 modes."""
    batch: int = 1
    turns: int = 9
    """Alternations; the first compiles and does not count."""
    out: pathlib.Path | None = None
    """Where the rows go as JSON lines, one a mixer and length, added as they are done."""


class Case(NamedTuple):
    """A kernel: differentiable inputs, the state last if there is one, and two forms, both -> (y, last state)."""

    inputs: tuple[Array, ...]
    fast: Callable
    plain: Callable


def loop(step: Callable) -> Callable:
    """The plain recurrence: step(state, token of every input) -> state, y under a scan over tokens."""

    def run(*inputs):
        *arrays, state = inputs
        body = lambda s, x: step(s, *x)
        state, y = jax.lax.scan(body, state, tuple(jnp.moveaxis(a, 1, 0) for a in arrays))
        return jnp.moveaxis(y, 0, 1), state

    return run


def diagonal(h, a, x):
    h = a * h + x
    return h, h


def waves(made, s, u):
    """One token of lti with modal(*made)."""
    rate, angle, re, im, skip = (v[None] for v in made)
    (x, y), a, b = jnp.split(s, 2, -1), jnp.exp(-rate) * jnp.cos(angle), jnp.exp(-rate) * jnp.sin(angle)
    seen = jnp.sum(re * x - im * y, -1) + skip * u
    return jnp.concatenate([a * x - b * y + u[..., None], b * x + a * y], -1), seen


def read(s: Array, q: Array) -> Array:
    return jnp.einsum("bhk,bhkv->bhv", q, s)


def decayed(s, q, k, v, g):
    """One token of ssd (g [B, H]) or gla (g [B, H, K])."""
    g = g[..., None, None] if g.ndim == 2 else g[..., None]
    s = jnp.exp(g) * s + k[..., None] * v[..., None, :]
    return s, read(s, q)


def delta(s, q, k, v, beta, g):
    s = jnp.exp(g)[..., None, None] * s
    s = s + (beta[..., None] * k)[..., None] * (v - read(s, k))[..., None, :]
    return s, read(s, q)


def low_rank(s, q, k, v, a, b, g):
    s = jnp.exp(g)[..., None] * s + b[..., None] * read(s, a)[..., None, :] + k[..., None] * v[..., None, :]
    return s, read(s, q)


def ridge_regression(s, q, k, v):
    """Sherman and Morrison on the inverse, which starts as the identity; s holds it minus that beside sum k v^T."""
    size = k.shape[-1]
    inverse, sums = s[..., :size] + jnp.eye(size)[None, None], s[..., size:]
    moved = jnp.einsum("bhij,bhj->bhi", inverse, k)
    inverse = inverse - moved[..., None] * moved[..., None, :] / (1 + jnp.sum(k * moved, -1))[..., None, None]
    sums = sums + k[..., None] * v[..., None, :]
    y = read(sums, jnp.einsum("bhij,bhj->bhi", inverse, q))
    return jnp.concatenate([inverse - jnp.eye(size)[None, None], sums], -1), y


def one_transform(x: Array, taps: Array) -> Array:
    """The convolution of rows that are one document each."""
    n = 2 * x.shape[1]
    return jnp.fft.irfft(jnp.fft.rfft(x, n, 1) * jnp.fft.rfft(taps, n, 0)[None], n, 1)[:, : x.shape[1]]


def filtering(name: str, bench: Bench, t: int) -> Case | None:
    """hyena's filters: no state goes in or out."""
    if name not in ("hyena", "hyena_toeplitz", "hyena_packed"):
        return None
    c = bench.heads * bench.dim
    start = jnp.zeros((bench.batch, t), bool).at[:, t // 2 + 1].set(name == "hyena_packed")
    inputs = tuple(jax.random.normal(jax.random.key(n), s) for n, s in enumerate([(bench.batch, t, c), (t, c)]))
    form = "toeplitz" if name == "hyena_toeplitz" else None
    fast = lambda x, taps: (long_conv(x, taps, start, implementation=form), x[:, -1])
    return Case(inputs, fast, lambda x, taps: (one_transform(x, taps), x[:, -1]))


def hippo(u: Array, dt: Array, reads: Array, s: Array) -> tuple[Array, Array]:
    def token(s, u):
        s = legs_step(s, u, dt, 0.5)
        return s, jnp.sum(reads[None] * s, -1)

    return loop(token)(u, s)


def invariant(name: str, bench: Bench, t: int) -> Case | None:
    """Recurrences whose matrices do not depend on the token."""
    if name not in ("lssl", "laughing_hyena"):
        return None
    b, c, n = bench.batch, bench.heads * bench.dim, 32 if name == "lssl" else 16
    keys = iter(jax.random.split(jax.random.key(0), 8))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    real, none, u, s = jnp.ones((b, t), bool), jnp.zeros((b, t), bool), normal(b, t, c), jnp.zeros((b, c, n))
    if name == "lssl":
        system = lambda dt, reads: matrices(*legs_matrices(dt, n, 0.5), reads, jnp.zeros(c))
        fast = lambda u, dt, reads, s: lti(u, s, none, real, system(dt, reads))
        return Case((u, 0.005 * jax.random.exponential(next(keys), (c,)), normal(c, n), s), fast, hippo)
    made = (normal(c, n // 2), normal(c, n // 2), normal(c, n // 2), normal(c))
    made = (0.1 * jax.random.exponential(next(keys), (c, n // 2)), *made)
    fast = lambda u, s: lti(u, s, none, real, modal(*made))
    return Case((u, s), fast, loop(functools.partial(waves, made)))


def segments(name: str, bench: Bench, t: int) -> Case | None:
    """armt as a whole, by segments and token by token."""
    if name != "armt":
        return None
    mixer = Armt(bench.heads * bench.dim, heads=bench.heads)
    params, seq = param.init(mixer.decl(), jax.random.key(0)), whole(bench.batch, t)
    empty = param.zeros(mixer.state(bench.batch, t))

    def plain(x):
        def token(state, row):
            x, seq = row
            y, state, _ = mixer.step(params, x, state, seq)
            return state, y

        state, y = jax.lax.scan(token, empty, jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (x, seq)))
        return jnp.moveaxis(y, 0, 1), state

    return Case((jax.random.normal(jax.random.key(1), (bench.batch, t, mixer.width)),),
                lambda x: mixer.scan(params, x, empty, seq)[:2], plain)  # fmt: skip


def case(name: str, bench: Bench, t: int) -> Case:
    """Random inputs of the recurrence behind a mixer and its two forms; a ValueError for an unknown name."""
    for family in (filtering, invariant, segments):
        if made := family(name, bench, t):
            return made
    b, h, d = bench.batch, bench.heads, bench.dim
    keys = iter(jax.random.split(jax.random.key(0), 12))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    speeds = lambda *shape: -0.1 * jax.random.exponential(next(keys), shape)
    start = jnp.zeros((b, t), bool)
    q, k, v, s = normal(b, t, h, d) * d**-0.5, unit(normal(b, t, h, d)), normal(b, t, h, d), jnp.zeros((b, h, d, d))
    beta = jax.nn.sigmoid(normal(b, t, h))
    without = lambda kernel: lambda *inputs: kernel(*inputs, start)
    if name == "mamba2":
        return Case((q, k, v, speeds(b, t, h), s), without(ssd), loop(decayed))
    if name == "retention":
        g = jnp.broadcast_to(jnp.log1p(-(2.0 ** (-5.0 - jnp.arange(h)))), (b, t, h))
        fast = lambda q, k, v, s: ssd(q, k, v, g, s, start)
        return Case((q, k, v, s), fast, loop(lambda s, q, k, v: decayed(s, q, k, v, g[:, 0])))
    if name == "gla":
        return Case((q, k, v, speeds(b, t, h, d), s), without(gla), loop(decayed))
    if name == "delta_net":
        none = jnp.zeros((b, t, h))
        fast = lambda q, k, v, beta, s: delta_rule(q, k, v, beta, none, s, start)
        return Case((q, k, v, beta, s), fast, loop(lambda s, q, k, v, beta: delta(s, q, k, v, beta, none[:, 0])))
    if name == "gated_deltanet":
        return Case((q, k, v, beta, speeds(b, t, h), s), without(delta_rule), loop(delta))
    if name == "rwkv7":
        along = unit(normal(b, t, h, d))
        removed = along * jax.nn.sigmoid(normal(b, t, h, d))
        return Case((q, k, v, -along, removed, speeds(b, t, h, d), s), without(dplr), loop(low_rank))
    if name == "mesa_layer":
        fast = lambda q, k, v, s: mesa(q, k, v, jnp.ones(h), s, start)
        return Case((q, k, v, jnp.zeros((b, h, d, 2 * d))), fast, loop(ridge_regression))
    if name == "mamba":
        c, n = h * d, 16
        a = -jnp.broadcast_to(jnp.arange(1.0, n + 1), (c, n))
        inputs = (
            normal(b, t, c),
            0.1 * jax.random.exponential(next(keys), (b, t, c)),
            normal(b, t, n),
            normal(b, t, n),
        )
        fast = lambda x, dt, i, o, s: selective_scan(x, dt, a, i, o, s, start)
        plain = loop(lambda s, x, dt, i, o: token(s, x, dt, a, i, o, rule="zoh"))
        return Case((*inputs, jnp.zeros((b, c, n))), fast, plain)
    if name == "rglru":
        a = jnp.exp(speeds(b, t, h * d))
        return Case((a, normal(b, t, h * d), jnp.zeros((b, h * d))), without(linear_scan), loop(diagonal))
    raise ValueError(f"no recurrence is known for {name!r}; known are {Bench.mixers}")


def compiled(run: Callable, inputs: tuple[Array, ...]) -> tuple[Any, Any]:
    """The forward pass and the gradient of a sum of outputs, compiled."""
    weight = jax.random.normal(jax.random.key(1), jax.eval_shape(run, *inputs)[0].shape)
    score = lambda *args: jnp.sum(run(*args)[0] * weight)
    gradient = jax.grad(score, argnums=tuple(range(len(inputs))))
    return (jax.jit(run).lower(*inputs).compile(), jax.jit(gradient).lower(*inputs).compile())


def copy_rate(n: int = 1 << 25) -> float:
    """Bytes a second of a float32 copy in place of an update, read and written."""
    update = jax.jit(lambda a: a + 1, donate_argnums=0)
    a, took = update(jnp.zeros(n)), []
    for _ in range(5):
        begin = time.perf_counter()
        a = jax.block_until_ready(update(a))
        took.append(time.perf_counter() - begin)
    return 8 * n / min(took)


def measure(name: str, bench: Bench, t: int, peak: float, rate: float) -> dict[str, Any]:
    made = case(name, bench, t)
    fast, plain = compiled(made.fast, made.inputs), compiled(made.plain, made.inputs)
    race = lambda **calls: in_turns({n: functools.partial(f, *made.inputs) for n, f in calls.items()}, bench.turns)
    # One after the other: behind a plain gradient a forward pass finds caches and memory disturbed.
    forward, gradient = race(fast=fast[0], plain=plain[0]), race(fast=fast[1], plain=plain[1])
    score = lambda *args: jnp.sum(made.fast(*args)[0])
    flops = dot_flops(jax.grad(score, argnums=tuple(range(len(made.inputs)))), *made.inputs)
    moved = 2 * sum(a.nbytes for a in made.inputs)  # every input read, its gradient written
    temp = [c.memory_analysis().temp_size_in_bytes for c in (fast[1], plain[1])]
    ms = lambda took: 1e3 * statistics.median(took)
    s = ms(gradient["fast"]) / 1e3
    return dict(
        mixer=name, time=t, heads=bench.heads, dim=bench.dim, batch=bench.batch,
        fast_ms=ms(gradient["fast"]), plain_ms=ms(gradient["plain"]),
        fast_forward_ms=ms(forward["fast"]), plain_forward_ms=ms(forward["plain"]),
        gradient_faster=ratio(gradient["plain"], gradient["fast"]),
        forward_time=ratio(forward["fast"], forward["plain"]),
        temp_mib=[n / 2**20 for n in temp], temp_share=temp[0] / max(temp[1], 1),
        matmul_share=flops / s / peak, bandwidth_share=moved / s / rate,
    )  # fmt: skip


def main(bench: Bench) -> None:
    names, times = bench.mixers.split(","), [int(t) for t in bench.times.split(",")]
    for name in names:
        jax.eval_shape(lambda name=name: case(name, bench, 8).inputs)  # an unknown name is said before anything runs
    peak, where = peak_flops()
    peak, rate = peak * jax.local_device_count(), copy_rate()
    device = jax.devices()[0]
    print(f"{device.device_kind or device.platform}, jax {jax.__version__}, {bench.turns} turns, float32, batch "
          f"{bench.batch}, {bench.heads} heads of {bench.dim}")  # fmt: skip
    print(f"{where} {peak / 1e9:.0f} GFLOP/s, copy {rate / 1e9:.0f} GB/s")
    print(
        "mixer           time  gradient ms   plain ms       faster [95%]  forward/plain  temp MiB (share)  matmul copy"
    )
    for t in times:
        for name in names:
            row = measure(name, bench, t, peak, rate)
            faster = f"{row['gradient_faster']:.1f}"
            print(f"{name:<14}{t:>6}{row['fast_ms']:>13.1f}{row['plain_ms']:>11.1f}"
                  f"{faster:>20}{row['forward_time'].median:>15.2f}"
                  f"{row['temp_mib'][0]:>12.1f} (1/{1 / max(row['temp_share'], 1e-9):.3g})"
                  f"{row['matmul_share']:>9.0%}{row['bandwidth_share']:>6.0%}", flush=True)  # fmt: skip
            if bench.out is not None:
                bench.out.parent.mkdir(parents=True, exist_ok=True)
                with bench.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))
