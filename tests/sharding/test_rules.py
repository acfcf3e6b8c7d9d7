"""The table of rules: it has a row for everything, and it is a value."""

import jax
import pytest

from jaxlib_ext import param
from jaxlib_ext.sharding import MESH_AXES, RULES, Rules, spec, ways

MESH = dict(data=2, fsdp=4, tensor=2)


def test_every_axis_has_a_row():
    assert [axis for axis in param.AXES if axis not in RULES] == []


def test_every_row_is_of_the_vocabulary():
    for row, axes in RULES.items():
        kind, axis = row if isinstance(row, tuple) else (None, row)
        assert axis in param.AXES and (kind is None or kind in param.KINDS)
        assert axes is None or set(axes) <= set(MESH_AXES)


def test_rules_are_a_value():
    same = Rules(dict(reversed(list(RULES.items()))))
    assert same == RULES and hash(same) == hash(RULES)
    more = RULES | {"kv_heads": None}
    assert more != RULES and more["kv_heads"] is None and RULES["kv_heads"] == ("tensor",)
    assert isinstance(more, Rules) and len(more) == len(RULES)
    with pytest.raises(TypeError):
        RULES["batch"] = None  # type: ignore

    traced = []

    @jax.jit(static_argnums=1)
    def f(x, rules):
        traced.append(rules)
        return x

    for rules in (RULES, same, more):
        f(1.0, rules)
    assert traced == [RULES, more]


def test_bad_rows():
    with pytest.raises(ValueError, match="unknown mesh axis 'tenser'; did you mean tensor?"):
        Rules({"ff": "tenser"})
    with pytest.raises(ValueError, match=r"a row is an axis or \(kind, axis\)"):
        Rules({("matrices", "ff"): None})


def test_what_the_defaults_do_to_parameters():
    decl = dict(
        table=param.embed(vocab=64, embed=8),
        q=param.matrix(dict(embed=8), dict(heads=4, head_dim=2)),
        out=param.matrix(dict(heads=4, head_dim=2), dict(embed=8)),
        up=param.stack(param.matrix(dict(embed=8), dict(gate=2, ff=16)), layers=3),
        experts=param.matrix(dict(embed=8), dict(ff=16), copies=dict(expert=4)),
        norm=param.gain(embed=8),
        ff_bias=param.bias(ff=16),
        cache=param.cache(dict(batch=8, slot=16), dict(kv_heads=2, head_dim=4)),
    )
    found = {k: tuple(v) for k, v in param.specs(decl, RULES, MESH | dict(expert=4)).items()}
    assert found == dict(
        table=("tensor", "fsdp"),
        q=("fsdp", "tensor"),
        out=("tensor", None, "fsdp"),
        up=(None, "fsdp", None, "tensor"),
        experts=("expert", "fsdp", "tensor"),
        norm=(),
        ff_bias=("tensor",),
        cache=(("data", "fsdp"), None, "tensor"),
    )


def test_the_stream_is_whole_along_embed():
    assert tuple(spec("batch time embed", (8, 4, 16), MESH, RULES)) == (("data", "fsdp"),)
    assert tuple(spec("batch time ff", (8, 4, 16), MESH, RULES)) == (("data", "fsdp"), None, "tensor")
    assert tuple(spec("batch time embed", (8, 4, 16), dict(sequence=2), RULES)) == (None, "sequence")
    assert tuple(spec("embed", (8,), MESH, RULES)) == ("fsdp",)


def test_a_row_for_a_kind_is_not_for_activations():
    rules = RULES | {("state", "batch"): None}
    assert tuple(spec("batch", (8,), MESH, rules)) == (("data", "fsdp"),)


def test_ways():
    assert (ways("batch", MESH), ways("ff", MESH), ways("head_dim", MESH)) == (8, 2, 1)
    assert ways("batch", jax.sharding.AbstractMesh((4, 2), ("fsdp", "tensor"))) == 4
    assert ways("batch", MESH, RULES | {"batch": "data"}) == 2
