"""Pictures with classes and styles, decoded once into one uint8 tensor.

`load_training_data` and `load_test_data` take a row of `DATASETS`, a local folder or a Hub id. Columns are found by
their feature type, never by name, so any image data set of the Hub works.
"""

import glob
import hashlib
import io
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

import datasets
import numpy as np
import torch
import yaml
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.utils import logging as hub_logging
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from hfdiff.core.errors import BadInput, first_line
from hfdiff.core.files import existing_folder, is_inside, link_out
from hfdiff.core.names import unknown
from hfdiff.pipelines import parse_styles, plain_picture

ASSETS = Path(__file__).parent / "assets"


Half = Literal["first", "second", "whole"]


@dataclass(frozen=True)
class DataSet:
    """A data set known by a short name: where it is, and what is to be said of it."""

    source: str  # a Hub id, or a folder inside the package
    about: str
    judge: str | None = None  # folder of the embedded judge of this data set, in `ASSETS`
    clip: str | None = None  # the same of its small CLIP, the default scorer
    part_of: str | None = None  # the Hub id of the whole, for an embedded part

    @property
    def hub_id(self) -> str:
        return self.part_of or self.source


DATASETS: dict[str, DataSet] = {
    "fashion_mnist_12k": DataSet(
        str(ASSETS / "fashion_mnist_12k"),
        "embedded: 10,000 + 2,000 pictures of Fashion-MNIST's train split, 28x28 grey, 10 classes",
        judge="judge_fashion_mnist",
        clip="clip_fashion_mnist",
        part_of="zalando-datasets/fashion_mnist",
    ),
    "fashion_mnist": DataSet(
        "zalando-datasets/fashion_mnist",
        "70,000 pictures of clothes, 28x28 grey, 10 classes",
        judge="judge_fashion_mnist",
        clip="clip_fashion_mnist",
    ),
    "cifar10": DataSet(
        "uoft-cs/cifar10", "60,000 photographs, 32x32 colour, 10 classes", "judge_cifar10", "clip_cifar10"
    ),
}

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "eval")
TEST_NAMES = ("test", "testing")
SPLIT_NAMES = frozenset(("train", "training", *VALIDATION_NAMES, *TEST_NAMES))
PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"))
TURNED_FORMATS = frozenset(("JPEG", "MPO", "TIFF", "WEBP"))  # cameras write an orientation into these
MAX_VALIDATION = 1000


@dataclass(frozen=True)
class ImageTable:
    """N pictures with one class each and the strengths of the styles that the data itself names."""

    pixels: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64 in [0, len(class_names))
    style_weights: Tensor  # (N, S) float32 in [0, 1]; S = 0 where the data names no styles
    class_names: tuple[str, ...]
    style_names: tuple[str, ...]
    name: str
    split: str = "train"

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[2], self.pixels.shape[3]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels, style strengths and names, the first 16 hex digits."""
        digest = hashlib.sha256(repr((self.class_names, self.style_names, tuple(self.pixels.shape))).encode())
        for tensor in (self.pixels, self.labels, self.style_weights):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def class_counts(self) -> list[int]:
        return torch.bincount(self.labels.cpu(), minlength=len(self.class_names)).tolist()

    def part(self, index: slice | Tensor) -> "ImageTable":
        """The pictures at `index`; a slice shares the memory, a tensor of int64 copies."""
        return replace(
            self, pixels=self.pixels[index], labels=self.labels[index], style_weights=self.style_weights[index]
        )

    def half(self, half: Half) -> "ImageTable":
        """The pictures of one half. Their content decides (the parity of its CRC-32), so that a picture is in the same
        half in whatever data set, order or split it comes."""
        if half == "whole":
            return self
        parity = torch.tensor([zlib.crc32(picture.numpy().data) % 2 for picture in self.pixels.cpu().contiguous()])
        return self.part((parity == (half == "second")).nonzero().squeeze(1))

    def to(self, device: torch.device) -> "ImageTable":
        """On the device, or where it is if that would take more than half of a GPU's free memory."""
        if device.type == "cuda" and self.pixels.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        return replace(
            self,
            pixels=self.pixels.to(device),
            labels=self.labels.to(device),
            style_weights=self.style_weights.to(device),
        )


