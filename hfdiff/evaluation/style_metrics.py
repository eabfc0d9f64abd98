"""Do measured strengths of styles follow those asked for?"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from hfdiff.data.styles import STYLES, apply_styles
from hfdiff.data.table import to_bytes, to_unit_range
from hfdiff.evaluation.judge import Judge
from hfdiff.evaluation.metric import MetricInputs, Result
from hfdiff.evaluation.reference_images import JudgedImages, class_accuracy, judge_images
from hfdiff.evaluation.statistics import GROUPS, average, jackknife


def style_fidelity(inputs: MetricInputs) -> Result:
    """The mean over styles of Spearman's correlation between strengths asked for and measured."""
    assert inputs.styled is not None
    judge, styled = inputs.real.judge, inputs.styled
    real = _transformed(inputs)
    asked = [i for i in range(len(judge.style_names)) if (styled.strengths[:, i] > 0).sum() >= GROUPS]
    values = {i: _correlation(styled, i) for i in asked}
    of_real = {i: _correlation(real, i) for i in asked if judge.style_names[i] in STYLES}

    def mean(rows: Tensor) -> float:
        return average([_correlation(styled[rows], i) for i in asked])

    per_style = {
        judge.style_names[i]: {
            "spearman": values[i],
            "real_spearman": of_real.get(i),
            "mean_error": _error(styled, i),
            "real_mean_error": _error(real, i) if i in of_real else None,
            "class_accuracy": class_accuracy(styled[styled.strengths[:, i] > 0]),
            "real_class_accuracy": class_accuracy(real[real.strengths[:, i] > 0]) if i in of_real else None,
            "n": int((styled.strengths[:, i] > 0).sum()),
        }
        for i in asked
    }
    details = {
        "per_style": per_style,
        "too_few": [judge.style_names[i] for i in styled.strengths.any(dim=0).nonzero().squeeze(1) if i not in asked],
        "per_class": _per_class(styled, asked, judge),
        "real_per_class": _per_class(real, asked, judge),
        "pairs": _pairs(styled, asked, judge.style_names),
        "real_pairs": _pairs(real, asked, judge.style_names),
        "class_accuracy": class_accuracy(styled),
        "class_accuracy_plain": class_accuracy(inputs.samples),
    }
    real_value = average(list(of_real.values())) if len(of_real) == len(values) else None
    interval = jackknife(mean, len(styled))
    return Result(average(list(values.values())), len(styled), real_value, interval, "judge", len(real), details)


def _transformed(inputs: MetricInputs) -> JudgedImages:
    """Real images changed by the styles' own transforms, at the strengths that were asked for."""
    assert inputs.styled is not None
    judge, others = inputs.real.judge, inputs.real.others
    n = min(len(inputs.styled), len(others))
    names = [name for name in judge.style_names if name in STYLES]
    columns = [judge.style_names.index(name) for name in names]
    strengths = torch.zeros(n, len(judge.style_names))
    strengths[:, columns] = inputs.styled.strengths[:n, columns]
    pixels = apply_styles(to_unit_range(others.pixels[:n]), strengths[:, columns], names)
    return judge_images(judge, to_bytes(pixels), others.labels[:n], strengths)


def _correlation(images: JudgedImages, style: int) -> float:
    """Spearman's correlation over the images asked for this style; 0 where the judge always says the same."""
    rows = images.strengths[:, style] > 0
    value = spearman_corrcoef(images.output.strengths[rows, style], images.strengths[rows, style])
    return value.nan_to_num().item()


def _error(images: JudgedImages, style: int) -> float:
    """Mean distance between the strengths asked for and measured."""
    rows = images.strengths[:, style] > 0
    return (images.output.strengths[rows, style] - images.strengths[rows, style]).abs().mean().item()


def _per_class(styled: JudgedImages, asked: Sequence[int], judge: Judge) -> dict[str, dict[str, dict[str, float]]]:
    """Class -> style -> mean error of the strength, class accuracy, n."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for label, name in enumerate(judge.class_names):
        table[name] = {}
        for i in asked:
            cell = styled[(styled.labels == label) & (styled.strengths[:, i] > 0)]
            if len(cell):
                numbers = {"mean_error": _error(cell, i), "class_accuracy": class_accuracy(cell), "n": len(cell)}
                table[name][judge.style_names[i]] = numbers
    return table


def _pairs(styled: JudgedImages, asked: Sequence[int], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Pair of styles -> mean error of both strengths, class accuracy, n."""
    table = {}
    for a, b in ((a, b) for a in asked for b in asked if a < b):
        both = styled[(styled.strengths[:, a] > 0) & (styled.strengths[:, b] > 0)]
        if len(both):
            table[f"{names[a]}+{names[b]}"] = {
                "mean_error": (_error(both, a) + _error(both, b)) / 2,
                "class_accuracy": class_accuracy(both),
                "n": len(both),
            }
    return table
