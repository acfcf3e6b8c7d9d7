"""The contract checks, public: run them on a method of your own and get the verdict that ours get.

from jaxlib_ext import testing
testing.check_token_mixer(MyMixer(width=16))       # raises an AssertionError that lists every broken promise
for result in testing.token_mixer(MyMixer(width=16)): print(result)
"""

from .families import channel_mixer, norm, position, residual, weights
from .flops import dot_flops
from .mixers import token_mixer
from .rules import rule
from .verdict import Result, check

__all__ = [
    "Result",
    "channel_mixer",
    "check",
    "check_channel_mixer",
    "check_norm",
    "check_position",
    "check_residual",
    "check_rule",
    "check_token_mixer",
    "check_weights",
    "dot_flops",
    "norm",
    "position",
    "residual",
    "rule",
    "token_mixer",
    "weights",
]


def check_token_mixer(mixer, **options) -> None:
    """Raises an AssertionError with one line for each broken promise. Options as in `token_mixer`."""
    check(mixer, token_mixer(mixer, **options))


def check_channel_mixer(mixer, **options) -> None:
    """As check_token_mixer, for a channel mixer."""
    check(mixer, channel_mixer(mixer, **options))


def check_norm(method) -> None:
    """As check_token_mixer, for a norm."""
    check(method, norm(method))


def check_position(method) -> None:
    """As check_token_mixer, for a position scheme."""
    check(method, position(method))


def check_residual(method, width: int) -> None:
    """As check_token_mixer, for a residual scheme over a stream of `width`."""
    check(method, residual(method, width))


def check_weights(method) -> None:
    """As check_token_mixer, for a weights transform."""
    check(method, weights(method))


def check_rule(method, **options) -> None:
    """As check_token_mixer, for an optimizer's rule. Options as in `rule`."""
    check(method, rule(method, **options))
