"""Folders of parquet, and those of `save_to_disk`: every file as it was written, none of yesterday's cache."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from hfdiff.core.errors import BadInput, first_line


def read_parquet(files: Sequence[Path]) -> datasets.Dataset:
    """The rows of all files, with the features that `datasets` wrote, or those that their first bytes show.

    Class ids of a ClassLabel are those of its names in the first file; BadInput where a column is of two kinds.
    """
    return join([recognise_images(_read_file(file)) for file in files], [str(file) for file in files])


def _read_file(file: Path) -> datasets.Dataset:
    try:
        table = pyarrow.parquet.read_table(file)
        for number, column in enumerate(table.schema):
            if (plain := _plain_type(column.type)) != column.type:
                table = table.set_column(number, column.name, table[column.name].cast(plain))
        return _dataset(table, datasets.Features.from_arrow_schema(table.schema))
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise BadInput(f"{file} cannot be read: {first_line(error)}") from error


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that `datasets` reads which holds the same values."""
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) or pa.types.is_large_binary(kind) else kind


def _dataset(table: pa.Table, features: datasets.Features) -> datasets.Dataset:
    info = datasets.DatasetInfo(features=features)
    # Its fingerprint is for a cache that is not used, and would be a hash over all of it.
    return datasets.Dataset(datasets.table.InMemoryTable(table), info=info, fingerprint=uuid4().hex)


def recognise_images(split: datasets.Dataset) -> datasets.Dataset:
    """With an `Image`, not to be decoded, for each column of bytes or structs with bytes whose first is an image."""
    for name, kind in split.features.items():
        struct = isinstance(kind, dict) and "bytes" in kind and kind.keys() <= {"bytes", "path"}
        if struct or getattr(kind, "dtype", "") in ("binary", "large_binary", "binary_view"):
            cells = (cell["bytes"] if struct and cell else cell for cell in split[name])
            first = next((cell for cell in cells if cell), None)
            if first is not None and _is_image(first):
                kind = datasets.Image()
        if isinstance(kind, datasets.Image):
            split = split.cast_column(name, datasets.Image(decode=False))
    return split


def _is_image(content: Any) -> bool:
    try:
        with Image.open(io.BytesIO(content)):
            return True
    except Exception:  # whatever Pillow raises, it is none
        return False


def join(parts: Sequence[datasets.Dataset], names: Sequence[str]) -> datasets.Dataset:
    """One after the other; `names` say which in errors."""
    first = parts[0]
    for part, name in zip(parts, names):
        if set(part.column_names) != set(first.column_names):
            different = sorted(set(part.column_names) ^ set(first.column_names))
            raise BadInput(f"{name} and {names[0]} differ in their columns: {', '.join(different)}")
        for column, kind in first.features.items():
            other = part.features[column]
            if _kind(kind) != _kind(other):
                raise BadInput(f"column {column!r} is {_kind(other)} in {name} and {_kind(kind)} in {names[0]}")
    return datasets.concatenate_datasets(align_labels(parts))


def _kind(feature: Any) -> str:
    return "class labels" if isinstance(feature, datasets.ClassLabel) else str(getattr(feature, "dtype", feature))


def align_labels(parts: Sequence[datasets.Dataset]) -> list[datasets.Dataset]:
    """With one list of names for each ClassLabel: that of the first part, and what only later ones name after it."""
    parts = list(parts)
    for column, kind in parts[0].features.items():
        kinds = [part.features.get(column) for part in parts]
        if isinstance(kind, datasets.ClassLabel) and any(other.names != kind.names for other in kinds if other):
            names = list(dict.fromkeys(name for other in kinds if other for name in other.names))
            parts = [_renumbered(part, column, names) for part in parts]
    return parts


def align_splits(splits: Mapping[str, datasets.Dataset]) -> datasets.DatasetDict:
    """The splits with one list of names for each ClassLabel, "train" deciding the order where there is one."""
    names = sorted(splits, key=lambda name: name != "train")
    aligned = dict(zip(names, align_labels([splits[name] for name in names])))
    return datasets.DatasetDict({name: aligned[name] for name in splits})


def _renumbered(part: datasets.Dataset, column: str, names: Sequence[str]) -> datasets.Dataset:
    if column not in part.features:
        return part
    ids = np.array([names.index(name) for name in part.features[column].names])
    values = [ids[value].item() if value is not None and value >= 0 else value for value in part[column]]
    features = part.features.copy()
    features[column] = datasets.ClassLabel(names=list(names))
    place = part.column_names.index(column)
    table = part.data.table.set_column(place, column, pa.array(values, pa.int64()))
    return _dataset(table.replace_schema_metadata(None), features)
