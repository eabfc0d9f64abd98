"""Do measured strengths of styles follow those asked for?

The judge's reading of a strength is pulled towards the middle, so measured strengths are its readings on the scale that
real images set: with j = a + b s the regression of readings j on strengths s of real images that the styles' own
transforms changed, the measured strength is (j - a) / b (regression calibration, Carroll et al. 2006, Chapter 4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import concordance_corrcoef, spearman_corrcoef
from torchmetrics.functional.classification import binary_auroc

from hfdiff.core.errors import BadInput
from hfdiff.data.styles import LEVELS, STYLES, apply_styles
from hfdiff.data.table import to_bytes, to_unit_range
from hfdiff.evaluation.judge import Judge
from hfdiff.evaluation.metric import MetricInputs, Result
from hfdiff.evaluation.reference_images import JudgedImages, class_accuracy, judge_images
from hfdiff.evaluation.statistics import GROUPS, average, jackknife, mean_interval

FLATTEST = 0.05  # slope of the judge's readings; of a flatter one it sees nothing of the style


@dataclass(frozen=True)
class Line:
    """y = intercept + slope x, by least squares."""

    slope: float
    intercept: float

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "Line":
        x, y = x.double(), y.double()
        away = x - x.mean()
        slope = ((away * y).sum() / away.square().sum().clamp(min=1e-12)).item()
        return cls(slope, y.mean().item() - slope * x.mean().item())


@dataclass(frozen=True)
class Readings:
    """Strengths of one style asked for, and what the judge reads: (N,) float32 each."""

    asked: Tensor
    judged: Tensor

    def measured(self, scale: Line) -> Tensor:
        """Measured strengths (N,), which noise may carry beyond [0, 1]."""
        return (self.judged - scale.intercept) / scale.slope

    def concordance(self, scale: Line) -> float:
        return concordance_corrcoef(self.measured(scale), self.asked).nan_to_num().item()


@dataclass(frozen=True)
class StyledImages:
    """Images in styles, and plain ones of the same source: the strength 0 of every style."""

    styled: JudgedImages
    plain: JudgedImages

    def half(self, which: int) -> "StyledImages":
        """The first (0) or second (1) two of every four: styles alone and pairs of styles, which take turns."""
        return StyledImages(*(images[_in_half(len(images), which)] for images in (self.styled, self.plain)))

    def with_style(self, style: int) -> JudgedImages:
        return self.styled[self.styled.strengths[:, style] > 0]

    def readings(self, style: int) -> Readings:
        """Of those in the style, and of as many plain ones as have each of the other levels."""
        styled = self.with_style(style)
        plain = self.plain[: max(1, len(styled) // (len(LEVELS) - 1))]
        return Readings(
            asked=torch.cat([styled.strengths[:, style], plain.strengths[:, style]]),
            judged=torch.cat([styled.output.strengths[:, style], plain.output.strengths[:, style]]),
        )


def _in_half(n: int, which: int) -> Tensor:
    return (torch.arange(n) // 2 % 2 == which).nonzero().squeeze(1)


def style_fidelity(inputs: MetricInputs) -> Result:
    """The mean over styles of the concordance of strengths asked for and measured (Lin 1989, Equation 1): 1 where both
    are equal, lower for a wrong order, slope or offset."""
    assert inputs.styled is not None
    judge, styled = inputs.real.judge, inputs.styled
    images, known = StyledImages(styled, inputs.samples), _transformed(inputs)
    ruler, real = known.half(0), known.half(1)
    asked = [i for i in range(len(judge.style_names)) if (styled.strengths[:, i] > 0).sum() >= GROUPS]
    found = {i: _scale(ruler, i) for i in asked}
    blind = [judge.style_names[i] for i, scale in found.items() if not scale]
    scales = {i: scale for i, scale in found.items() if scale}
    asked = list(scales)
    if not asked:
        raise BadInput(
            f"style_fidelity needs a style that the judge reads from real images; it reads none of {', '.join(blind)}"
        )
    per_style = {judge.style_names[i]: _style(images, real, i, scales, judge.style_names) for i in asked}

    def mean(rows: Tensor) -> float:
        part = StyledImages(styled[rows], inputs.samples)
        return average([part.readings(i).concordance(scales[i]) for i in asked])

    details = {
        "per_style": per_style,
        "too_few": [
            name
            for name, given in zip(judge.style_names, styled.strengths.any(dim=0))
            if given and name not in per_style and name not in blind
        ],
        "not_seen": blind,  # styles that the judge cannot read from real images either
        "per_class": _per_class(styled, asked, scales, judge),
        "pairs": _pairs(styled, asked, scales, judge.style_names),
        "real_pairs": _pairs(real.styled, asked, scales, judge.style_names),
        "class_accuracy": class_accuracy(styled),
        "class_accuracy_plain": class_accuracy(inputs.samples),
    }
    value = average([row["concordance"] for row in per_style.values()])
    of_real = average([row["real_concordance"] for row in per_style.values()])
    low, high = jackknife(mean, len(styled))
    interval = (max(low, -1.0), min(high, 1.0))
    return Result(value, len(styled), of_real, interval, "judge", len(real.styled), details)


def _transformed(inputs: MetricInputs) -> StyledImages:
    """Real images changed by the styles' own transforms, at the strengths that were asked for; where the data itself
    names a style, the real images that have it."""
    assert inputs.styled is not None
    judge, others = inputs.real.judge, inputs.real.others
    n = min(len(inputs.styled), len(others))
    names = [name for name in judge.style_names if name in STYLES]
    columns = [judge.style_names.index(name) for name in names]
    strengths = others.strengths[:n].clone()
    strengths[:, columns] = inputs.styled.strengths[:n, columns]
    pixels = apply_styles(to_unit_range(others.pixels[:n]), strengths[:, columns], names)
    return StyledImages(judge_images(judge, to_bytes(pixels), others.labels[:n], strengths), others)


def _scale(real: StyledImages, style: int) -> Line | None:
    """The judge's readings of real images on their strengths; None where it sees nothing of the style."""
    readings = real.readings(style)
    line = Line.of(readings.asked, readings.judged)
    return line if line.slope > FLATTEST else None


