"""Models that may be compared: "?" stands for the option that is solved for, so that all have the same size.

attention(window=?)      as many bytes of decode state as asked for
glu(ff=?)                as many parameters a layer as asked for
"""

import dataclasses
from collections.abc import Callable

from jaxlib_ext import param
from jaxlib_ext.models.config import ModelConfig, build
from jaxlib_ext.models.lm import LM

MOST = 1 << 16  # the largest value that is tried for an option
CLOSE = 0.02  # how far a layer's parameters may be from what was asked for


@dataclasses.dataclass(frozen=True)
class Sized:
    """A model with nothing left to solve for, and what it weighs."""

    config: ModelConfig
    parameters: int  # of all layers; embedding and head are the same for all
    state_bytes: int  # of one sequence, to decode up to the task's length


def state_bytes(model: LM, time: int) -> int:
    return param.nbytes(model.state(1, time))


def parameters(model: LM) -> int:
    return param.size(model.decl()["unit"])


def nearest(spec: str, measure: Callable[[str], int], goal: float) -> str:
    """spec with the positive integer in place of "?" whose measure, which rises with it, comes nearest to the goal."""
    at = lambda n: spec.replace("?", str(n))
    low, high = 1, 2
    while high < MOST and measure(at(high)) < goal:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if measure(at(middle)) < goal else (low, middle)
    return min(at(low), at(high), key=lambda s: abs(measure(s) - goal))


def sized(config: ModelConfig, vocab: int, time: int, per_layer: float, held: int) -> Sized:
    """config with each "?" solved: in the mixer for `held` bytes of decode state of the whole model, in the channel
    mixer for per_layer x width^2 parameters a layer. Raises ValueError where that cannot be had."""

    def with_(**change) -> LM:
        return build(dataclasses.replace(config, **change), vocab)

    if config.mixer.count("?") > 1 or config.channel.count("?") > 1:
        raise ValueError(f"one ? a model can be solved for: {config.mixer}, {config.channel}")
    if "?" in config.mixer:
        if held < 1:
            raise ValueError(f"{config.mixer}: give the bytes of decode state, say --state-bytes 4096,16384")
        weigh = lambda mixer: state_bytes(with_(mixer=mixer, channel="none"), time)
        mixer = nearest(config.mixer, weigh, held)
        if abs(weigh(mixer) - held) > 0.25 * held:
            raise ValueError(
                f"{config.mixer} at width {config.width} comes no nearer to {held} bytes of state than {weigh(mixer)}"
            )
        config = dataclasses.replace(config, mixer=mixer)
    if "?" in config.channel:
        goal = per_layer * config.width**2 * config.depth
        channel = nearest(config.channel, lambda c: parameters(with_(channel=c)), goal)
        found = parameters(with_(channel=channel))
        if abs(found - goal) > CLOSE * goal:
            least = parameters(with_(channel=config.channel.replace("?", "1"))) / config.width**2 / config.depth
            raise ValueError(
                f"{config.mixer} at width {config.width} cannot have {per_layer:g} x width^2 parameters a layer: it "
                f"has {least:.1f} with the smallest channel mixer; give it smaller options or more --parameters"
            )
        config = dataclasses.replace(config, channel=channel)
    model = build(config, vocab)
    if not model.causal:
        raise ValueError(f"{config.mixer} is bidirectional: the tasks are read from left to right")
    return Sized(config, parameters(model), state_bytes(model, time))
