"""Checks of a method's options, in its constructor."""

import math
import numbers

import numpy as np

from ..contracts import Position


def check(name: str, method: object, sizes: str = "", positive: str = "", taps: str = "") -> None:
    """Raises a ValueError if an option of the method `name` is not what it must be; options that are None are left out.

    sizes are whole numbers from 1 on, taps from 2 on, positive ones are finite numbers above 0: names of options with
    spaces between.
    """
    for options, least in ((sizes, 1), (taps, 2)):
        for option in options.split():
            value = getattr(method, option)
            if value is None:
                continue
            if not isinstance(value, numbers.Integral) or isinstance(value, bool):
                raise ValueError(f"{name}: {option} must be a whole number, not {value}")
            if value < least:
                raise ValueError(f"{name}: {option} must be at least {least}, not {value}")
    for option in positive.split():
        value = getattr(method, option)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}: {option} must be positive, not {value}")


def ordered(name: str, method: object, low: str, high: str) -> None:
    """Raises a ValueError unless 0 < low <= high, two options of the method `name`."""
    check(name, method, positive=f"{low} {high}")
    if getattr(method, low) > getattr(method, high):
        raise ValueError(f"{name}: {low}={getattr(method, low)} is above {high}={getattr(method, high)}")


def without_bias(name: str, position: Position) -> None:
    """Raises a ValueError if the position scheme adds to logits, for a method that cannot take it."""
    place = np.zeros((1, 1), np.int32)
    if position.bias(place, place, 1) is not None:
        raise ValueError(f"{name}: cannot take what {type(position).__name__} adds to logits")
