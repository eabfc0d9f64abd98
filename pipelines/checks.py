"""Ranges of arguments; ValueError with the value and what is valid."""

from typing import Any


def check_range(name: str, value: Any, low: float, high: float, above: bool = False) -> None:
    """ValueError for what is no number from `low`, or only `above` it, to `high`."""
    try:
        valid = low <= float(value) <= high and not (above and value == low)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"{name} {value}; valid: {f'above {low},' if above else low} to {high}")


def check_interval(name: str, interval: Any) -> None:
    try:
        valid = len(interval) == 2 and 0 <= interval[0] < interval[1]
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(f"{name} {interval}; valid: two noise levels, 0 <= low < high")


def is_size(size: Any) -> bool:
    sides = size if isinstance(size, list | tuple) else [size, size]
    return len(sides) == 2 and all(isinstance(side, int) and 1 <= side <= 4096 for side in sides)
