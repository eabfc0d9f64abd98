"""metadata.csv, .jsonl and .parquet beside images: read as text, with types that are decided here."""

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet

from hfdiff.core.errors import BadInput, first_line
from hfdiff.data.config import ReadOptions

FILE_NAME = "file_name"
DELIMITERS = (",", ";", "\t", "|")
NUMBER, TRUTH = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*"), ("true", "false")

Row = Mapping[str, Any]
"""Column -> text, list of texts, or None where nothing stands."""


def read_metadata(files: Iterable[Path], images: Sequence[Path], root: Path) -> dict[Path, Row]:
    """Image -> its row, in the order of the rows; BadInput unless each image has exactly one, and each row an image."""
    known = {unicodedata.normalize("NFC", str(image)): image for image in images}  # a Mac's file system decomposes
    rows: dict[Path, Row] = {}
    for file in files:
        for number, row in enumerate(_read(file), start=1):
            image = _image_of(row, file, number, known, root)
            if image in rows:
                raise BadInput(f"{file}: {row[FILE_NAME]!r} has two rows; keep one")
            rows[image] = {name: value for name, value in row.items() if name != FILE_NAME}
    missing = [image for image in images if image not in rows]
    if missing:
        raise BadInput(
            f"{len(missing):,} of {len(images):,} images have no row in the metadata ({missing[0]}); add the rows, or "
            "move the images away"
        )
    return rows


def _image_of(row: Row, file: Path, number: int, known: Mapping[str, Path], root: Path) -> Path:
    if FILE_NAME not in row:
        raise BadInput(f"{file} has no column {FILE_NAME!r}; its columns: {', '.join(row)}")
    name = str(row[FILE_NAME] or "")
    for spelling in (name, name.replace("\\", "/")):
        image = Path(os.path.normpath(file.parent / spelling))
        if found := known.get(unicodedata.normalize("NFC", str(image))):
            return found
    if name and not image.is_relative_to(root):
        raise BadInput(f"{file}: row {number} names {name!r}, which lies outside the dataset")
    raise BadInput(f"{file}: row {number} names {name!r}, which is no image in {file.parent}")


def _read(file: Path) -> list[dict[str, Any]]:
    if file.suffix.lower() == ".parquet":
        try:
            cells = pyarrow.parquet.read_table(file).to_pylist()
        except (OSError, ValueError) as error:
            raise BadInput(f"{file} cannot be read: {first_line(error)}") from error
        return [{name: _as_text(value) for name, value in row.items()} for row in cells]
    text = _decode(file)
    return _read_csv(file, text) if file.suffix.lower() == ".csv" else _read_jsonl(file, text)


def _decode(file: Path) -> str:
    content = file.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is no UTF-8 (byte {error.start}); save it as UTF-8") from error


def _read_csv(file: Path, text: str) -> list[dict[str, Any]]:
    try:
        for delimiter in DELIMITERS:
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
            header = [name.strip() for name in next(lines, [])]
            if FILE_NAME in header:
                break
        else:
            raise BadInput(f"{file} has no column {FILE_NAME!r}; its first line: {text.partition(chr(10))[0][:100]!r}")
        if len(set(header)) < len(header):
            raise BadInput(f"{file} names a column twice: {', '.join(header)}")
        rows = []
        for cells in filter(None, lines):
            if len(cells) != len(header):
                raise BadInput(f"{file}:{lines.line_num}: {len(cells)} cells under {len(header)} columns")
            if any(cell.strip() for cell in cells):  # spreadsheets leave rows of delimiters
                rows.append({name: cell.strip() or None for name, cell in zip(header, cells)})
        return rows
    except csv.Error as error:
        raise BadInput(f"{file} is not CSV: {error}") from error


def _read_jsonl(file: Path, text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=str, parse_float=str)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{file}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise BadInput(f"{file}:{number} holds a {type(row).__name__}; valid: an object with {FILE_NAME}")
        rows.append({str(name).strip(): _as_text(value) for name, value in row.items()})
    return rows


def _as_text(value: Any) -> Any:
    """Numbers and truth values as they are written; lists of those; what is neither (an object) stays what it is."""
    if isinstance(value, bool):
        return TRUTH[not value]
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, str):
        return value.strip() or None
    return value if value is None or isinstance(value, dict) else str(value)


def typed_columns(
    rows: Sequence[Row], options: ReadOptions, has_class_folders: bool
) -> tuple[dict[str, tuple[list, Any]], list[str]]:
    """Column -> its values and their `datasets` feature, and what has been decided, in words.

    Text is text ("007", "NA", "1.0"), but for columns of fractions, which give a style's strength, of true and false,
    which say whether a style is there, and of lists of styles. A column that is alone gives the class in any case.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns, notes = {}, []
    for name in names:
        values = [row.get(name) for row in rows]
        if all(value is None for value in values):
            continue
        if any(isinstance(value, dict) for value in values):
            notes.append(f"metadata: column {name!r} holds objects, and is left out")
            continue
        alone = len(names) == 1 and not has_class_folders and name not in options.style_columns
        has_lists = any(isinstance(value, list) for value in values)
        plain = (alone or name == options.label_column) and not has_lists
        columns[name] = (values, datasets.Value("string")) if plain else _typed(values, name in options.style_columns)
    return columns, notes


def _typed(values: list, is_style: bool) -> tuple[list, Any]:
    present = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in present):
        lists = [value if value is None or isinstance(value, list) else [value] for value in values]
        return [None if value is None else [item or "" for item in value] for value in lists], datasets.List(
            datasets.Value("string")
        )
    if present and all(value.lower() in TRUTH for value in present):
        return [None if value is None else value.lower() == "true" for value in values], datasets.Value("bool")
    numbers = bool(present) and all(NUMBER.fullmatch(value) for value in present)
    if numbers and (is_style or any("." in value for value in present)):
        return [None if value is None else float(value) for value in values], datasets.Value("float32")
    return values, datasets.Value("string")
