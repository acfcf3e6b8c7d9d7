"""Chunked form: inside a chunk a convolution with the response, between chunks the state alone, chunk after chunk.

A pad lies after its document's last token in the call, so it may decay what nobody reads; only the last state has to
end at the last real token, and is made once more from the chunk that holds that.
"""

import jax
import jax.numpy as jnp

from ..exact import einsum
from ..long_conv.xla import in_blocks, within
from .systems import System

Array = jax.Array


def chunked(u: Array, state: Array, start: Array, mask: Array, system: System) -> tuple[Array, Array]:
    (b, t, c), k = u.shape, system.response.shape[0]
    u = u.astype(jnp.float32)
    rows, starts = in_blocks(u, k), in_blocks(start, k)
    n = rows.shape[1]
    doc = jnp.cumsum(starts.reshape(b, -1).astype(jnp.int32), 1).reshape(b, n, k)
    last = doc[..., -1]
    before = jnp.pad(last[:, :-1], ((0, 0), (1, 0)))  # document open where a chunk begins; the state's is 0
    early = jnp.where((doc == last[..., None])[..., None], rows, 0.0)
    left = einsum("bnkc,kcs->bncs", early, system.push[::-1])

    def chunk(s, row):
        left, through = row
        return jnp.where(through[:, None, None], system.over(s), 0.0) + left, s

    _, s = jax.lax.scan(chunk, state, (jnp.moveaxis(left, 1, 0), (last == before).T))
    s = jnp.moveaxis(s, 0, 1)  # [B, N, C, S], before each chunk
    read = einsum("bncs,kcs->bnkc", s, system.read)
    read = jnp.where((doc == before[..., None])[..., None], read, 0.0).reshape(b, n * k, c)[:, :t]
    y = within(u, system.response, start, k) + read
    return y, _last(rows, doc, before, s, in_blocks(mask, k), state, system)


def _last(rows: Array, doc: Array, before: Array, s: Array, mask: Array, state: Array, system: System) -> Array:
    """The state after the last real token; that of before the call where there is none."""
    b, n, k = mask.shape
    end = jnp.max(jnp.where(mask.reshape(b, -1), jnp.arange(n * k)[None], -1), 1)
    at = jnp.maximum(end, 0) // k
    pick = lambda a: jax.vmap(lambda a, i: a[i])(a, at)
    rows, doc, before, s, i = pick(rows), pick(doc), pick(before), pick(s), jnp.maximum(end, 0) % k
    place = i[:, None] - jnp.arange(k)[None]  # of inputs by their distance to the last
    here = jnp.take_along_axis(doc, i[:, None], 1)
    near = (place >= 0) & (jnp.take_along_axis(doc, jnp.maximum(place, 0), 1) == here)
    late = jnp.where(near[..., None], jnp.take_along_axis(rows, jnp.maximum(place, 0)[..., None], 1), 0.0)
    made = einsum("bkc,kcs->bcs", late, system.push)
    made = made + jnp.where((here[:, 0] == before)[:, None, None], system.advance(s, i + 1), 0.0)
    return jnp.where((end >= 0)[:, None, None], made, state)
