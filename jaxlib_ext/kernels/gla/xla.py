"""Chunked form: within a chunk by halves, between chunks by a scan over states.

For a block cut in two, a query i in the second half meets a key j in the first through
    exp(decay from the cut to i) exp(decay from j to the cut),
two exponents that are never positive. Halving down to blocks of BASE tokens, where pairs are taken one by one, covers
every pair once; prefix and suffix sums of a block come from those of its halves, so nothing cancels.
"""

import functools

import jax
import jax.numpy as jnp

from ...contracts import along

Array = jax.Array
CHUNK, BASE = 64, 8


def _base(q: Array, k: Array, v: Array, g: Array, doc: Array) -> tuple[Array, Array, Array]:
    """Pairs inside blocks of BASE tokens. q, k, g [..., BASE, K], v [..., BASE, V], doc [..., BASE]."""
    prefix = jnp.cumsum(g, -2)
    m = q.shape[-2]
    seen = doc[..., :, None] == doc[..., None, :]
    seen = seen & along(jnp.tril(jnp.ones((m, m), bool)), seen)
    apart = jnp.where(seen[..., None], prefix[..., :, None, :] - prefix[..., None, :, :], 0.0)
    scores = jnp.where(seen, jnp.sum(q[..., :, None, :] * k[..., None, :, :] * jnp.exp(apart), -1), 0.0)
    return scores @ v, prefix, prefix[..., -1:, :] - prefix


def _within(q: Array, k: Array, v: Array, g: Array, doc: Array) -> tuple[Array, Array, Array]:
    """All pairs inside chunks [..., C, .]: y, the inclusive prefix and the exclusive suffix sums of g."""
    c = q.shape[-2]
    blocks = lambda a, m: a.reshape(*a.shape[:-2], -1, m, a.shape[-1])
    of = lambda a, m: a.reshape(*a.shape[:-1], -1, m)
    y, prefix, suffix = _base(blocks(q, BASE), blocks(k, BASE), blocks(v, BASE), blocks(g, BASE), of(doc, BASE))
    m = BASE
    while m < c:
        halves = lambda a, m=m: a.reshape(*a.shape[:-3], -1, 2, m, a.shape[-1])
        q2, k1, v1 = (
            halves(blocks(q, m))[..., 1, :, :],
            halves(blocks(k, m))[..., 0, :, :],
            halves(blocks(v, m))[..., 0, :, :],
        )
        p, s, d = halves(prefix), halves(suffix), of(doc, m)
        d = d.reshape(*d.shape[:-2], -1, 2, m)
        total = p[..., -1:, :]  # of each half
        late, early = q2 * jnp.exp(p[..., 1, :, :]), k1 * jnp.exp(s[..., 0, :, :])
        scores = jnp.einsum("...ik,...jk->...ij", late, early)
        scores = jnp.where(d[..., 1, :, None] == d[..., 0, None, :], scores, 0.0)
        add = jnp.stack([jnp.zeros_like(v1), scores @ v1], -3)
        y = (halves(y) + add).reshape(*y.shape[:-3], -1, 2 * m, y.shape[-1])
        prefix = jnp.stack([p[..., 0, :, :], p[..., 1, :, :] + total[..., 0, :, :]], -3).reshape(*y.shape[:-1], -1)
        suffix = jnp.stack([s[..., 0, :, :] + total[..., 1, :, :], s[..., 1, :, :]], -3).reshape(*y.shape[:-1], -1)
        m *= 2
    return y[..., 0, :, :], prefix[..., 0, :, :], suffix[..., 0, :, :]


@functools.partial(jax.checkpoint, prevent_cse=False)
def _chunks(q: Array, k: Array, v: Array, g: Array, doc: Array) -> tuple[Array, Array, Array, Array]:
    """What each chunk does on its own: y, the state it adds, the decay of what came before, queries to what came."""
    y, prefix, suffix = _within(q, k, v, g, doc)
    last = doc[..., -1:]
    open_ = (doc == last)[..., None]
    added = jnp.einsum("...ck,...cv->...kv", jnp.where(open_, k * jnp.exp(suffix), 0.0), v)
    decay = jnp.where(last == 0, jnp.exp(prefix[..., -1, :]), 0.0)
    back = jnp.where((doc == 0)[..., None], q * jnp.exp(prefix), 0.0)
    return y, added, decay, back


def chunked(q: Array, k: Array, v: Array, g: Array, state: Array, start: Array) -> tuple[Array, Array]:
    b, t, h, _ = q.shape
    n = -(-t // CHUNK)

    def cut(a):  # [B, T, H, .] -> [n, B, H, CHUNK, .]; added tokens have k = 0 and g = 0
        a = jnp.pad(a, ((0, 0), (0, n * CHUNK - t), (0, 0), (0, 0))).reshape(b, n, CHUNK, h, a.shape[-1])
        return a.transpose(1, 0, 3, 2, 4)

    starts = jnp.pad(start, ((0, 0), (0, n * CHUNK - t))).reshape(b, n, CHUNK)
    doc = jnp.cumsum(starts.astype(jnp.int32), -1).transpose(1, 0, 2)[:, :, None]  # [n, B, 1, CHUNK], 0 = came before
    doc = jnp.broadcast_to(doc, (n, b, h, CHUNK))
    g = jnp.where(start[:, :, None, None], 0.0, g)  # what a start forgets is said by doc
    y, added, decay, back = _chunks(cut(q), cut(k), cut(v), cut(g), doc)

    def carry(s, x):
        decay, added = x
        return s * decay[..., None] + added, s

    state, before = jax.lax.scan(carry, state, (decay, added))
    y = y + back @ before
    return y.transpose(1, 0, 3, 2, 4).reshape(b, n * CHUNK, h, -1)[:, :t], state
