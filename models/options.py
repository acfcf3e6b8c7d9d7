"""Checks of a method's options, in its constructor."""

import math


def check(name: str, method: object, sizes: str = "", positive: str = "") -> None:
    """Raises a ValueError for an option of the method `name` that was given and cannot be: sizes are whole numbers from
    1 on, what is positive is finite too. Both name attributes, with spaces between."""
    for option in sizes.split():
        value = getattr(method, option)
        if value is not None and value < 1:
            raise ValueError(f"{name}: {option} must be at least 1, not {value}")
        if value is not None and value != int(value):
            raise ValueError(f"{name}: {option} must be a whole number, not {value}")
    for option in positive.split():
        value = getattr(method, option)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}: {option} must be positive, not {value}")


def ordered(name: str, method: object, low: str, high: str) -> None:
    """Raises a ValueError unless 0 < low <= high, two options of the method `name`."""
    check(name, method, positive=f"{low} {high}")
    if getattr(method, low) > getattr(method, high):
        raise ValueError(f"{name}: {low}={getattr(method, low)} is above {high}={getattr(method, high)}")
