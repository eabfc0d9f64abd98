"""Intervals and means."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Z95 = 1.96  # standard errors in half of a 95% interval
GROUPS = 10
T95 = 2.262  # the same for an error estimated from GROUPS values (Student's t, 9 degrees of freedom)


def wilson(hits: Tensor) -> tuple[float, float]:
    """95% interval of the share of true values in hits (N,) bool (Wilson 1927)."""
    n, share = len(hits), hits.double().mean().item()
    centre, width = share + Z95**2 / (2 * n), Z95 * (share * (1 - share) / n + Z95**2 / (4 * n**2)) ** 0.5
    scale = 1 + Z95**2 / n
    return (centre - width) / scale, (centre + width) / scale


def jackknife(statistic: Callable[[Tensor], float], n: int) -> tuple[float, float]:
    """95% interval of statistic(all rows), from its values with each tenth of the rows left out (Efron & Tibshirani
    1993, Chapter 11). The tenths are drawn at random: rows may come in an order."""
    rows = torch.arange(n)
    tenth = torch.randperm(n, generator=torch.Generator().manual_seed(0)) % GROUPS
    without = torch.tensor([statistic(rows[tenth != i]) for i in range(GROUPS)], dtype=torch.float64)
    error = ((GROUPS - 1) / GROUPS * (without - without.mean()).square().sum()).sqrt().item()
    value = statistic(rows)
    return value - T95 * error, value + T95 * error


def share_true(hits: Tensor) -> float:
    return hits.double().mean().item()


def average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
