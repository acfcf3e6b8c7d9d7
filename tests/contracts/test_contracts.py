"""Every promise of every method in the registries, at width 16."""

import pytest

from jaxlib_ext import testing
from jaxlib_ext.models.channel_mixers import CHANNEL_MIXERS
from jaxlib_ext.models.norms import NORMS, Layer, Rms
from jaxlib_ext.models.positions import POSITIONS, NoPosition, Rope
from jaxlib_ext.models.residuals import RESIDUALS
from jaxlib_ext.models.token_mixers import TOKEN_MIXERS
from jaxlib_ext.models.weights import WEIGHTS

WIDTH = 16

# Options of each method, a test for each; a method without a row is tested with its defaults. `time` is that
# of the check: 144 unless given, and more than a chunk somewhere, which is 64 tokens in gla and 256 in mamba.
VARIANTS = {
    ("token mixer", "attention"): [
        dict(heads=4, kv_heads=2, time=36),
        dict(heads=2, window=10, time=36),
        dict(heads=2, causal=False, time=36),
    ],
    ("token mixer", "cross_attention"): [dict(heads=4, kv_heads=2, time=36)],
    ("token mixer", "gla"): [dict(heads=2, time=72)],
    ("token mixer", "mamba"): [dict(n=4, time=36)],
    ("channel mixer", "glu"): [dict(), dict(act="gelu", ff=20), dict(act="sigmoid")],
    ("channel mixer", "mlp"): [
        dict(),
        dict(act="gelu", bias=True),
        dict(act="gelu_tanh", ff=20),
        dict(act="relu"),
    ],
    ("norm", "layer"): [dict(), dict(bias=False)],
    ("position", "learned"): [dict(), dict(length=12, scale=1.0)],
    ("position", "rope"): [dict(), dict(part=0.5), dict(base=100.0)],
    ("residual", "prenorm"): [dict(norm=Rms(WIDTH)), dict(norm=Layer(WIDTH), scale=0.5)],
    ("residual", "postnorm"): [dict(norm=Rms(WIDTH)), dict(norm=Layer(WIDTH), scale=2.0)],
}
# The same, of methods whose checks take seconds to compile: further ones, in the full suite only.
SLOW = {
    ("token mixer", "attention"): [
        dict(),
        dict(heads=4, kv_heads=1),
        dict(heads=2, cap=3.0),
        dict(heads=2, window=2),
        dict(heads=2, window=50),
        dict(heads=4, kv_heads=2, window=7, cap=5.0, scale=0.3, head_dim=6, position=Rope(part=0.5)),
        dict(heads=2, position=NoPosition()),
        dict(heads=2, causal=False, window=5, position=Rope(base=100.0)),
    ],
    ("token mixer", "cross_attention"): [dict(heads=2, memory_width=10, scale=0.2)],
    ("token mixer", "gla"): [dict(), dict(heads=2, key=5, value=12, rank=3, tau=1.0, scale=0.7)],
    ("token mixer", "mamba"): [
        dict(time=300),
        dict(inner=12, n=3, conv=2, rank=3, input_rule="euler"),
        dict(conv=7, n=2),
    ],
}
FAMILIES = {
    "token mixer": (TOKEN_MIXERS, testing.check_token_mixer),
    "channel mixer": (CHANNEL_MIXERS, testing.check_channel_mixer),
    "norm": (NORMS, testing.check_norm),
    "position": (POSITIONS, testing.check_position),
    "residual": (RESIDUALS, lambda method: testing.check_residual(method, WIDTH)),
    "weights": (WEIGHTS, testing.check_weights),
}


def rows():
    wide = ("token mixer", "channel mixer", "norm")
    for family, (registry, _) in FAMILIES.items():
        for name in registry:
            for table, marks in ((VARIANTS, ()), (SLOW, pytest.mark.slow)):
                for options in table.get((family, name), [dict()] if table is VARIANTS else []):
                    said = ",".join(f"{k}={v}" for k, v in options.items())
                    fields = options | (dict(width=WIDTH) if family in wide else {})
                    yield pytest.param(family, name, fields, id=f"{family} {name}({said})", marks=marks)


@pytest.mark.parametrize(("family", "name", "options"), list(rows()))
def test_every_promise_is_kept(family, name, options):
    registry, check = FAMILIES[family]
    time = {k: options[k] for k in options if k == "time"}
    check(registry[name](**{k: options[k] for k in options if k != "time"}), **time)


def test_every_row_is_of_a_method():
    for family, name in {*VARIANTS, *SLOW}:
        assert name in FAMILIES[family][0]
