"""Images that any program made, in place of a model's samples: class folders, or parquet with a class column."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hfdiff.core.errors import BadInput
from hfdiff.core.files import slug
from hfdiff.core.names import unknown
from hfdiff.data.config import ReadOptions
from hfdiff.data.loading import open_dataset
from hfdiff.data.table import ImageTable, alike
from hfdiff.evaluation.features import content_order
from hfdiff.pipelines import find_name, shown


def read_samples(
    folder: Path, real: ImageTable, read_options: ReadOptions, seed: int, most: int | None = None
) -> ImageTable:
    """The images of a folder, with the classes, size and channels of the dataset `real`: pixels (N, C, H, W) uint8,
    in `content_order`, the first `most` of them.

    BadInput for another size, colour where the dataset is grey, a class that it does not have, or fewer than `most`.
    """
    opened = open_dataset(str(folder.expanduser().resolve()), replace(read_options, style_columns=("none",)))
    if len(opened.splits) > 1:
        raise BadInput(
            f"{folder} holds the splits {', '.join(sorted(opened.splits))}; give a folder with the samples alone"
        )
    table = _with_shape(opened.decode(opened.training_split()), real)
    ids = torch.tensor(class_ids(table.class_names, real.class_names, str(folder)))
    if most is not None and len(table) < most:
        raise BadInput(f"num_images is {most}; {folder} holds {len(table):,}")
    table = replace(table, labels=ids[table.labels], class_names=real.class_names)
    return table.part(content_order(table.pixels, table.labels, seed)[:most])


def class_ids(found: Sequence[str], class_names: Sequence[str], where: str) -> list[int]:
    """The ids of classes that are named by their name or slug, or all by their number.

    BadInput for what is none, or for one class under two names.
    """
    ids = [_named(name, class_names) for name in found]
    numbers = [int(name) if name.isdecimal() and int(name) < len(class_names) else None for name in found]
    if None in ids and None not in numbers:
        ids = numbers
    known = [i for i in ids if i is not None]
    if len(known) < len(ids):
        neither = [name for name, i, number in zip(found, ids, numbers) if i is None and number is None]
        error = unknown("class", (neither or found)[0], map(shown, class_names))
        raise BadInput(f"{where}: {error}, their slugs, or the numbers 0 to {len(class_names) - 1}")
    label, count = Counter(known).most_common(1)[0]
    if count > 1:
        names = ", ".join(name for name, i in zip(found, ids) if i == label)
        raise BadInput(f"{where}: {names} are one class, {shown(class_names[label])}; join them")
    return known


def _named(name: str, class_names: Sequence[str]) -> int | None:
    """The class of that name, else the only one with that slug."""
    if found := find_name(name, class_names):
        return class_names.index(found)
    alike = [i for i, other in enumerate(class_names) if slug(name) and slug(other) == slug(name)]
    return alike[0] if len(alike) == 1 else None


def _with_shape(table: ImageTable, real: ImageTable) -> ImageTable:
    """With the dataset's channels: grey saved as colour becomes grey, grey becomes colour where the dataset has it."""
    if table.size != real.size:
        (h, w), (height, width) = table.size, real.size
        advice = f"give --resolution {height}" if height == width else f"save them as {height}x{width}"
        raise BadInput(f"{table.name} holds images of {h}x{w}, dataset {real.name!r} of {height}x{width}; {advice}")
    if table.channels > real.channels:
        first = table.pixels[:, :1]
        coloured = int((table.pixels != first).flatten(1).any(dim=1).sum())
        if coloured:
            raise BadInput(
                f"{coloured:,} of {len(table):,} images in {table.name} have colour (3 channels), dataset "
                f"{real.name!r} is grey (1 channel); save them in grey"
            )
        return replace(table, pixels=first.contiguous())
    return alike(table, real)[0]


def absent_classes(samples: ImageTable) -> list[str]:
    """The classes of the dataset that no sample is of."""
    return [name for name, count in zip(samples.class_names, samples.class_counts()) if not count]


def beside(samples: ImageTable, table: ImageTable) -> ImageTable:
    """The real images that samples are held against: those of the classes that have samples."""
    if not absent_classes(samples):
        return table
    return table.part(torch.isin(table.labels, samples.labels).nonzero().squeeze(1))
