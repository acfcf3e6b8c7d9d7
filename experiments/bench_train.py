"""Speed of a training step: share of the matmul peak, and against an equivalent plain flax.linen + optax step.

    python experiments/bench_train.py
    python experiments/bench_train.py --mixer "attention(heads=4)" --channel mlp      # head size 128, ReLU^2

Both steps and a float32 matrix product (n = 2048) take turns in one process, so a drift of the machine hits all
alike. Counted FLOPs: 6 x matmul parameters x tokens + causal attention. Prints medians with 95% intervals (bootstrap of
pairs).
"""

import dataclasses
import statistics

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro
from _turns import in_turns, median_of, ratio

from jaxlib_ext import param
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.training import losses
from jaxlib_ext.training.step import make_step


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured."""

    width: int = 512
    depth: int = 8
    time: int = 512
    batch: int = 4
    mixer: str = "attention"
    channel: str = "glu"
    pairs: int = 12
    """Alternations of ours, the linen step and the matrix product."""
    n: int = 2048


class LinenBlock(nn.Module):
    """A pre-norm block as one writes it by hand: RMS norms, rotary causal attention, SwiGLU or ReLU^2."""

    heads: int
    ff: int
    gated: bool

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        dense = lambda features: nn.Dense(features, use_bias=False)
        h = nn.RMSNorm()(x)
        q, k, v = (dense(width)(h).reshape(*h.shape[:2], self.heads, -1) for _ in "qkv")
        y = jax.nn.dot_product_attention(rotary(q), rotary(k), v, is_causal=True)
        x = x + dense(width)(y.reshape(x.shape))
        h = nn.RMSNorm()(x)
        up = dense(self.ff)(h)
        up = nn.silu(up) * dense(self.ff)(h) if self.gated else jnp.square(nn.relu(up))
        return x + dense(width)(up)


def rotary(x):
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * 10000.0 ** (-jnp.arange(half)[None] / half)
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


class Linen(nn.Module):
    """The plain language model."""

    vocab: int
    width: int
    depth: int
    heads: int
    ff: int
    gated: bool

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocab, self.width)(tokens)
        for _ in range(self.depth):
            x = LinenBlock(self.heads, self.ff, self.gated)(x)
        return nn.Dense(self.vocab, use_bias=False)(nn.RMSNorm()(x))


def linen_step(bench: Bench, model, batch):
    """(step, state) of the plain step: jitted, donated."""
    block = model.unit[0]
    heads, ff, gated = block.token.query_heads, block.channel.hidden, bench.channel.startswith("glu")
    net = Linen(model.vocab, bench.width, bench.depth, heads, ff, gated)
    tx = optax.adamw(1e-3)
    params = net.init(jax.random.key(0), batch["tokens"])

    def loss(params):
        logits = net.apply(params, batch["tokens"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"]).mean()

    def update(state, batch):
        params, opt = state
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), value

    return jax.jit(update, donate_argnums=0), (params, tx.init(params))


def stepping(step, state, batch):
    """A call that makes one more step."""

    def call():
        nonlocal state
        state, out = step(state, batch)
        return out

    return call


def main(bench: Bench) -> None:
    model = build(ModelConfig(width=bench.width, depth=bench.depth, mixer=bench.mixer, channel=bench.channel), 256)
    ids = jax.random.randint(jax.random.key(1), (bench.batch, bench.time + 1), 0, 256)
    batch = dict(tokens=ids[:, :-1], targets=ids[:, 1:])
    step = make_step(model, optax.adamw(1e-3), losses.next_token)
    matrix = jax.random.normal(jax.random.key(2), (bench.n, bench.n))
    multiply = jax.jit(jnp.matmul)
    took = in_turns(
        dict(
            ours=stepping(step, step.init(jax.random.key(0)), batch),
            linen=stepping(*linen_step(bench, model, batch), batch),
            matmuls=lambda: [multiply(matrix, matrix) for _ in range(4)],
        ),
        bench.pairs,
    )

    tokens = bench.batch * bench.time
    flops = 3 * model.cost(tokens, (bench.time + 1) / 2).flops
    peak = [2 * bench.n**3 * 4 / s for s in took["matmuls"]]
    share = median_of(flops / s / p for s, p in zip(took["ours"], peak, strict=True))
    ours = statistics.median(took["ours"])
    device = jax.devices()[0]
    print(
        f"{device.device_kind or device.platform}, jax {jax.__version__}, measured on this machine, {bench.pairs} turns"
    )
    print(f"{bench.mixer} + {bench.channel}, width {bench.width}, depth {bench.depth}, {bench.batch} x {bench.time} "
          f"tokens, {param.size(model.decl()):,} parameters, {flops / 1e9:.0f} GFLOP a step")  # fmt: skip
    print(f"float32 matmul n={bench.n}: {statistics.median(peak) / 1e9:.0f} GFLOP/s")
    print(f"ours {ours:.3f} s, {tokens / ours:.0f} tokens/s: {share:.1%} of the matmul peak")
    print(f"flax.linen + optax {statistics.median(took['linen']):.3f} s; its time over ours "
          f"{ratio(took['linen'], took['ours']):.3f}")  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))
