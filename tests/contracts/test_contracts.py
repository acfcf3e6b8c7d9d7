"""Every promise of every method in the registries, at width 16."""

import jax
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
# of the check: 144 unless given, and more than a chunk somewhere, which is 32 tokens in gla and 128 in mamba.
VARIANTS = {
    ("token mixer", "attention"): [
        dict(heads=4, kv_heads=2, time=36),
        dict(heads=2, window=10, time=36),
        dict(heads=2, causal=False, time=36),
    ],
    ("token mixer", "armt"): [dict(heads=2, segment=4, memories=2, key=3, time=36)],
    ("token mixer", "based_attention"): [dict(heads=2, key=3, time=72)],
    ("token mixer", "cross_attention"): [dict(heads=4, kv_heads=2, time=36)],
    ("token mixer", "delta_net"): [dict(heads=2, time=72)],
    ("token mixer", "gated_deltanet"): [dict(heads=2, time=72)],
    ("token mixer", "mamba2"): [dict(head_dim=8, n=4, groups=2, time=72)],
    ("token mixer", "mesa_layer"): [dict(heads=2, time=48)],
    ("token mixer", "retention"): [dict(heads=2, time=72)],
    ("token mixer", "rwkv7"): [dict(heads=2, decay_rank=3, rate_rank=3, gate_rank=3, time=48)],
    ("token mixer", "gla"): [dict(heads=2, time=72)],
    ("token mixer", "mamba"): [dict(n=4, time=36)],
    ("token mixer", "hyper_attention"): [dict(heads=2, least=7, block=64, time=36)],  # one that has nothing to estimate
    ("token mixer", "hyena"): [dict(length=64, time=36)],
    ("token mixer", "laughing_hyena"): [dict(modes=2, time=36)],
    ("token mixer", "lmuformer"): [dict(order=6, theta=10.0, signals=3, time=72)],
    ("token mixer", "lssl"): [dict(n=6, time=36)],
    ("token mixer", "lstm"): [dict(inner=12, gate_recurrence=True, time=36)],
    ("token mixer", "mla"): [dict(heads=2, q_rank=5, time=36)],
    ("token mixer", "native_sparse_attention"): [],  # several times as much to compile
    ("token mixer", "nope_head_scale"): [dict(heads=2, start=1.3, time=36)],
    ("token mixer", "normalized_attention"): [dict(heads=4, kv_heads=2, time=36)],
    ("token mixer", "qrnn"): [dict(time=36)],
    ("token mixer", "quasi_lstm"): [dict(inner=12, time=36)],
    ("token mixer", "rglru"): [dict(heads=2, time=36)],
    ("token mixer", "sigmoid_attention"): [dict(heads=4, kv_heads=2, time=36)],
    ("token mixer", "sparse_transformer"): [dict(heads=4, stride=4, time=36)],
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
        dict(heads=4, kv_heads=1),
        dict(heads=2, window=50),
        dict(heads=4, kv_heads=2, window=7, cap=5.0, scale=0.3, head_dim=6, position=Rope(part=0.5)),
        dict(heads=2, causal=False, window=5, position=Rope(base=100.0)),
        dict(heads=4, kv_heads=2, window=5, sinks=3, sink_logit=True),
    ],
    ("token mixer", "armt"): [dict(heads=1, segment=7, memories=3, key=5, position=NoPosition(), time=48)],
    ("token mixer", "based_attention"): [dict(heads=2, value=5)],
    ("token mixer", "cross_attention"): [dict(heads=2, memory_width=10, scale=0.2)],
    ("token mixer", "delta_net"): [dict(heads=2, key=5, value=12, conv=2, beta_max=2.0)],
    ("token mixer", "gated_deltanet"): [dict(heads=2, key=5, value=12, conv=2, beta_max=2.0)],
    ("token mixer", "mamba2"): [dict(inner=24, head_dim=6, n=3, conv=2)],
    ("token mixer", "mesa_layer"): [dict(heads=2, key=5, value=6, ridge=0.5)],
    ("token mixer", "retention"): [dict(heads=2, key=6, value=5, first=2.0, position=NoPosition())],
    ("token mixer", "rwkv7"): [
        dict(),
        dict(heads=2, residual=True, decay_rank=3, rate_rank=3, value_rank=3, gate_rank=3, time=48),
    ],
    ("token mixer", "gla"): [dict(heads=2, key=5, value=12, rank=3, tau=1.0, scale=0.7)],
    ("token mixer", "mamba"): [
        dict(inner=12, n=3, conv=2, rank=3, input_rule="euler"),
        dict(conv=7, n=2, time=150),
    ],
    ("token mixer", "hyper_attention"): [dict(heads=2, causal=False, least=7, block=64, time=36)],
    ("token mixer", "hyena"): [
        dict(order=1, length=9, conv=2, form="direct", time=36),
        dict(order=3, length=100, form="fft", time=72),  # halves of 64 tokens
    ],
    ("token mixer", "laughing_hyena"): [dict(order=1, conv=2)],  # more than two chunks
    ("token mixer", "lmuformer"): [dict(hidden=10, signals=4)],
    ("token mixer", "lssl"): [dict(alpha=1.0, low=0.01, high=0.5)],  # more than two chunks
    ("token mixer", "lstm"): [dict(coupled=True, output_tanh=False, time=36)],
    ("token mixer", "mla"): [dict(heads=3, head_dim=6, rank=7, rope_dim=2, scale=0.3)],
    ("token mixer", "native_sparse_attention"): [
        # No choice beside the blocks that always are chosen, for 16 bits would choose others: see the method's own
        # tests. The window is longer than the short state of the check.
        dict(heads=4, kv_heads=2, block=4, stride=2, select=4, top=3, window=12, time=36),
    ],
    ("token mixer", "nope_head_scale"): [dict(heads=4, kv_heads=2, window=9)],
    ("token mixer", "normalized_attention"): [dict(heads=2, causal=False)],
    ("token mixer", "qrnn"): [
        dict(window=4, pool="ifo", time=36),
        dict(window=1, pool="f", time=36),
        dict(window=3),  # more than a chunk of its scan
    ],
    ("token mixer", "quasi_lstm"): [dict()],  # more than a chunk of its scan
    ("token mixer", "rglru"): [dict(inner=24, heads=3, conv=2, c=2.0)],  # more than a chunk of its scan
    ("token mixer", "sigmoid_attention"): [dict(heads=2, length=50, window=20)],
    ("token mixer", "sparse_transformer"): [
        dict(stride=16),  # with 128 no token of the check sees two that far apart: gradients of queries are rounding
        dict(heads=4, kv_heads=2, stride=5, pattern="fixed", columns=2),
    ],
}
# Token mixers whose first rows are in the quick part; those of the others take as long and are in the full suite.
QUICK = ("attention", "cross_attention", "gla", "mamba", "mamba2", "gated_deltanet", "mla")
# What other layers give, of the mixers that need it: f(key, x) as in `testing.token_mixer`.
SIDE = {"rwkv7": lambda key, x: dict(v_first=jax.random.normal(key, (*x.shape[:2], 2, WIDTH // 2)))}
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
            quick = family != "token mixer" or name in QUICK
            first, further = VARIANTS.get((family, name), [dict()]), SLOW.get((family, name), [])
            for options in (*first, *further):
                marks = [] if quick and options in first else [pytest.mark.slow]
                if quick and options in further[-1:]:  # compiled as in use: finds what optimisation breaks
                    marks.append(pytest.mark.optimised)
                said = ",".join(f"{k}={v}" for k, v in options.items())
                fields = options | (dict(width=WIDTH) if family in wide else {})
                yield pytest.param(family, name, fields, id=f"{family} {name}({said})", marks=marks)


@pytest.mark.parametrize(("family", "name", "options"), list(rows()))
def test_every_promise_is_kept(family, name, options):
    registry, check = FAMILIES[family]
    method = registry[name](**{k: options[k] for k in options if k != "time"})
    more = {k: options[k] for k in options if k == "time"}
    check(method, **more, **(dict(side=SIDE[name]) if family == "token mixer" and method.needs else {}))


def test_every_row_is_of_a_method():
    for family, name in {*VARIANTS, *SLOW}:
        assert name in FAMILIES[family][0]
