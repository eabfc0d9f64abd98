"""Images with classes and styles, decoded once into one uint8 tensor.

`load_training_data` and `load_test_data` take an entry in `DATASETS`, a local folder or a Hub id.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub import DatasetCard
from huggingface_hub.utils import logging as hub_logging
from torch import Tensor

from hfdiff.core.errors import BadInput, first_line
from hfdiff.core.files import existing_folder, is_inside, link_out
from hfdiff.data.columns import Columns, find_columns, is_label, read_labels, read_styles
from hfdiff.data.config import BY_TYPE, ReadOptions
from hfdiff.data.decoding import decode_pixels
from hfdiff.data.folder import Listing, Tree, find_splits, folder_classes, list_files
from hfdiff.data.metadata import FILE_NAME, read_metadata, typed_columns
from hfdiff.data.parquet import align_splits, read_parquet, recognise_images
from hfdiff.data.registry import (
    DATASETS,
    TEST_NAMES,
    VALIDATION_NAMES,
    allowed_folders,
    dataset_name,
    unknown_dataset,
)
from hfdiff.data.table import ImageTable, alike
from hfdiff.pipelines import shown

FEW = 10  # training images of a class that are worth a word
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")
MAX_VALIDATION = 1000


def load_training_data(dataset: str, read_options: ReadOptions = BY_TYPE) -> tuple[ImageTable, ImageTable]:
    """The training and the validation images; see `Opened.training`."""
    return open_dataset(dataset, read_options).training()


def load_test_data(dataset: str, read_options: ReadOptions = BY_TYPE) -> ImageTable:
    """The images of the test split, or the validation images where the data has no test split."""
    opened = open_dataset(dataset, read_options)
    test = opened.test()
    return opened.training()[1] if test is None else test


def hold_out(labels: Tensor) -> tuple[Tensor, int]:
    """An order of all rows, those that are held out last, and how many these are; no class loses its last row."""
    count = len(labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    left, held = torch.bincount(labels).tolist(), []
    for row in order[: min(MAX_VALIDATION, count // 10)].tolist():
        if left[labels[row]] > 1:
            left[labels[row]] -= 1
            held.append(row)
    is_held = torch.zeros(count, dtype=torch.bool)
    is_held[held] = True
    return torch.cat([(~is_held).nonzero().squeeze(1), is_held.nonzero().squeeze(1)]), len(held)


@dataclass(frozen=True)
class Opened:
    """A dataset whose rows are known, and no image is decoded yet."""

    dataset: str
    splits: datasets.DatasetDict
    read_options: ReadOptions
    notes: tuple[str, ...] = ()  # what was left out, and what was decided

    def training(self) -> tuple[ImageTable, ImageTable]:
        """The training and the validation images.

        Where the data has no validation split, a tenth of the training images, at most 1,000, is held out (the same
        ones for every run), but for the last image of a class; a test split is left alone, for the evaluation.
        """
        name = self.training_split()
        validation_name = next((part for part in VALIDATION_NAMES if part in self.splits and part != name), None)
        if validation_name:
            table, validation = alike(self.decode(name), self.decode(validation_name))
            return replace(table, split="train"), validation
        labels = self.labels(name)[0]
        order, held_out = hold_out(labels)
        count = len(labels)
        table = replace(self.decode(name, order), split="train")
        if held_out == 0:
            return table, table
        validation = replace(table.part(slice(count - held_out, count)), split="validation")
        return table.part(slice(0, count - held_out)), validation

    def test(self) -> ImageTable | None:
        """The images of the test split, where there is one."""
        training = self.training_split()
        name = next((part for part in TEST_NAMES if part in self.splits and part != training), None)
        return None if name is None else self.decode(name)

    def training_split(self) -> str:
        if "train" in self.splits:
            return "train"
        if len(self.splits) == 1:
            return next(iter(self.splits))
        raise BadInput(f"dataset {self.dataset!r} has no split 'train'; its splits: {', '.join(self.splits)}")

    def columns(self, split_name: str) -> Columns:
        return find_columns(self.splits[split_name], self.read_options)

    def labels(self, split_name: str) -> tuple[Tensor, tuple[str, ...]]:
        return read_labels(self.splits, split_name, self.columns(split_name).label)

    def decode(self, split_name: str, order: Tensor | None = None) -> ImageTable:
        """Read one split; row `order[i]` becomes image i."""
        split = self.splits[split_name]
        order = torch.arange(len(split)) if order is None else order
        columns = self.columns(split_name)
        labels, class_names = self.labels(split_name)
        style_weights, style_names = read_styles(self.splits, split_name, columns)
        kinds: Counter[str] = Counter()
        pixels = decode_pixels(
            split.select_columns(columns.image),
            columns.image,
            self.read_options.resolution,
            order.argsort(),
            allowed_folders(self.dataset),
            kinds,
        )
        return ImageTable(
            pixels=pixels,
            labels=labels[order],
            style_weights=style_weights[order],
            class_names=class_names,
            style_names=style_names,
            name=dataset_name(self.dataset),
            split=split_name,
            notes=(*self.notes, *self._found(columns), f"files: {', '.join(f'{k} {n:,}' for k, n in kinds.items())}"),
        )

    def _found(self, columns: Columns) -> Iterator[str]:
        styles = f"; styles by {', '.join(map(repr, columns.styles))}" if columns.styles else ""
        yield f"classes by {columns.label!r}{styles}"
        counts = {name: len(split) for name, split in self.splits.items()}
        yield f"splits: {', '.join(f'{name} {count:,}' for name, count in counts.items())}"


def stand_in_data(dataset: str, read_options: ReadOptions) -> tuple[ImageTable, ImageTable] | None:
    """Noise in the shape of a dataset of the table that is on the Hub, for what does not look at images; None for
    all others."""
    spec = DATASETS.get(dataset)
    if spec is None or existing_folder(spec.source):
        return None
    count, channels, height, width = spec.shape
    if read_options.resolution:
        height = width = read_options.resolution
    table = ImageTable(
        pixels=torch.randint(256, (count, channels, height, width), dtype=torch.uint8),
        labels=torch.arange(count) % spec.num_classes,
        style_weights=torch.empty(count, 0),
        class_names=tuple(map(str, range(spec.num_classes))),
        style_names=(),
        name=dataset,
    )
    return table, table.part(slice(0, MAX_VALIDATION))


def open_dataset(dataset: str, read_options: ReadOptions = BY_TYPE) -> Opened:
    """Open an entry in the table, a folder or a Hub id; BadInput for what cannot be read, or read in two ways."""
    source = DATASETS[dataset].source if dataset in DATASETS else dataset
    folder = existing_folder(source)
    if folder:
        splits, notes = _open_folder(folder, read_options)
        notes = [] if dataset in DATASETS else notes  # what lies beside embedded data is known
    else:
        splits, notes = _load_from_hub(dataset, source), []
        splits = datasets.DatasetDict({name: recognise_images(split) for name, split in splits.items()})
    empty = [name for name, split in splits.items() if len(split) == 0]
    if "train" in empty or len(empty) == len(splits):
        raise BadInput(f"dataset {dataset!r} holds no images in its split {next(iter(empty), 'train')!r}")
    notes += [f"left out: the split {name!r}, which is empty" for name in empty]
    splits = datasets.DatasetDict({name: split for name, split in splits.items() if name not in empty})
    opened = Opened(dataset, splits, read_options, tuple(notes))
    return replace(opened, notes=(*opened.notes, *_check_classes(opened, refuse=folder is not None)))


def _check_classes(opened: Opened, refuse: bool) -> list[str]:
    """What is to be said of classes without training images; BadInput for those of other splits, where they can be
    mended."""
    name = opened.training_split()
    labels, names = opened.labels(name)
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    notes = []
    for split in opened.splits:
        if split == name:
            continue
        only = [names[i] for i in opened.labels(split)[0].unique().tolist() if not counts[i]]
        if only:
            text = f"class {', '.join(map(repr, only[:5]))} has images in the split {split!r} and none in {name!r}"
            if refuse:
                raise BadInput(f"{text}; move some there, or take them away")
            notes.append(f"warning: {text}")
    few = [f"{shown(names[i])} {count}" for i, count in enumerate(counts) if count < FEW]
    if few:
        notes.append(
            f"warning: classes with fewer than {FEW} training images: {', '.join(few[:10])}{' ...' * (len(few) > 10)}"
        )
    return notes


def _load_from_hub(dataset: str, source: str) -> datasets.DatasetDict:
    if not re.fullmatch(r"[\w-][\w.-]{0,95}(/[\w.-]{1,96})?", source):
        raise unknown_dataset(dataset)
    hub_logging.set_verbosity_error()  # one line of ours says it, not five of retries
    try:
        return datasets.load_dataset(source)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise unknown_dataset(dataset) from error
    except Exception as error:  # whatever the library and the network raise, it is this dataset that cannot be loaded
        raise unknown_dataset(dataset, first_line(error)[:200]) from error


def _open_folder(folder: Path, read_options: ReadOptions) -> tuple[datasets.DatasetDict, list[str]]:
    """A folder of parquet files, of `save_to_disk`, of class folders, or of images with metadata."""
    if link := link_out(folder):
        raise BadInput(f"{link} is a link that leads out of the folder {folder}; copy what it stands for")
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _load_saved(folder), []
    folder = folder.resolve()
    files = list_files(folder)
    if files.parquet:
        return _load_parquet(folder, files)
    if not files.images:
        packed = next((path for path in files.others if path.suffix.lower() in ARCHIVES), None)
        hint = f"; unpack {packed.name}" if packed else ""
        raise BadInput(
            f"no images in the folder {folder}: expected parquet, class folders or metadata.csv/.jsonl{hint}"
        )
    return _load_images(folder, files, read_options)


def _load_images(folder: Path, files: Listing, options: ReadOptions) -> tuple[datasets.DatasetDict, list[str]]:
    """Class folders, or images with metadata, without `datasets.imagefolder`: that guesses what a text means, takes the
    innermost folder for the class, leaves files out in silence, and knows a file again by name and time alone."""
    trees = find_splits(Tree.of(folder, files.images))
    has_class_folders = not any(tree.loose for tree in trees.values())
    rows = read_metadata(files.metadata, files.images, folder) if files.metadata else {}
    images = list(rows) or files.images
    columns, notes = typed_columns(list(rows.values()), options, has_class_folders)
    if not rows or not (options.label_column or any(is_label(name, kind) for name, (_, kind) in columns.items())):
        classes = {image: name for tree in trees.values() for image, name in folder_classes(tree).items()}
        kind = datasets.ClassLabel(names=sorted(set(classes.values())))
        columns["label" if "label" not in columns else "class folder"] = [classes[image] for image in images], kind
    files_column = "image" if "image" not in columns else FILE_NAME
    columns = {files_column: (list(map(str, images)), datasets.Image(decode=False)), **columns}
    features = datasets.Features({name: kind for name, (_, kind) in columns.items()})
    row_of = {image: row for row, image in enumerate(images)}
    splits = {}
    for split, tree in trees.items():
        picked = sorted(row_of[image] for image in tree.images())
        data = {name: [values[row] for row in picked] for name, (values, _) in columns.items()}
        splits[split] = datasets.Dataset.from_dict(data, features=features)
    return datasets.DatasetDict(splits), [*files.left_out(), *notes]


def _load_parquet(folder: Path, files: Listing) -> tuple[datasets.DatasetDict, list[str]]:
    """The files that `datasets` counts to each split, by their names or the head of a README.md."""
    check_configs(folder)
    inside = [path for path in files.images if path.parent != folder]
    if inside:
        raise BadInput(f"the folder {folder} holds parquet and images in folders ({inside[0]}); move one of both away")
    with _quietly(folder):
        builder = datasets.load_dataset_builder(str(folder))
        if not isinstance(builder, Parquet):  # more images than tables
            builder = datasets.load_dataset_builder("parquet", data_dir=str(folder))
    parts = {str(name): [Path(file) for file in paths] for name, paths in builder.config.data_files.items()}
    read = {file.resolve() for paths in parts.values() for file in paths}
    outside = next((file for file in read if not is_inside(file, (folder,))), None)
    if outside:
        raise BadInput(f"{outside} lies outside the folder {folder}; copy it into the folder")
    missed = [file for file in files.parquet if file not in read]
    splits = align_splits({name: read_parquet(paths) for name, paths in parts.items()})
    beside = replace(files, others=[*files.others, *files.images, *missed])
    return splits, beside.left_out()


def _load_saved(folder: Path) -> datasets.DatasetDict:
    """What `save_to_disk` wrote."""
    with _quietly(folder):
        saved = datasets.load_from_disk(str(folder))
    splits = saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict({"train": saved})
    return align_splits({name: recognise_images(split) for name, split in splits.items()})


def check_configs(folder: Path) -> None:
    """BadInput where what `datasets` obeys in a folder, as it reads it, names data outside: a README's head, or
    .huggingface.yaml."""
    for file in (folder / "README.md", folder / ".huggingface.yaml"):
        if not file.is_file():
            continue
        try:
            if file.suffix == ".md":
                known = DatasetCard.load(file, ignore_metadata_errors=True).data.to_dict()
            else:
                known = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            raise BadInput(f"the head of {file} cannot be read: {first_line(error)}; take it away") from error
        named = [text for text in _texts(known) if re.search(r"^[/~\\]|[:]|(^|[/\\])\.\.([/\\]|$)", text)]
        if named:
            raise BadInput(f"{file} names data outside the folder ({named[0][:100]!r}); take its 'configs' away")


def _texts(known: Any, below: bool = False) -> Iterator[str]:
    """All texts under the key "configs"."""
    if isinstance(known, Mapping):
        for key, value in known.items():
            yield from _texts(value, below or key == "configs")
    elif isinstance(known, list | tuple):
        for value in known:
            yield from _texts(value, below)
    elif below and isinstance(known, str):
        yield known


@contextlib.contextmanager
def _quietly(folder: Path) -> Iterator[None]:
    """While entered, `datasets` is silent, and whatever it raises is a BadInput that names the folder."""
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error
        raise BadInput(f"the folder {folder} cannot be read as a dataset: {first_line(cause)}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)