@dataclass(frozen=True)
class Reading:
    """How a data set is to be read, where its feature types do not say it all."""

    resolution: int | None = None  # pixels a side; None keeps the size that all pictures share
    image_column: str | None = None
    label_column: str | None = None
    style_columns: tuple[str, ...] = ()  # empty: by type; ("none",): no styles


@dataclass(frozen=True)
class Columns:
    """Which column of a data set holds what."""

    image: str
    label: str
    styles: tuple[str, ...]  # columns that give style strengths


BY_TYPE = Reading()


def load_training_data(dataset: str, reading: Reading = BY_TYPE) -> tuple[ImageTable, ImageTable]:
    """The training and the validation pictures.

    Where the data has no validation split, a tenth of the training pictures, at most 1,000, is held out (the same
    ones for every run); a test split is left alone, for the evaluation.
    """
    splits = _open(dataset)
    name = _training_split(splits, dataset)
    validation_name = next((part for part in VALIDATION_NAMES if part in splits and part != name), None)
    if validation_name:
        table, validation = alike(*(_decode(splits, part, dataset, reading) for part in (name, validation_name)))
        return replace(table, split="train"), validation
    count = len(splits[name])
    held_out = min(MAX_VALIDATION, count // 10)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    order = torch.cat([order[held_out:].sort().values, order[:held_out].sort().values])
    table = _decode(splits, name, dataset, reading, order)
    table = replace(table, split="train")
    if held_out == 0:
        return table, table
    validation = replace(table.part(slice(count - held_out, count)), split="validation")
    return table.part(slice(0, count - held_out)), validation


def alike(first: ImageTable, second: ImageTable) -> tuple[ImageTable, ImageTable]:
    """Two splits with as many channels, grey made colour where only one is; BadInput where their sizes differ."""
    if first.size != second.size:
        raise BadInput(
            f"data set {first.name!r}: {first.split} and {second.split} pictures differ in size; give --resolution"
        )
    if first.channels == second.channels:
        return first, second
    colour = (replace(table, pixels=table.pixels.expand(-1, 3, -1, -1).contiguous()) for table in (first, second))
    return next(colour), next(colour)


def load_test_data(dataset: str, reading: Reading = BY_TYPE) -> ImageTable:
    """The pictures of the test split, or the validation pictures where the data has no test split."""
    splits = _open(dataset)
    training_name = _training_split(splits, dataset)
    name = next((part for part in TEST_NAMES if part in splits and part != training_name), None)
    return load_training_data(dataset, reading)[1] if name is None else _decode(splits, name, dataset, reading)


def to_model_range(pixels: Tensor) -> Tensor:
    """NCHW uint8 -> NCHW float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_unit_range(pixels: Tensor) -> Tensor:
    """NCHW uint8 -> NCHW float32 in [0, 1]."""
    return pixels.float() / 255


def to_bytes(images: Tensor) -> Tensor:
    """Pictures (N, C, H, W) float32 in [0, 1] -> uint8 on the CPU; BadInput for what is no number."""
    if not images.isfinite().all():
        row = int((~images.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise BadInput(f"picture {row} holds pixels that are no numbers (NaN or infinite); nothing was measured")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def open_picture(file: str | IO[bytes]) -> Image.Image:
    """The picture, not decoded yet. Pillow refuses only twice the size that it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file)


def upright(image: Image.Image) -> Image.Image:
    """The picture, turned as its camera says."""
    return ImageOps.exif_transpose(image) if image.format in TURNED_FORMATS else image


def describe(table: ImageTable) -> str:
    """The class table with counts, as printed before training."""
    height, width = table.size
    kind = {1: "grey", 3: "colour"}[table.channels]
    counts = table.class_counts()
    wide = max(map(len, table.class_names))
    lines = [f"{table.name}: {len(table):,} pictures, {height}x{width} {kind}, {len(counts)} classes"]
    lines += [f"  {i:>3}  {name:<{wide}}  {n:>7,}" for i, (name, n) in enumerate(zip(table.class_names, counts))]
    return "\n".join(lines)


def _open(dataset: str) -> datasets.DatasetDict:
    """Open a row of the table, a folder or a Hub id, without decoding anything."""
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
    except Exception as error:  # whatever the library and the network raise, it is this data set that cannot be had
        raise BadInput(f"{unknown_dataset(dataset)} ({first_line(error)[:200]})") from error


