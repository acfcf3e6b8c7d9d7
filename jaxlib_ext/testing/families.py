"""The contracts of the families without time: channel mixers, norms, positions, residual schemes, weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import param
from ..contracts import along, from_starts, whole
from .flops import dot_flops
from .verdict import TOLERANCE, Result, apart, draw, same_structure, to_results
from .wrapped import OPERATORS, cut, with_operators

Array = jax.Array
Tree = Any
B, T = 2, 8


def _yes(name: str, ok: Any, detail: str = "") -> Result:
    return Result(name, 0.0 if ok else np.inf, 0.0, detail)


def _keys(n: int):
    return iter(jax.random.split(jax.random.key(0), n))


def _pointwise(apply, params: Tree, x: Array, seq) -> dict[str, Array]:
    """apply on [B, T, D] against apply on each token [B, D], and with junk at pads; for channel mixers and norms."""
    y = apply(params, x, seq)
    steps = jnp.stack([apply(params, x[:, t], seq.at(t)) for t in range(T)], 1)
    real = seq.mask[..., None]
    dirty = apply(params, jnp.where(real, x, 1e3), seq)
    g = jax.grad(lambda x: jnp.sum(jnp.where(real, apply(params, x, seq), 0) ** 2))(jnp.where(real, x, 1e3))
    return {
        "all tokens at once equal one by one": apart(steps, y),
        "pads are inert": apart(jnp.where(real, dirty, 0), jnp.where(real, y, 0)),
        "no gradient reaches pads": jnp.max(jnp.abs(jnp.where(real, 0, g))),
        "the gradient is finite": jnp.where(jnp.isfinite(g).all(), 0.0, jnp.inf),
    }


EXACT = ("no gradient reaches pads", "the gradient is finite")


def _seq():
    mask = np.ones((B, T), bool)
    mask[0, 5:], mask[1, :2] = False, False
    start = np.zeros((B, T), bool)
    start[0, 0] = start[1, 2] = start[1, 6] = True
    return from_starts(start, mask)


def _dtype(apply, decl: Tree, params: Tree, x: Array, seq) -> list[Result]:
    low = jax.jit(apply)(param.cast(decl, params, jnp.bfloat16), x.astype(jnp.bfloat16), seq)
    if low.dtype != jnp.bfloat16:
        return [_yes("bfloat16 stays bfloat16", False, f"y is {low.dtype}")]
    return [Result("bfloat16", float(apart(low, jax.jit(apply)(params, x, seq))), TOLERANCE["bfloat16"])]


def channel_mixer(mixer, *, seed: int = 0) -> list[Result]:
    """Runs every promise of `contracts.ChannelMixer` and returns the results."""
    keys, decl, seq = iter(jax.random.split(jax.random.key(seed), 4)), mixer.decl(), _seq()
    param.check(decl)
    params, x = draw(decl, next(keys)), jax.random.normal(next(keys), (B, T, mixer.width))
    apply = lambda params, x, seq: mixer.apply(params, x, seq)[0]

    run, notes = lambda params: apply(params, x, seq), {}

    def bundle():
        errors = _pointwise(apply, params, x, seq) if mixer.pointwise else {}
        return errors | {OPERATORS: with_operators(run, decl, params, run(params), notes)}

    results = to_results(jax.jit(bundle)(), TOLERANCE["float32"], EXACT, notes)
    results += _dtype(apply, decl, params, x, seq)
    results.append(_yes("the output has the input's shape", apply(params, x, seq).shape == x.shape))
    counted = dot_flops(lambda x: apply(params, x, seq), x)
    stated = B * T * 2 * param.matmul_size(decl) + mixer.cost(B * T).flops
    results.append(Result("cost explains the contractions", abs(counted / max(stated, 1) - 1), 1e-9))
    sizes = {name: n for p in param.leaves(decl) for name, n in p.dims}
    for axis, grain in mixer.free.items() if hasattr(mixer, "free") else ():
        keep = (sizes[axis] // 2 + grain - 1) // grain * grain
        sliced, masked = (apply(cut(decl, params, axis, keep, m), x, seq) for m in (False, True))
        results.append(Result(f"{axis} may be sliced", float(apart(sliced, masked)), TOLERANCE["float32"]))
    return results


def norm(method) -> list[Result]:
    """Runs every promise of `contracts.Norm` and returns the results."""
    keys, decl, seq = _keys(2), method.decl(), _seq()
    params, x = draw(decl, next(keys)), 3 * jax.random.normal(next(keys), (B, T, method.width)) + 1
    apply = lambda params, x, seq: method.apply(params, x, seq)[0]
    results = to_results(jax.jit(lambda: _pointwise(apply, params, x, seq))(), TOLERANCE["float32"], EXACT)
    plain = apply(param.init(decl, next(_keys(1))), x, seq)
    size = jnp.sqrt(jnp.mean(plain**2, -1))
    zero = apply(params, jnp.zeros_like(x), seq)
    return results + _dtype(apply, decl, params, x, seq) + [
        Result("the output starts with unit size", float(jnp.max(jnp.abs(size - 1))), 1e-4),
        _yes("zeros stay finite", jnp.isfinite(zero).all()),
    ]  # fmt: skip


def position(method, *, heads: int = 2, head_dim: int = 8) -> list[Result]:
    """Runs every promise of `contracts.Position` and returns the results."""
    keys = _keys(4)
    p = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
    q, k = (jax.random.normal(next(keys), (B, T, heads, head_dim)) for _ in "qk")
    width = heads * head_dim
    params, x = draw(method.decl(width), next(keys)), jax.random.normal(next(keys), (B, T, width))

    def logits(shift):
        rotated = (method.rotate(v, p + shift) for v in (q, k))
        bias = method.bias(p + shift, p + shift, heads)
        scores = jnp.einsum("bthk,bshk->bhts", *rotated)
        return scores if bias is None else scores + bias

    moved = apart(logits(3), logits(0))
    embedded = apart(method.embed(params, x, p), x)
    size = lambda v: jnp.linalg.norm(v, axis=-1)
    results = [
        Result("logits do not change when all positions shift", float(moved), TOLERANCE["float32"]),
        Result("rotation keeps lengths", float(apart(size(method.rotate(q, p)), size(q))), TOLERANCE["float32"]),
        _yes("dtype is kept", method.rotate(q.astype(jnp.bfloat16), p).dtype == jnp.bfloat16),
    ]
    if method.absolute:
        moved_x = apart(method.embed(params, x, p[:, ::-1]), method.embed(params, x, p))
        results.append(_yes("an absolute scheme marks the stream", embedded > 0 and moved_x > 0))
    else:
        results.append(_yes("a relative scheme leaves the stream alone", embedded == 0 and not method.decl(width)))
    return results


def residual(method, width: int) -> list[Result]:
    """Runs every promise of `contracts.Residual` and returns the results."""
    sites = 4
    keys = _keys(4)
    decl, seq = method.decl(sites), whole(B, T)
    stacked = draw(param.stack(decl["site"], layers=sites), next(keys))
    ends = draw(decl["ends"], next(keys))
    x, w = (jax.random.normal(next(keys), s) for s in ((B, T, width), (sites, width)))
    pick = lambda i: jax.tree.map(lambda a: a[i], stacked)
    mix = lambda h, w: jnp.sin(h * along(w.astype(h.dtype), h))

    def site(z, i, p, w, seq):
        return method.write(p, z, mix(method.read(p, z, i, seq), w), i, seq)

    def unrolled(x, seq, n=sites):
        z = method.open(ends, x, seq)
        for i in range(n):
            z = site(z, i, pick(i), w[i], seq)
        return method.close(ends, z, seq)

    def scanned(x, w=w):
        z = method.open(ends, x, seq)
        body = lambda z, a: (site(z, a[0], a[1], a[2], seq), None)
        z, _ = jax.lax.scan(body, z, (jnp.arange(sites), stacked, w))
        return method.close(ends, z, seq)

    def bundle():
        y = unrolled(x, seq)
        steps = jnp.stack([unrolled(x[:, t], seq.at(t)) for t in range(T)], 1)
        live = jax.grad(lambda w: jnp.sum(scanned(x, w) ** 2))(w)
        return {
            "a scan over depth equals the unrolled sites": apart(scanned(x), y),
            "all tokens at once equal one by one": apart(steps, y),
            "every site is live": jnp.where((jnp.abs(live) > 0).any(-1).all(), 0.0, jnp.inf),
            "depth 1 works": jnp.where(jnp.isfinite(unrolled(x, seq, 1)).all(), 0.0, jnp.inf),
        }

    said = same_structure(
        jax.eval_shape(lambda: site(method.open(ends, x, seq), 0, pick(0), w[0], seq)),
        jax.eval_shape(lambda: method.open(ends, x, seq)),
    )
    first = _yes("the stream keeps its structure", not said, said)
    if said:
        return [first]  # the other checks run site after site, and would end in a type error
    results = to_results(jax.jit(bundle)(), TOLERANCE["float32"], ("every site is live", "depth 1 works"))
    low = jax.eval_shape(lambda: unrolled(x.astype(jnp.bfloat16), seq))
    return [first, *results, _yes("bfloat16 stays bfloat16", low.dtype == jnp.bfloat16, f"y is {low.dtype}")]


def weights(method, *, n: int = 3) -> list[Result]:
    """Runs every promise of `contracts.Weights` and returns the results."""
    unit = dict(up=param.matrix(dict(embed=4), dict(ff=6)), norm=param.gain(embed=4))
    decl = method.decl(unit, n)
    param.check(decl)
    stored = draw(decl, next(_keys(1)))
    layer = lambda stored, i: method.unit(stored["shared"], jax.tree.map(lambda a: a[i], stored["layers"]))
    one = layer(stored, 0)
    said = same_structure(jax.eval_shape(lambda: one), param.abstract(unit))
    first = _yes("a depth sees the unit's own tree", not said, said)
    if said:
        return [first]
    alike = jax.tree.map(lambda v: jnp.stack([v] * n), one)
    again = method.write(unit, n, alike)
    used = sum(p.uses * p.size for p in param.leaves(decl) if p.kind == "matrix")
    return [
        first,
        _yes("what is written has the declared structure", not same_structure(again, param.abstract(decl))),
        Result("what is written is read again", float(apart(layer(again, n - 1), one)), TOLERANCE["float32"]),
        _yes("uses count every pass", used == n * 24, f"{used} of {n * 24}"),
    ]
