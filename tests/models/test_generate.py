"""Sampling: equal to the full forward pass, inert padding, keys of one's own, stop tokens, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import whole
from jaxlib_ext.models import generate as module
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.generate import filtered, generate
from jaxlib_ext.models.token_mixers import TOKEN_MIXERS

V = 29
PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3], [8]]


def small(mixer):
    lm = build(ModelConfig(width=16, depth=2, mixer=mixer), V)
    return lm, jax.jit(lambda: param.init(lm.decl(), jax.random.key(2)))()


def mixers():
    for name in TOKEN_MIXERS:
        if name != "cross_attention":
            yield pytest.param(name, marks=() if name in ("attention", "gla", "mamba") else pytest.mark.slow)


@pytest.mark.parametrize("mixer", list(mixers()))
def test_greedy_equals_the_full_forward_pass_at_every_token(mixer):
    lm, params = small(mixer)
    new = 6
    out = generate(lm, params, PROMPTS, jax.random.key(0), new=new, temperature=0.0)
    rows = [prompt + out.tokens[row].tolist() for row, prompt in enumerate(PROMPTS)]
    longest = max(map(len, rows))
    ids = jnp.array([row + [0] * (longest - len(row)) for row in rows])  # what follows a token does not reach it
    best = jax.jit(lambda p: lm.apply(p, ids, whole(*ids.shape))[0].argmax(-1))(params)
    for row, prompt in enumerate(PROMPTS):
        assert best[row, len(prompt) - 1 : len(prompt) + new - 1].tolist() == rows[row][len(prompt) :]


@pytest.mark.slow
def test_a_result_does_not_depend_on_neighbours_or_capacity():
    lm, params = small("attention(heads=2)")
    keys = jax.random.split(jax.random.key(7), 3)
    options = dict(new=8, temperature=1.3, top_k=7, top_p=0.9)
    together = generate(lm, params, PROMPTS, keys, capacity=12, **options)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(lm, params, [prompt], keys[row : row + 1], **options)
        assert alone.tokens[0].tolist() == together.tokens[row].tolist()


@pytest.mark.slow
def test_stop_tokens_end_a_sequence_and_not_its_neighbours():
    lm, params = small("gla(heads=2)")
    free = generate(lm, params, PROMPTS, jax.random.key(1), new=10)
    stop = int(free.tokens[0, 4])
    out = generate(lm, params, PROMPTS, jax.random.key(1), new=10, stop=[stop])
    for row in range(3):
        drawn = free.tokens[row].tolist()
        n = drawn.index(stop) + 1 if stop in drawn else 10
        assert out.tokens[row].tolist() == drawn[:n] + [-1] * (10 - n) and out.count[row] == n


def test_one_compilation_serves_every_prompt_up_to_the_capacity():
    lm, params = small("mamba")
    for prompts in (PROMPTS, [[1] * 9, [2], [3, 4]]):
        generate(lm, params, prompts, jax.random.key(0), new=3, capacity=9, temperature=0.7, top_p=0.8)
        size = module._run._cache_size()
    generate(lm, params, [[5], [6], [7]], jax.random.key(9), new=3, capacity=9, temperature=0.2, top_p=0.5)
    assert module._run._cache_size() == size


def test_filters_keep_what_they_say():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    kept = lambda k, p: np.isfinite(filtered(logits, k, jnp.float32(p)))[0].tolist()
    assert kept(0, 1.0) == [True] * 4
    assert kept(2, 1.0) == [True, True, False, False]
    assert kept(0, 0.6) == [True, True, False, False]
    assert kept(0, 0.5) == [True, False, False, False]
    assert kept(3, 0.99) == [True, True, True, False]
    assert kept(0, 1e-6) == [True, False, False, False]


def test_samples_follow_the_distribution():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    keys = jax.random.split(jax.random.key(0), 20000)
    drawn = module.sample(keys, jnp.broadcast_to(logits, (20000, 3)), jnp.float32(1), 0, jnp.float32(1))
    share = np.bincount(np.asarray(drawn), minlength=3) / 20000
    assert np.abs(share - [0.5, 0.3, 0.2]).max() < 4 * 0.5 / 20000**0.5


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([[]], {}, "at least one token"),
        ([[1, 2, 3]], dict(capacity=2), "3 tokens, the capacity is 2"),
        ([[V]], {}, f"token id {V} is outside"),
        ([[1]], dict(top_p=0.0), "0 < top_p <= 1"),
    ],
)
def test_bad_prompts_say_what_is_wrong(prompts, options, said):
    lm, params = small("attention(heads=2)")
    with pytest.raises(ValueError, match=said):
        generate(lm, params, prompts, jax.random.key(0), new=2, **options)
