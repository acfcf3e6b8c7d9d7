"""Options that cannot be are refused by the constructors of all mixers, in one line that names them."""

import dataclasses
import math
import typing

import pytest

from jaxlib_ext.models.channel_mixers import CHANNEL_MIXERS
from jaxlib_ext.models.token_mixers import TOKEN_MIXERS, GatedDeltaNet, Gla, Mamba, Mamba2, Rwkv7

FREE = {  # numbers with no least value, and sizes of which there may be none
    "forget", "sinks", "columns", "a_low",
}  # fmt: skip
WRONG = {int: (0, -1, 2.5, math.inf), float: (0.0, -1.0, math.nan, math.inf)}


def options(mixer: type) -> list[tuple[str, type]]:
    """Numbers among the options, with their types."""
    hints = typing.get_type_hints(mixer)
    kinds = {f.name: (typing.get_args(hints[f.name]) or (hints[f.name],))[0] for f in dataclasses.fields(mixer)}
    return [(name, kind) for name, kind in kinds.items() if kind in WRONG and name not in FREE]


@pytest.mark.parametrize("name", [*TOKEN_MIXERS, *CHANNEL_MIXERS])
def test_a_number_that_cannot_be_is_refused_by_its_name(name):
    mixer = (TOKEN_MIXERS | CHANNEL_MIXERS)[name]
    assert options(mixer)
    for option, kind in options(mixer):
        for value in WRONG[kind]:
            with pytest.raises(ValueError) as error:
                mixer(**(dict(width=64) | {option: value}))
                pytest.fail(f"{name} takes {option}={value}")
            said = str(error.value)
            assert option in said and str(value) in said and "\n" not in said, said


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gla(16, heads=3, key=5), "gla: heads=3 makes 3 parts of width=16; give value"),
        (lambda: Gla(16, heads=3, value=5), "gla: heads=3 makes 6 parts of width=16; give key"),
        (lambda: Mamba(16, dt_low=0.2), "mamba: dt_low=0.2 is above dt_high=0.1"),
        (lambda: Mamba2(16, a_high=0.5), "mamba2: a_high must be at least 1, not 0.5"),
        (
            lambda: GatedDeltaNet(16, a_low=20.0),
            "gated_deltanet: needs 0 <= a_low < a_high, not a_low=20.0, a_high=16.0",
        ),
        (lambda: Rwkv7(16, value_rank=4), "rwkv7: value_rank=4 needs residual=True"),
        (lambda: Mamba2(2.5), "mamba2: width must be a whole number, not 2.5"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(make, said):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == said
