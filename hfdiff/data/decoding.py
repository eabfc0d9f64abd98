"""Image files and cells, decoded once."""

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from hfdiff.core.errors import BadInput, first_line
from hfdiff.core.files import is_inside
from hfdiff.pipelines import to_8bit

# A stranger's file chooses its decoder by its first bytes, whatever it is called: these are all that it can choose.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")  # MPO is read by JPEG's
# Read where the name of the file says so, too.
BY_SUFFIX = ("AVIF", "DIB", "ICO", "JPEG2000", "PPM", "TGA")


@cache
def image_formats() -> dict[str, str]:
    """Suffix -> format of the files that are read as images: {".png": "PNG", ".jpg": "JPEG", ...}."""
    found = Image.registered_extensions().items()
    return {suffix: kind for suffix, kind in found if kind in Image.OPEN and kind in FORMATS + BY_SUFFIX}


def open_image(file: str | Path | IO[bytes], name: str = "") -> Image.Image:
    """The image, not decoded yet; bytes may have the `name` of a file. Pillow refuses only twice the size that it warns
    of."""
    kind = image_formats().get(Path(name or (file if isinstance(file, str | Path) else "")).suffix.lower())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=[*FORMATS, *([kind] if kind in BY_SUFFIX else [])])


def decode_pixels(
    split: datasets.Dataset,
    column: str,
    resolution: int | None,
    place: Tensor,
    places: Sequence[Path],
    kinds: Counter[str] | None = None,
) -> Tensor:
    """Decode every image once: (N, C, H, W) uint8, three channels where any image has colour.

    Row i goes straight to `place[i]`, so that no second copy is ever made. `kinds` counts what the files are.
    """
    size = None if resolution is None else (resolution, resolution)
    first, pixels = "", torch.empty(0, dtype=torch.uint8)
    rows = split.cast_column(column, datasets.Image(decode=False))
    for row, (where, image) in enumerate(_images(rows, column, places)):
        if kinds is not None:
            kinds[_kind(image)] += 1
        try:
            array = torch.from_numpy(_to_array(image, size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(where, error) from error
        if row == 0:
            first, pixels = where, torch.empty((len(split), *array.shape), dtype=torch.uint8)
        if array.shape[1:] != pixels.shape[2:]:
            sizes = [f"{height}x{width}" for height, width in (pixels.shape[2:], array.shape[1:])]
            raise BadInput(
                f"images of mixed sizes (height x width): {first} is {sizes[0]}, {where} is {sizes[1]}; "
                "give --resolution to resize them all"
            )
        if len(array) > pixels.shape[1]:
            pixels = pixels.repeat(1, 3, 1, 1)
        pixels[place[row]] = array
    return pixels


def _images(split: datasets.Dataset, column: str, places: Sequence[Path]) -> Iterator[tuple[str, Image.Image]]:
    """Each image, opened but not decoded, with the file or row that it comes from."""
    row = 0
    for batch in split.iter(batch_size=1000):
        for cell in batch[column]:
            if cell is None:
                raise BadInput(f"row {row}: there is no image")
            if cell["bytes"] is None and not is_inside(Path(cell["path"] or "/"), places):
                raise BadInput(f"row {row} names {cell['path']!r}, which lies outside the dataset")
            where = cell["path"] if cell.get("path") and not cell.get("bytes") else f"row {row}"
            try:
                image = open_image(
                    io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"], cell["path"] or ""
                )
            except (OSError, TypeError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                raise _unreadable(where, error) from error
            yield where, image
            image.close()
            row += 1


def _kind(image: Image.Image) -> str:
    several = " of several frames, the first read" if getattr(image, "is_animated", False) else ""
    return f"{image.format} {image.mode}{several}"


def _to_array(image: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    """PIL of any mode -> CHW uint8 of one or three channels; transparent parts become white, 16 bits become 8."""
    image = to_8bit(image)
    if size is not None and image.size != size:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    array = np.array(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _unreadable(where: str, error: Exception) -> BadInput:
    return BadInput(f"{where}: not a readable image ({first_line(error)})")