def unknown_dataset(dataset: str) -> BadInput:
    near = get_close_matches(dataset, DATASETS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return BadInput(
        f"unknown data set {dataset[:100]!r}{hint}: not a row ({', '.join(DATASETS)}), not a folder, "
        "and not to be had from the Hugging Face Hub"
    )


def _open_folder(folder: Path) -> datasets.DatasetDict:
    """A folder of parquet files, of class folders, or of pictures with metadata.csv or metadata.jsonl."""
    if link := link_out(folder):
        raise BadInput(f"{link} is a link that leads out of the folder {folder}; copy what it stands for")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    parquet = any(path.suffix == ".parquet" for path in files)
    if not (pictures or parquet):
        raise BadInput(f"no pictures in the folder {folder}: expected parquet, class folders or metadata.csv/.jsonl")
    if parquet:
        _check_readme(folder)
        return _load(folder, str(folder))
    splits = _split_folders(folder)
    metadata = any(path.name in ("metadata.csv", "metadata.jsonl") for path in files)
    for name, place in splits.items():
        inside = [path for path in pictures if path.is_relative_to(place)]
        if not inside:
            raise BadInput(f"the folder {place} (split {name!r}) holds no pictures")
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
        raise BadInput(f"the folder {folder} cannot be read as a data set: {first_line(cause)}") from error
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
    raise BadInput(f"data set {dataset!r} has no split 'train'; its splits: {', '.join(splits)}")


def find_columns(features: datasets.Features, reading: Reading) -> Columns:
    """Find the columns by feature type.

    Picture: the Image. Class: the ClassLabel, else the one column of text or whole numbers. Styles: columns of
    fractions (the column's name is the style, its value the strength), truth values, lists of style names, or a text
    column called `styles` in the grammar "thick:0.8+slanted".
    """
    given_styles = () if reading.style_columns == ("none",) else reading.style_columns
    for chosen in (reading.image_column, reading.label_column, *given_styles):
        if chosen is not None and chosen not in features:
            raise unknown("column", chosen, features)
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    image = reading.image_column or _only(images, "picture", "choose one with --image_column")

    def is_type(name: str, pattern: str) -> bool:
        return re.match(pattern, str(getattr(features[name], "dtype", ""))) is not None

    styles = given_styles
    if not reading.style_columns:
        free = [name for name in features if name not in (image, reading.label_column)]
        styles = tuple(
            name
            for name in free
            if isinstance(features[name], datasets.List)
            or is_type(name, "bool|float")
            or (name == "styles" and is_type(name, "(large_)?string"))
        )
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [n for n in features if n not in (image, *styles) and is_type(n, "(large_)?string|u?int")]
    advice = "choose one with --label_column, or name the styles with --style_columns"
    label = reading.label_column or _only(labels, "label", advice)
    if not (isinstance(features[label], datasets.ClassLabel) or is_type(label, "(large_)?string|u?int|bool")):
        raise BadInput(f"column {label!r} is no label column; valid: class labels, text or whole numbers")
    return Columns(image, label, styles)


def _only(names: Sequence[str], what: str, advice: str) -> str:
    if not names:
        raise BadInput(f"the data has no {what} column; give class folders or a metadata file, or {advice}")
    if len(names) > 1:
        raise BadInput(f"the data has several {what} columns ({', '.join(names)}): {advice}")
    return names[0]


def _decode(
    splits: datasets.DatasetDict, split_name: str, dataset: str, reading: Reading, order: Tensor | None = None
) -> ImageTable:
    """Read one split; row `order[i]` becomes picture i."""
    split = splits[split_name]
    order = torch.arange(len(split)) if order is None else order
    if len(split) == 0:
        raise BadInput(f"data set {dataset!r} holds no pictures in its split {split_name!r}")
    columns = find_columns(split.features, reading)
    labels, class_names = _labels(splits, split_name, columns.label)
    style_weights, style_names = _styles(splits, split_name, columns)
    return ImageTable(
        pixels=_pixels(
            split.select_columns(columns.image), columns.image, reading.resolution, order.argsort(), _places(dataset)
        ),
        labels=labels[order],
        style_weights=style_weights[order],
        class_names=class_names,
        style_names=style_names,
        name=_name_of(dataset),
        split=split_name,
    )


def _name_of(dataset: str) -> str:
    """A folder goes by its last part, which says nothing of the machine, and a slash, which no other name ends in."""
    folder = None if dataset in DATASETS else existing_folder(dataset)
    return f"{folder.resolve().name}/" if folder else dataset


def _labels(splits: datasets.DatasetDict, split_name: str, column: str) -> tuple[Tensor, tuple[str, ...]]:
    values = list(splits[split_name][column])
    kind = splits[split_name].features[column]
    for row, value in enumerate(values):
        if value is None:
            raise BadInput(f"row {row}: column {column!r} gives no class")
    if isinstance(kind, datasets.ClassLabel):
        names = tuple(kind.names)
    else:
        every_value = {value for split in splits.values() for value in split[column] if value is not None}
        names = tuple(map(str, sorted(every_value)))
        ids = {name: i for i, name in enumerate(names)}
        if values and isinstance(values[0], int) and min(values) < 0:
            raise BadInput(f"row {values.index(min(values))}: label {min(values)} out of range; valid: 0 and above")
        values = [ids[str(value)] for value in values]
    for row, value in enumerate(values):
        if not 0 <= value < len(names):
            raise BadInput(f"row {row}: label {value} out of range; valid: 0 to {len(names) - 1}")
    if {name.lower() for name in names} <= SPLIT_NAMES:
        raise BadInput(f"the classes {', '.join(names)} are names of splits: put one folder for each class inside them")
    return torch.tensor(values, dtype=torch.int64), names


def _styles(splits: datasets.DatasetDict, split_name: str, columns: Columns) -> tuple[Tensor, tuple[str, ...]]:
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


def _places(dataset: str) -> Sequence[Path]:
    """Where the files of a data set may lie that its rows name: in its folder, or where the Hub's files are kept."""
    folder = existing_folder(dataset)
    return (folder,) if folder else (Path(HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE))


def _pixels(
    split: datasets.Dataset, column: str, resolution: int | None, place: Tensor, places: Sequence[Path]
) -> Tensor:
    """Decode every picture once: (N, C, H, W) uint8, three channels where any picture has colour.

    Row i goes straight to `place[i]`, so that no second copy is ever made.
    """
    size = None if resolution is None else (resolution, resolution)
    first, pixels = "", torch.empty(0, dtype=torch.uint8)
    rows = split.cast_column(column, datasets.Image(decode=False))
    for row, (where, image) in enumerate(_pictures(rows, column, places)):
        try:
            array = torch.from_numpy(_to_array(image, size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(where, error) from error
        if row == 0:
            first, pixels = where, torch.empty((len(split), *array.shape), dtype=torch.uint8)
        if array.shape[1:] != pixels.shape[2:]:
            sizes = [f"{height}x{width}" for height, width in (pixels.shape[2:], array.shape[1:])]
            raise BadInput(
                f"pictures of mixed sizes (height x width): {first} is {sizes[0]}, {where} is {sizes[1]}; "
                "give --resolution to resize them all"
            )
        if len(array) > pixels.shape[1]:
            pixels = pixels.repeat(1, 3, 1, 1)
        pixels[place[row]] = array
    return pixels


def _unreadable(where: str, error: Exception) -> BadInput:
    return BadInput(f"{where}: not a readable picture ({first_line(error)})")


def _pictures(split: datasets.Dataset, column: str, places: Sequence[Path]) -> Iterator[tuple[str, Image.Image]]:
    """Each picture, opened but not decoded, with the file or row that it comes from."""
    row = 0
    for batch in split.iter(batch_size=1000):
        for cell in batch[column]:
            if cell is None:
                raise BadInput(f"row {row}: there is no picture")
            if cell["bytes"] is None and not is_inside(Path(cell["path"] or "/"), places):
                raise BadInput(f"row {row} names {cell['path']!r}, which lies outside the data set")
            where = cell["path"] if cell.get("path") and not cell.get("bytes") else f"row {row}"
            try:
                image = open_picture(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"])
            except (OSError, TypeError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                raise _unreadable(where, error) from error
            yield where, image
            image.close()
            row += 1


def _to_array(image: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    """PIL of any mode -> CHW uint8 of one or three channels; transparent parts become white, 16 bits become 8."""
    image = plain_picture(upright(image))
    if size is not None and image.size != size:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    array = np.array(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
