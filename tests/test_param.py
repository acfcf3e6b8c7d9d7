"""The declaration: vocabularies, folds, and errors that name the path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param


def layer():
    return dict(
        q=param.matrix(dict(embed=4), dict(heads=2, head_dim=3)),
        norm=param.gain(embed=4),
        run=param.buffer(embed=4),
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: param.Param("weight"), "unknown kind 'weight'"),
        (lambda: param.gain(embd=4), "unknown axis 'embd'"),
        (lambda: param.matrix(dict(embed=4), dict(embed=4)), "an axis is named twice"),
        (lambda: param.gain(embed=2.5), "whole number"),
        (lambda: param.gain(embed=4, init="one"), "not 'one'"),
        (lambda: param.size(layer(), "weights"), "unknown kind 'weights'"),
        (lambda: param.check({"a/b": param.gain(embed=1), "a": {"b": param.gain(embed=1)}}), "have the path 'a/b'"),
        (lambda: param.specs(layer(), {"embed": "fsdp"}, {"fsdp": 2}), "q: .* no row for axis 'heads'"),
        (
            lambda: param.specs(dict(g=param.gain(embed=6)), {"embed": "fsdp"}, {"fsdp": 4}),
            "g: axis embed=6 does not divide over fsdp=4",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_one_line(make, said):
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)


def test_two_paths_with_one_hash_raise():
    # zlib.crc32 of both words is 0x4ddb0c25
    with pytest.raises(ValueError, match="'plumless' and 'buckeroo'|'buckeroo' and 'plumless'"):
        param.check(dict(plumless=param.gain(embed=1), buckeroo=param.gain(embed=1)))


def test_extra_axes_are_allowed_by_name():
    assert param.gain(lane=3, extra_axes=("lane",)).axes == ("lane",)


@pytest.mark.slow
def test_adding_a_leaf_moves_no_other_and_depth_is_a_prefix():
    key = jax.random.key(0)
    small, more = param.init(layer(), key), param.init(layer() | dict(a=param.matrix(dict(embed=4), dict(ff=2))), key)
    np.testing.assert_array_equal(small["q"], more["q"])
    two, five = (param.init(param.stack(layer(), layers=n), key)["q"] for n in (2, 5))
    np.testing.assert_array_equal(two, five[:2])
    assert (five[0] != five[1]).any()


def test_an_init_callable_sees_one_copy():
    seen = []

    def init(key, shape, dtype):
        seen.append(shape)
        return jnp.zeros(shape, dtype)

    value = param.init(param.stack(dict(d=param.decay(state=3, init=init)), layers=4), jax.random.key(0))
    assert set(seen) == {(3,)} and value["d"].shape == (4, 3)


def test_abstract_shapes_bytes_and_specs_follow_init():
    decl = param.stack(layer(), layers=3)
    values = param.init(decl, jax.random.key(0))
    same = jax.tree.map(lambda a, v: (a.shape, a.dtype) == (v.shape, v.dtype), param.abstract(decl), values)
    assert all(jax.tree.leaves(same))
    assert param.nbytes(decl) == sum(v.nbytes for v in jax.tree.leaves(values))
    rules = {"layers": None, "embed": "fsdp", "heads": "tensor", "head_dim": None, ("gain", "embed"): None}
    specs = param.specs(decl, rules, dict(fsdp=2, tensor=2))
    assert tuple(specs["q"]) == (None, "fsdp", "tensor") and tuple(specs["norm"]) == ()


def test_a_buffer_is_neither_trained_nor_decayed():
    values = param.init(layer(), jax.random.key(0))
    trained, rest = param.split(layer(), values)
    assert trained["run"] is None and rest["q"] is None and rest["run"] is not None
    assert jax.tree.structure(param.decayed(layer())) == jax.tree.structure(trained)
    assert param.decayed(layer()) == dict(q=True, norm=False, run=None)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a is b, param.join(trained, rest), values)))


def test_blocks_never_cross_copies():
    decl = param.stack(layer() | dict(e=param.embed(vocab=5, embed=4)), layers=3)
    assert param.blocks(decl) == dict(q=(1,), norm=(1,), run=(1,), e=(2,))
    assert param.blocks(decl, "head")["q"] == (1, 3)


def test_a_quantised_declaration_reads_back():
    decl = param.stack(layer(), layers=2)
    stored = param.init(param.quantised(decl), jax.random.key(0))
    assert stored["q"]["q"].dtype == jnp.int8 and stored["q"]["scale"].shape == (2, 2, 3)
    assert param.nbytes(param.quantised(decl)) == 2 * (24 + 6 * 4 + 2 * 4 * 4)
    stored["q"] = dict(q=jnp.full((2, 4, 2, 3), 3, jnp.int8), scale=jnp.full((2, 2, 3), 0.5))
    assert (param.dequantise(decl, stored)["q"] == 1.5).all()


def test_the_cast_goes_by_kind():
    low = param.cast(layer(), param.init(layer(), jax.random.key(0)), jnp.bfloat16)
    assert [low[n].dtype for n in ("q", "norm", "run")] == [jnp.bfloat16, jnp.float32, jnp.float32]
