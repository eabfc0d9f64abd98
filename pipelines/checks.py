"""Arguments: converted once, or a ValueError with the value and what is valid."""

import math
from numbers import Real
from typing import Any


def number(name: str, value: Any, low: float, high: float, above: bool = False) -> float:
    """A number of any kind (Python's, numpy's, a tensor of one element) from `low`, or only `above` it, to `high`."""
    given = value.item() if hasattr(value, "item") and math.prod(value.shape) == 1 else value
    valid = isinstance(given, Real) and not isinstance(given, bool)
    if not valid or not low <= given <= high or (above and given == low):
        raise ValueError(f"{name} {value}; valid: {f'above {low},' if above else low} to {high}")
    return given


def count(name: str, value: Any, low: float, high: float = math.inf) -> int:
    """The same of a whole number: 2, 2.0 and numpy's 2 are one."""
    try:
        given = number(name, value, low, high)
        whole = given == int(given)
    except (ValueError, OverflowError):
        whole = False
    if not whole:
        most = f"to {high}" if high < math.inf else "or more"
        raise ValueError(f"{name} {value!r}; valid: a whole number, {low} {most}")
    return int(given)


def check_interval(name: str, interval: Any) -> None:
    """ValueError for what is no pair of noise levels (sigma / alpha), the lower first."""
    try:
        valid = len(interval) == 2 and 0 <= interval[0] < interval[1]
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(f"{name} {interval}; valid: two noise levels, 0 <= low < high")


def is_size(size: Any) -> bool:
    """Is it a side in pixels, or (height, width), of 1 to 4096?"""
    sides = size if isinstance(size, list | tuple) else [size, size]
    return len(sides) == 2 and all(isinstance(side, int) and 1 <= side <= 4096 for side in sides)
