"""Intervals and means."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Z95 = 1.96  # standard errors in half of a 95% interval
GROUPS = 10
# The same for an error estimated from few values: quantiles of Student's t, 1 to 10 degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
PSEUDO = 4  # observations that a share of few is drawn by, towards that of more (Agresti & Coull 1998)
SPLITS = 20  # of three contrasts each: their own chance is then a tenth of the error


def wilson(hits: Tensor) -> tuple[float, float]:
    """95% interval of the share of true values in hits (N,) bool (Wilson 1927)."""
    n, share = len(hits), hits.double().mean().item()
    centre, width = share + Z95**2 / (2 * n), Z95 * (share * (1 - share) / n + Z95**2 / (4 * n**2)) ** 0.5
    scale = 1 + Z95**2 / n
    low, high = (round(bound / scale, 12) for bound in (centre - width, centre + width))  # 0 and 1 are exact
    return max(low, 0.0), min(high, 1.0)


def mean_interval(values: Tensor) -> tuple[float, float]:
    """95% interval of the mean of independent values (N,)."""
    values = values.double()
    return around(values.mean().item(), values.std().item() / len(values) ** 0.5)


def student_t(freedom: int) -> float:
    """Standard errors in half of a 95% interval whose error has so many degrees of freedom; beyond ten within 1%."""
    return T95[freedom - 1] if freedom <= len(T95) else Z95 + 2.6 / freedom


def around(value: float, error: float, low: float = -torch.inf, high: float = torch.inf) -> tuple[float, float]:
    """95% interval of a value with this standard error, within the range that such values have."""
    return max(value - Z95 * error, low), min(value + Z95 * error, high)


def around_distance(value: float, error: float, freedom: int) -> tuple[float, float]:
    """95% interval of a distance, skewed where it is near 0, whose error is as uncertain as with `freedom` degrees:
    that of its logarithm."""
    if value <= 0:  # of equal sets, by rounding
        return around(value, error, low=0)
    factor = math.exp(student_t(freedom) * error / value)
    return value / factor, value * factor


def gain_of_choice(hits: Tensor, chosen: int) -> tuple[float, tuple[float, float]]:
    """The share of true values in the first `chosen` columns of hits (cells, N) bool, less that in all columns: what a
    random choice from the same candidates gives. The mean over cells, with its 95% interval over draws of candidates.

    Stratified: how much cells differ does not count. A share of few in a cell has no variance of its own where all are
    right, so that of the chosen and that of the others are drawn towards Laplace's of the whole cell. Of 1,500 draws of
    10 cells, 3 chosen of 10, shares of 0.25 to 1 and differences of -0.4 to 0.15, the interval covered 0.92 and more.
    """
    hits, n = hits.double(), hits.shape[1]
    whole = (hits.sum(dim=1) + 1) / (n + 2)
    variance = torch.zeros_like(whole)
    for part in hits.split((chosen, n - chosen), dim=1):
        size = part.shape[1]
        share = (part.sum(dim=1) + PSEUDO * whole) / (size + PSEUDO)
        variance += share * (1 - share) / size
    value = (hits[:, :chosen].mean(dim=1) - hits.mean(dim=1)).mean().item()
    error = (1 - chosen / n) * variance.sum().sqrt().item() / len(hits)
    return value, around(value, error, -1, 1)


def jackknife(statistic: Callable[[Tensor], float], n: int) -> tuple[float, float]:
    """95% interval of statistic(all rows), from its values with each tenth of the rows left out (Efron & Tibshirani
    1993, Chapter 11). The tenths are drawn at random: rows may come in an order."""
    rows = torch.arange(n)
    tenth = torch.randperm(n, generator=torch.Generator().manual_seed(0)) % GROUPS
    without = torch.tensor([statistic(rows[tenth != i]) for i in range(GROUPS)], dtype=torch.float64)
    error = ((GROUPS - 1) / GROUPS * (without - without.mean()).square().sum()).sqrt().item()
    value = statistic(rows)
    return value - student_t(GROUPS - 1) * error, value + student_t(GROUPS - 1) * error


def split_error(statistic: Callable[[Tensor, Tensor], float], n: int, splits: int = SPLITS) -> float:
    """Standard error of statistic(samples, reference), given n rows of each, over draws of the samples.

    Two disjoint halves of the samples are two independent draws, so half of their squared difference is the variance
    at n / 2, unbiased; quarters give that at n / 4. The variance is a / n + b / n^2 to second order (Hoeffding 1948),
    which the two solve for n. The reference is cut to the same part: what neighbours say depends on the ratio of both
    numbers. A bootstrap would put images twice into a set, where their nearest neighbours are themselves; a jackknife's
    variance is too large for what is not linear (Efron & Stein 1981).
    """
    generator = torch.Generator().manual_seed(0)
    variances = [_split_variances(statistic, n, generator) for _ in range(splits)]
    half, quarter = (average(values) / parts for values, parts in zip(zip(*variances), (2, 4)))
    return max(1.5 * half - 0.5 * quarter, half / 2) ** 0.5  # half / 2: where it is all b / n^2


def _split_variances(
    statistic: Callable[[Tensor, Tensor], float], n: int, generator: torch.Generator
) -> tuple[float, float]:
    """Variances at n / 2 and n / 4, from the three ways to put four random quarters into two halves, and from them."""
    samples, reference = (torch.randperm(n, generator=generator) for _ in range(2))
    quarters = samples[: n // 4 * 4].view(4, -1)
    of_quarters = torch.tensor([statistic(rows, reference[: n // 4]) for rows in quarters], dtype=torch.float64)
    differences = []
    for other in (1, 2, 3):
        inside = torch.tensor([part in (0, other) for part in range(4)])
        a, b = (statistic(quarters[part].flatten(), reference[: n // 2]) for part in (inside, ~inside))
        differences.append((a - b) ** 2 / 2)
    return average(differences), of_quarters.var().item()


def cut(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """These rows (n,) and columns (m,) int64 of a matrix, faster than by one index."""
    return matrix.index_select(0, rows).index_select(1, columns)


def share_true(hits: Tensor) -> float:
    return hits.double().mean().item()


def average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
