"""Images with classes and styles, decoded once into one uint8 tensor.

`load_training_data` and `load_test_data` take an entry in `DATASETS`, a local folder or a Hub id.
"""

import glob
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from huggingface_hub.utils import logging as hub_logging
from torch import Tensor

from hfdiff.core.errors import BadInput, first_line
from hfdiff.core.files import existing_folder, link_out
from hfdiff.data.columns import find_columns, read_labels, read_styles
from hfdiff.data.config import BY_TYPE, ReadOptions
from hfdiff.data.decoding import IMAGE_SUFFIXES, decode_pixels
from hfdiff.data.registry import (
    DATASETS,
    SPLIT_NAMES,
    TEST_NAMES,
    VALIDATION_NAMES,
    allowed_folders,
    dataset_name,
    unknown_dataset,
)
from hfdiff.data.table import ImageTable, alike

MAX_VALIDATION = 1000


def load_training_data(dataset: str, read_options: ReadOptions = BY_TYPE) -> tuple[ImageTable, ImageTable]:
    """The training and the validation images.

    Where the data has no validation split, a tenth of the training images, at most 1,000, is held out (the same
    ones for every run); a test split is left alone, for the evaluation.
    """
    splits = _open(dataset)
    name = _training_split(splits, dataset)
    validation_name = next((part for part in VALIDATION_NAMES if part in splits and part != name), None)
    if validation_name:
        table, validation = alike(*(_decode(splits, part, dataset, read_options) for part in (name, validation_name)))
        return replace(table, split="train"), validation
    count = len(splits[name])
    held_out = min(MAX_VALIDATION, count // 10)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    order = torch.cat([order[held_out:].sort().values, order[:held_out].sort().values])
    table = _decode(splits, name, dataset, read_options, order)
    table = replace(table, split="train")
    if held_out == 0:
        return table, table
    validation = replace(table.part(slice(count - held_out, count)), split="validation")
    return table.part(slice(0, count - held_out)), validation


def load_test_data(dataset: str, read_options: ReadOptions = BY_TYPE) -> ImageTable:
    """The images of the test split, or the validation images where the data has no test split."""
    splits = _open(dataset)
    training_name = _training_split(splits, dataset)
    name = next((part for part in TEST_NAMES if part in splits and part != training_name), None)
    return (
        load_training_data(dataset, read_options)[1] if name is None else _decode(splits, name, dataset, read_options)
    )


def _open(dataset: str) -> datasets.DatasetDict:
    """Open an entry in the table, a folder or a Hub id, without decoding anything."""
    source = DATASETS[dataset].source if dataset in DATASETS else dataset
    folder = existing_folder(source)
    if folder:
        return _open_folder(folder)
    if not re.fullmatch(r"[\w-][\w.-]{0,95}(/[\w.-]{1,96})?", source):
        raise unknown_dataset(dataset)
    hub_logging.set_verbosity_error()  # one line of ours says it, not five of retries
    try:
        return datasets.load_dataset(source)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise unknown_dataset(dataset) from error
    except Exception as error:  # whatever the library and the network raise, it is this dataset that cannot be loaded
        raise BadInput(f"{unknown_dataset(dataset)} ({first_line(error)[:200]})") from error


def _open_folder(folder: Path) -> datasets.DatasetDict:
    """A folder of parquet files, of class folders, or of images with metadata.csv or metadata.jsonl."""
    if link := link_out(folder):
        raise BadInput(f"{link} is a link that leads out of the folder {folder}; copy what it stands for")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    parquet = any(path.suffix == ".parquet" for path in files)
    if not (images or parquet):
        raise BadInput(f"no images in the folder {folder}: expected parquet, class folders or metadata.csv/.jsonl")
    if parquet:
        _check_readme(folder)
        return _load(folder, str(folder))
    splits = _split_folders(folder)
    metadata = any(path.name in ("metadata.csv", "metadata.jsonl") for path in files)
    for name, place in splits.items():
        inside = [path for path in images if path.is_relative_to(place)]
        if not inside:
            raise BadInput(f"the folder {place} (split {name!r}) holds no images")
        loose = [path for path in inside if path.parent == place]
        if loose and not metadata:
            raise BadInput(f"no label column: {loose[0]} lies in no class folder, and there is no metadata.csv/.jsonl")
    data_files = {name: [f"{glob.escape(str(place))}/**"] for name, place in splits.items()}
    return _load(folder, "imagefolder", data_files=data_files, drop_labels=None if metadata else False)


def _check_readme(folder: Path) -> None:
    """BadInput where the head of a README.md, which `datasets` obeys, names data outside the folder."""
    readme = folder / "README.md"
    try:
        head = readme.read_text(encoding="utf-8").partition("---\n")[2].partition("\n---")[0]
        named = str((yaml.safe_load(head) or {}).get("configs", "")) if readme.is_file() else ""
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return  # no head that anything would obey
    if re.search(r"""['"](/|~|[^'"]*\.\.|\w+://)""", named):
        raise BadInput(f"{readme} names data outside the folder; take its 'configs' away")


def _load(folder: Path, source: str, **arguments: Any) -> datasets.DatasetDict:
    """`datasets.load_dataset`, quietly; BadInput that names the folder for whatever it raises."""
    verbosity, bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(source, **arguments)
    except Exception as error:
        cause = error.__cause__ or error
        raise BadInput(f"the folder {folder} cannot be read as a dataset: {first_line(cause)}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders, where all are named after splits, else the whole folder: a class may be called "train" too."""
    parts = {path.name: path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    splits = {name.lower(): path for name, path in parts.items() if name.lower() in SPLIT_NAMES}
    if parts and len(splits) == len(parts):
        return splits
    if any(inside.is_dir() for path in splits.values() for inside in path.iterdir()):
        others = [name for name in parts if name.lower() not in SPLIT_NAMES]
        raise BadInput(
            f"the folder {folder} holds splits ({', '.join(splits)}) beside {', '.join(others)}: move those away"
        )
    return {"train": folder}


def _training_split(splits: datasets.DatasetDict, dataset: str) -> str:
    if "train" in splits:
        return "train"
    if len(splits) == 1:
        return next(iter(splits))
    raise BadInput(f"dataset {dataset!r} has no split 'train'; its splits: {', '.join(splits)}")


def _decode(
    splits: datasets.DatasetDict, split_name: str, dataset: str, read_options: ReadOptions, order: Tensor | None = None
) -> ImageTable:
    """Read one split; row `order[i]` becomes image i."""
    split = splits[split_name]
    order = torch.arange(len(split)) if order is None else order
    if len(split) == 0:
        raise BadInput(f"dataset {dataset!r} holds no images in its split {split_name!r}")
    columns = find_columns(split.features, read_options)
    labels, class_names = read_labels(splits, split_name, columns.label)
    style_weights, style_names = read_styles(splits, split_name, columns)
    return ImageTable(
        pixels=decode_pixels(
            split.select_columns(columns.image),
            columns.image,
            read_options.resolution,
            order.argsort(),
            allowed_folders(dataset),
        ),
        labels=labels[order],
        style_weights=style_weights[order],
        class_names=class_names,
        style_names=style_names,
        name=dataset_name(dataset),
        split=split_name,
    )
