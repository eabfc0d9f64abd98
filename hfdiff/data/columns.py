"""Which column of a dataset holds what, found by feature type and never by name, so any dataset of the Hub works."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.core.names import unknown
from hfdiff.data.config import ReadOptions
from hfdiff.data.registry import SPLIT_NAMES
from hfdiff.pipelines import canonical, parse_styles


@dataclass(frozen=True)
class Columns:
    """Which column of a dataset holds what."""

    image: str
    label: str
    styles: tuple[str, ...]  # columns that give style strengths


def find_columns(split: datasets.Dataset, read_options: ReadOptions) -> Columns:
    """Find the columns by feature type.

    Image: the Image. Class: the ClassLabel, else the one column of text or whole numbers whose values come again (a
    caption or an id does not). Styles: columns of
    fractions (the column's name is the style, its value the strength), truth values, lists of style names, or a text
    column called `styles` in the grammar "thick:0.8+slanted".
    """
    features = split.features
    given_styles = () if read_options.style_columns == ("none",) else read_options.style_columns
    for chosen in (read_options.image_column, read_options.label_column, *given_styles):
        if chosen is not None and chosen not in features:
            raise unknown("column", chosen, features)
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    image = read_options.image_column or _only(images, "image", "choose one with --image_column")

    def is_type(name: str, pattern: str) -> bool:
        return re.match(pattern, str(getattr(features[name], "dtype", ""))) is not None

    styles = given_styles
    if not read_options.style_columns:
        free = [name for name in features if name not in (image, read_options.label_column)]
        styles = tuple(
            name
            for name in free
            if (isinstance(features[name], datasets.List) and features[name].feature == datasets.Value("string"))
            or is_type(name, "bool|float")
            or (name == "styles" and is_type(name, "(large_)?string"))
        )
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not (labels or read_options.label_column):
        labels = [name for name in features if name not in (image, *styles) and is_label(name, features[name])]
        single = [name for name in labels if _values_are_single(split[name])]
        if single and len(single) == len(labels):
            raise BadInput(
                f"column {single[0]!r} has a value of its own for most images, as captions and ids have; choose the "
                "classes with --label_column"
            )
        labels = [name for name in labels if name not in single]
    advice = "choose one with --label_column, or name the styles with --style_columns"
    label = read_options.label_column or _only(labels, "label", advice)
    if not (isinstance(features[label], datasets.ClassLabel) or is_type(label, "(large_)?string|u?int|bool")):
        raise BadInput(f"column {label!r} is no label column; valid: class labels, text or whole numbers")
    return Columns(image, label, styles)


def is_label(name: str, feature: Any) -> bool:
    """Can a column hold classes: is it of text or whole numbers?"""
    return name != "styles" and re.match("(large_)?string|u?int", str(getattr(feature, "dtype", ""))) is not None


def _values_are_single(values: Iterable) -> bool:
    counts = Counter(values).values()
    return sum(counts) > 3 and 2 * sum(count == 1 for count in counts) > sum(counts)


def _only(names: Sequence[str], what: str, advice: str) -> str:
    if not names:
        raise BadInput(f"the data has no {what} column; give class folders or a metadata file, or {advice}")
    if len(names) > 1:
        raise BadInput(f"the data has several {what} columns ({', '.join(names)}): {advice}")
    return names[0]


def read_labels(splits: datasets.DatasetDict, split_name: str, column: str) -> tuple[Tensor, tuple[str, ...]]:
    values = list(splits[split_name][column])
    kind = splits[split_name].features[column]
    for row, value in enumerate(values):
        if value is None:
            raise BadInput(f"row {row}: column {column!r} gives no class")
    if isinstance(kind, datasets.ClassLabel):
        names = tuple(kind.names)
    else:
        every_value = {value for split in splits.values() for value in split[column] if value is not None}
        names = tuple(sorted(map(str, every_value), key=_in_order))
        ids = {name: i for i, name in enumerate(names)}
        if values and isinstance(values[0], int) and min(values) < 0:
            raise BadInput(f"row {values.index(min(values))}: label {min(values)} out of range; valid: 0 and above")
        values = [ids[str(value)] for value in values]
    for row, value in enumerate(values):
        if not 0 <= value < len(names):
            raise BadInput(f"row {row}: label {value} out of range; valid: 0 to {len(names) - 1}")
    spellings: dict[str, str] = {}
    for name in names:
        other = spellings.setdefault(canonical(name), name)
        if other != name:
            raise BadInput(f"the classes {other!r} and {name!r} are one name, but for how it is written; rename one")
        if not canonical(name):
            raise BadInput(f"a class is called {name!r}; valid: a name that can be seen")
    if {name.lower() for name in names} <= SPLIT_NAMES:
        raise BadInput(f"the classes {', '.join(names)} are names of splits: put one folder for each class inside them")
    return torch.tensor(values, dtype=torch.int64), names


def _in_order(name: str) -> tuple[float, str]:
    """Whole numbers by their value, before all other names."""
    return (int(name) if name.isdecimal() else math.inf, name)


def read_styles(splits: datasets.DatasetDict, split_name: str, columns: Columns) -> tuple[Tensor, tuple[str, ...]]:
    """Strengths (N, S) float32 in [0, 1] from the style columns, and the names of all splits' styles."""
    rows: dict[str, list[dict[str, float]]] = {}
    for name, split in splits.items():
        rows[name] = [{} for _ in range(len(split))]
        for column in set(columns.styles) & set(split.column_names):
            for row, value in enumerate(split[column]):
                rows[name][row].update(_style_cell(value, column, row))
    names = tuple(sorted({style for part in rows.values() for row in part for style in row}))
    weights = [[row.get(style, 0.0) for style in names] for row in rows[split_name]]
    return torch.tensor(weights, dtype=torch.float32).reshape(len(weights), len(names)), names


def _style_cell(value: Any, column: str, row: int) -> dict[str, float]:
    if value is None:
        return {}
    try:
        if isinstance(value, str):
            return parse_styles(value)
        if isinstance(value, list):
            return parse_styles("+".join(value))
        return parse_styles({column: float(value)})
    except (ValueError, TypeError) as error:
        raise BadInput(f"row {row}: column {column!r}: {error} (--style_columns names the styles)") from error
