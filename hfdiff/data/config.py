"""Which data, how it is read, and what is done to it; free of heavy imports, as the command line starts with it."""

from dataclasses import dataclass
from typing import Literal

Half = Literal["first", "second", "whole"]


@dataclass(frozen=True)
class ReadOptions:
    """How a dataset is to be read, where its feature types do not say it all."""

    resolution: int | None = None  # pixels a side; None keeps the size that all images share
    image_column: str | None = None
    label_column: str | None = None
    style_columns: tuple[str, ...] = ()  # empty: by type; ("none",): no styles


BY_TYPE = ReadOptions()


@dataclass(frozen=True)
class DatasetConfig:
    """Which dataset, and how it is read."""

    dataset: str = "fashion_mnist_12k"
    """A dataset of the table, a Hub id, or a folder of images."""
    image_column: str | None = None
    """Column of the images, where the data has several."""
    label_column: str | None = None
    """Column of the classes, where the data has several."""
    style_columns: tuple[str, ...] = ()
    """Columns that give styles, where their types do not tell; "none" for none."""
    resolution: int | None = None
    """Resize all images to this many pixels a side."""

    @property
    def read_options(self) -> ReadOptions:
        return ReadOptions(self.resolution, self.image_column, self.label_column, self.style_columns)


@dataclass(frozen=True)
class DataConfig(DatasetConfig):
    """The images, their styles, and augmentation."""

    styles: tuple[str, ...] = ("thick", "thin", "slanted")
    """Styles of the table to learn, beside those that the data names; what the images cannot show is left out."""
    style_share: float = 0.5
    """Share of the training images that get a style."""
    flip: bool = False
    """Mirror half of the training images; samples will be mirrored too."""
    augment: float = 0.0
    """Probability of each change of the non-leaking augmentation, which stays out of the samples."""
