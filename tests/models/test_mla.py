"""Latent attention: absorbed and expanded are one function, full rank is multi-head attention, the cache is small."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import whole
from jaxlib_ext.models.positions import Rope
from jaxlib_ext.models.token_mixers import Attention, Mla, _slots
from jaxlib_ext.testing.verdict import apart, draw
from jaxlib_ext.testing.wrapped import wrap

GOLDEN = Path(__file__).parents[1] / "golden" / "mla.npz"
B, T, D = 2, 9, 12


def run(mixer, params, x):
    return jax.jit(lambda p, x: mixer.scan(p, x, param.zeros(mixer.state(len(x), 0)), whole(*x.shape[:2]))[0])(
        params, x
    )


@pytest.mark.slow
@pytest.mark.parametrize("operators", [False, True])
def test_absorbed_equals_expanded_in_values_and_gradients(operators):
    mixer = Mla(D, heads=3, head_dim=4, rank=5, q_rank=7)
    params = draw(mixer.decl(), jax.random.key(0))
    x, seq = jax.random.normal(jax.random.key(1), (B, T, D)), whole(B, T)
    at = _slots.neighbours(seq)

    def both(params, x):
        p = wrap(mixer.decl(), params) if operators else params
        given = mixer._queries(p, x, seq.position), mixer._new(p, x, seq.position), at, at, (seq.position, seq.position)
        return mixer.absorbed(p, *given), mixer.expanded(p, *given)

    score = lambda i: lambda params, x: jnp.sum(jnp.sin(both(params, x)[i]))
    gradients = [jax.jit(jax.grad(score(i), argnums=(0, 1)))(params, x) for i in range(2)]
    assert apart(*jax.jit(both)(params, x)) < 1e-5 and apart(*gradients) < 1e-5


def test_full_rank_is_multi_head_attention_whose_rotated_keys_are_shared():
    """rank = D, an identity for the way down, and inputs that its norm leaves alone: keys are [W_R x, W_K,h x]."""
    mixer = Mla(D, heads=3, head_dim=4, rank=D, rope_dim=2, eps=1e-12)
    params = draw(mixer.decl(), jax.random.key(0)) | dict(down=jnp.eye(D), norm=jnp.ones(D))
    x = jax.random.normal(jax.random.key(1), (B, T, D))
    x = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True))
    plain = Attention(D, heads=3, head_dim=6, scale=6**-0.5, position=Rope(part=2 / 6))
    rope = jnp.broadcast_to(params["k_rope"][:, None], (D, 3, 2))
    pad = lambda a: jnp.pad(a, ((0, 0), (0, 0), (0, 2)))  # values have two channels less than keys: zeros
    same = dict(
        q=jnp.concatenate([params["q_rope"], params["q"]], -1)[:, :, None],
        k=jnp.concatenate([rope, params["k"]], -1), v=pad(params["v"]),
        out=jnp.pad(params["out"], ((0, 0), (0, 2), (0, 0)))[:, None],
    )  # fmt: skip
    assert apart(run(mixer, params, x), run(plain, same, x)) < 1e-5


def test_the_cache_is_the_latent_vector_and_the_rotated_key_of_a_token():
    mixer = Mla(128, heads=4, rank=20, rope_dim=6)
    held = mixer.state(1, 10)
    assert param.size(dict(latent=held["latent"], rope=held["rope"])) == 10 * (20 + 6)
    assert set(held) - {"latent", "rope"} == {"position", "count"}  # of integers, one a slot and one a sequence
    multi_head = Attention(128, heads=4).state(1, 10)
    assert param.nbytes(held, "cache") * 256 == param.nbytes(multi_head, "cache") * 26


def test_it_equals_the_module_of_transformers():
    kept = np.load(GOLDEN)
    w = {name.removesuffix(".weight"): jnp.asarray(kept[name]).T for name in kept.files if name.endswith("weight")}
    heads, nope, rope, rank = 2, 6, 4, 5
    split = lambda a, n: jnp.split(a.reshape(len(a), heads, -1), [n], -1)
    halves = lambda a: jnp.concatenate([a[..., 0::2], a[..., 1::2]], -1)  # pairs (2i, 2i + 1) become (i, i + R/2)
    q, q_rope = split(w["q_b_proj"], nope)
    k, v = split(w["kv_b_proj"], nope)
    down, k_rope = jnp.split(w["kv_a_proj_with_mqa"], [rank], 1)
    params = dict(
        q_down=w["q_a_proj"], q_norm=w["q_a_layernorm"], q=q, q_rope=halves(q_rope), down=down,
        norm=w["kv_a_layernorm"], k_rope=halves(k_rope), k=k, v=v, out=w["o_proj"].reshape(heads, nope, -1),
    )  # fmt: skip
    x, y = (jnp.asarray(kept[name], jnp.float32) for name in "xy")
    mixer = Mla(x.shape[-1], heads=heads, head_dim=nope, rank=rank, rope_dim=rope, q_rank=7)
    assert apart(run(mixer, params, x), y) < 1e-5
    state, rows, step = param.zeros(mixer.state(len(x), x.shape[1])), [], jax.jit(mixer.step)
    for t in range(x.shape[1]):
        row, state, _ = step(params, x[:, t], state, whole(*x.shape[:2]).at(t))
        rows.append(row)
    assert apart(jnp.stack(rows, 1), y) < 1e-5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(heads=5), "heads=5 does not divide width=12; give head_dim"),
        (dict(rope_dim=3), "rope_dim must be even, not 3"),
        (dict(rank=0), "rank must be at least 1, not 0"),
        (dict(q_rank=-1), "q_rank must be at least 1, not -1"),
    ],
)
def test_bad_options_say_what_is_wrong(options, said):
    with pytest.raises(ValueError, match=f"^mla: {said}$"):
        Mla(D, **options)