def _style(
    images: StyledImages, real: StyledImages, style: int, scales: Mapping[int, Line], names: Sequence[str]
) -> dict[str, Any]:
    """All that is reported of one style; keys that begin with real_ are of real images."""
    row: dict[str, Any] = {"n": int((images.styled.strengths[:, style] > 0).sum())}
    ours, theirs = _levels(images, style, scales[style]), _levels(real, style, scales[style])
    row["levels"] = [
        own | {"real": known["measured"], "real_ci95": known["ci95"], "real_n": known["n"]}
        for own, known in zip(ours, theirs)
    ]
    for prefix, source, levels in (("", images, ours), ("real_", real, theirs)):
        readings = source.readings(style)
        means = torch.tensor([[level["asked"], level["measured"]] for level in levels if level["n"]])
        row |= {
            f"{prefix}concordance": readings.concordance(scales[style]),
            f"{prefix}spearman": spearman_corrcoef(readings.judged, readings.asked).nan_to_num().item(),
            f"{prefix}slope": Line.of(means[:, 0], means[:, 1]).slope,
            f"{prefix}r2": means.T.corrcoef()[0, 1].square().nan_to_num().item(),
            f"{prefix}mean_error": _error(source.with_style(style), style, scales[style]),
            f"{prefix}class_accuracy": class_accuracy(source.with_style(style)),
            f"{prefix}leakage": _leakage(source, style, scales, names),
        }
    row["real_auc"] = _told_apart(real, style)
    return row


def _levels(images: StyledImages, style: int, scale: Line) -> list[dict[str, Any]]:
    """At each level of strength asked for, the mean that is measured, with its 95% interval."""
    readings = images.readings(style)
    measured, nearest = readings.measured(scale), _level_of(readings.asked)
    rows = []
    for i, level in enumerate(LEVELS):
        values = measured[nearest == i].double()
        mean = values.mean().item() if len(values) else None
        interval = list(mean_interval(values)) if len(values) >= GROUPS else None
        rows.append({"asked": level, "measured": mean, "ci95": interval, "n": len(values)})
    return rows


def _level_of(strengths: Tensor) -> Tensor:
    """The nearest of `LEVELS`, by number; only strength 0 is level 0."""
    levels = (strengths * (len(LEVELS) - 1)).round().long()
    return levels.where(strengths == 0, levels.clamp(min=1))


def _leakage(images: StyledImages, style: int, scales: Mapping[int, Line], names: Sequence[str]) -> dict[str, float]:
    """Other style -> how far its measured strength moves where this one alone is asked for at 0.75 or more."""
    styled = images.styled
    alone = (styled.strengths > 0).sum(dim=1) == 1
    rows = alone & (styled.strengths[:, style] >= 0.75)
    if not rows.any():
        return {}
    return {
        names[i]: (
            (styled.output.strengths[rows, i].mean() - images.plain.output.strengths[:, i].mean()) / scale.slope
        ).item()
        for i, scale in scales.items()
        if i != style
    }


def _told_apart(real: StyledImages, style: int) -> float | None:
    """Area under the curve by which the judge's readings tell real images at strength 1 from plain ones."""
    full = real.styled.output.strengths[real.styled.strengths[:, style] >= 0.99, style]
    plain = real.plain.output.strengths[:, style]
    if not len(full):
        return None
    return binary_auroc(torch.cat([full, plain]), torch.arange(len(full) + len(plain)) < len(full)).item()


def _error(images: JudgedImages, style: int, scale: Line) -> float:
    """Mean distance between the strengths asked for and measured."""
    readings = Readings(images.strengths[:, style], images.output.strengths[:, style])
    return (readings.measured(scale) - readings.asked).abs().mean().item()


def _per_class(
    styled: JudgedImages, asked: Sequence[int], scales: Mapping[int, Line], judge: Judge
) -> dict[str, dict[str, dict[str, float]]]:
    """Class -> style -> mean error of the strength, class accuracy, n."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for label, name in enumerate(judge.class_names):
        table[name] = {}
        for i in asked:
            cell = styled[(styled.labels == label) & (styled.strengths[:, i] > 0)]
            if len(cell):
                error = _error(cell, i, scales[i])
                table[name][judge.style_names[i]] = {
                    "mean_error": error,
                    "class_accuracy": class_accuracy(cell),
                    "n": len(cell),
                }
    return table


def _pairs(
    styled: JudgedImages, asked: Sequence[int], scales: Mapping[int, Line], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Pair of styles -> mean error of both strengths, class accuracy, n."""
    table = {}
    for a, b in ((a, b) for a in asked for b in asked if a < b):
        both = styled[(styled.strengths[:, a] > 0) & (styled.strengths[:, b] > 0)]
        if len(both):
            table[f"{names[a]}+{names[b]}"] = {
                "mean_error": (_error(both, a, scales[a]) + _error(both, b, scales[b])) / 2,
                "class_accuracy": class_accuracy(both),
                "n": len(both),
            }
    return table
