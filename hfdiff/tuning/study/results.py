"""What a study found: each variant beside the base, seed by seed, and what that decides."""

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hfdiff.core.errors import BadInput
from hfdiff.evaluation.statistics import student_t
from hfdiff.training.checks import check_config
from hfdiff.training.config import TrainConfig
from hfdiff.tuning.measure import DISTANCE
from hfdiff.tuning.study.config import BASE, Study, Variant
from hfdiff.tuning.study.judging import WATCHED
from hfdiff.tuning.study.trial import Outcome

BETTER = "better"  # the interval of its distance's ratio lies below 1, no run failed, and no recall was seen to be lost


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and half of its 95% interval; None of one seed alone."""

    mean: float
    half: float | None

    @property
    def low(self) -> float:
        return -math.inf if self.half is None else self.mean - self.half

    @property
    def high(self) -> float:
        return math.inf if self.half is None else self.mean + self.half


@dataclass(frozen=True)
class Row:
    """A variant over its seeds, at the guidance scale where its mean distance is least."""

    variant: Variant
    share: float  # of the budget
    seeds: tuple[int, ...]  # that were measured
    failures: tuple[str, ...]
    guidance_scale: float | None  # None: nothing was measured
    values: Mapping[str, Estimate]  # metric, and "images" and "cpu_seconds"
    num_pairs: int  # seeds with both its run and the base's
    ratio: Estimate | None  # natural logarithm of distance over the base's, paired by seed
    recall: Estimate | None  # recall less the base's, paired by seed

    @property
    def verdict(self) -> str:
        if not self.values:
            return "failed" if self.failures else "not run"
        if self.variant.name == BASE:
            return "base"
        if self.share < 1:
            return f"left at {self.share:.2g} of the budget"
        if self.ratio is None or self.ratio.low <= 0 <= self.ratio.high:
            return "undecided"
        if self.ratio.low > 0:
            return "worse"
        if self.failures:
            return "nearer, but runs failed"
        return "nearer, less various" if self.recall and self.recall.high < 0 else BETTER


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of independent values."""
    if len(values) < 2:
        return Estimate(values[0], None)
    freedom = len(values) - 1
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), student_t(freedom) * error)


def rows_of(study: Study, rungs: Mapping[float, Mapping[str, Sequence[Outcome]]]) -> list[Row]:
    """A row for each variant, at the greatest share of the budget that it got: the base first, then by share and
    distance. `rungs`: share -> variant -> its outcomes; the base is in each."""
    rows = []
    for variant in study.variants:
        shares = [share for share, found in rungs.items() if found.get(variant.name)]
        if shares or variant.name == BASE:
            share = max(shares, default=1.0)
            own, base = rungs.get(share, {}).get(variant.name, ()), best_scale(rungs.get(share, {}).get(BASE, ()))
            rows.append(row_of(variant, share, own, base[1] if base else {}))

    def order(row: Row) -> tuple[float, float]:
        return -row.share, row.values[DISTANCE].mean if row.values else math.inf

    return rows[:1] + sorted(rows[1:], key=order)


def best_scale(outcomes: Sequence[Outcome]) -> tuple[float, dict[int, Mapping[str, float]]] | None:
    """The guidance scale of the least mean distance over seeds, and seed -> metrics at it; None: nothing measured."""
    measured = {outcome.trial.config.seed: outcome.by_guidance for outcome in outcomes if outcome.by_guidance}
    if not measured:
        return None
    scales = next(iter(measured.values()))
    scale = min(scales, key=lambda s: statistics.fmean(found[s][DISTANCE] for found in measured.values()))
    return scale, {seed: found[scale] for seed, found in measured.items()}


def row_of(variant: Variant, share: float, own: Sequence[Outcome], base: Mapping[int, Mapping[str, float]]) -> Row:
    """A variant's row; `base`: seed -> metrics of the base's runs of the same length."""
    failures = tuple(f"seed {outcome.trial.config.seed}: {outcome.failure}" for outcome in own if outcome.failure)
    best = best_scale(own)
    if best is None:
        return Row(variant, share, (), failures, None, {}, 0, None, None)
    scale, by_seed = best
    measured = [outcome for outcome in own if outcome.by_guidance]
    common = [name for name in WATCHED if all(name in found for found in by_seed.values())]
    values = {name: estimate([found[name] for found in by_seed.values()]) for name in common}
    values |= {key: estimate([getattr(outcome, key) for outcome in measured]) for key in ("images", "cpu_seconds")}
    pairs = [(found, base[seed]) for seed, found in by_seed.items() if seed in base and variant.name != BASE]
    ratio = estimate([math.log(_positive(a) / _positive(b)) for a, b in pairs]) if pairs else None
    gains = [a["recall"] - b["recall"] for a, b in pairs if "recall" in a and "recall" in b]
    recall = estimate(gains) if gains else None
    return Row(variant, share, tuple(by_seed), failures, scale, values, len(pairs), ratio, recall)


def _positive(found: Mapping[str, float]) -> float:
    return max(found[DISTANCE], 1e-9)  # rounding may take the distance of equal sets below 0


def recommended(study: Study, rows: Sequence[Row]) -> tuple[TrainConfig, list[Row]]:
    """The base with the best decided option of each factor, and the rows of these; an option that sets a key of
    another one, or does not go with it, stays out."""
    config, chosen, options, changes = study.training(study.variants[0]), [], set[str](), dict[str, Any]()
    for row in (row for row in rows if row.verdict == BETTER):  # the nearest first
        variant = row.variant
        if variant.options.keys() & options or variant.changes.keys() & changes.keys():
            continue
        with contextlib.suppress(BadInput):
            together = study.training(Variant("recommended", {}, {**changes, **variant.changes}))
            check_config(together)
            config, options, changes = together, options | variant.options.keys(), {**changes, **variant.changes}
            chosen.append(row)
    return config, chosen


def undecided(rows: Sequence[Row]) -> list[str]:
    """What the study could not decide, and why."""
    lines = []
    for row in rows[1:]:
        name = row.variant.name
        if not row.values:
            lines.append(f"{name}: no run was measured")
        elif row.ratio is None:
            lines.append(f"{name}: no seed has both its run and the base's")
        elif row.ratio.half is None:
            lines.append(
                f"{name}: one seed tells nothing of chance; its distance was {ratio_of(row.ratio)} of the base's"
            )
        elif row.verdict not in (BETTER, "worse"):
            lines.append(f"{name}: {row.verdict}, its distance was {ratio_of(row.ratio)} of the base's")
    return lines


def ratio_of(ratio: Estimate) -> str:
    """A ratio of distances and its interval, from their logarithms."""
    value = f"{math.exp(ratio.mean):.2f}"
    return value if ratio.half is None else f"{value} [{math.exp(ratio.low):.2f}, {math.exp(ratio.high):.2f}]"
