"""The table of datasets, and what a name stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import datasets
from huggingface_hub.constants import HF_HUB_CACHE

from hfdiff.core.errors import BadInput
from hfdiff.core.files import existing_folder

ASSETS = Path(__file__).parents[1] / "assets"


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset known by a short name: where it is, and what is to be said of it."""

    source: str  # a Hub id, or a folder inside the package
    about: str
    judge: str | None = None  # folder of the embedded judge of this dataset, in `ASSETS`
    noised_judge: str | None = None  # the same of the judge of its noised images
    clip: str | None = None  # the same of its small CLIP, the default scorer
    part_of: str | None = None  # the Hub id of the whole, for an embedded part
    shape: tuple[int, int, int, int] = (10_000, 1, 28, 28)  # training images, channels, height, width
    num_classes: int = 10

    @property
    def hub_id(self) -> str:
        return self.part_of or self.source

    def judge_folder(self, noised: bool) -> Path | None:
        """Of the embedded judge of clean or of noised images."""
        name = self.noised_judge if noised else self.judge
        return ASSETS / name if name else None


DATASETS: dict[str, DatasetSpec] = {
    "fashion_mnist_12k": DatasetSpec(
        str(ASSETS / "fashion_mnist_12k"),
        "embedded: 10,000 + 2,000 images of Fashion-MNIST's train split, 28x28 grey, 10 classes",
        judge="judge_fashion_mnist",
        noised_judge="judge_fashion_mnist_noised",
        clip="clip_fashion_mnist",
        part_of="zalando-datasets/fashion_mnist",
    ),
    "fashion_mnist": DatasetSpec(
        "zalando-datasets/fashion_mnist",
        "70,000 images of clothes, 28x28 grey, 10 classes",
        judge="judge_fashion_mnist",
        noised_judge="judge_fashion_mnist_noised",
        clip="clip_fashion_mnist",
        shape=(59_000, 1, 28, 28),
    ),
    "cifar10": DatasetSpec(
        "uoft-cs/cifar10",
        "60,000 photographs, 32x32 colour, 10 classes",
        judge="judge_cifar10",
        noised_judge="judge_cifar10_noised",
        clip="clip_cifar10",
        shape=(49_000, 3, 32, 32),
    ),
}

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "eval")
TEST_NAMES = ("test", "testing")
SPLIT_NAMES = frozenset(("train", "training", *VALIDATION_NAMES, *TEST_NAMES))


def unknown_dataset(dataset: str, reason: str = "") -> BadInput:
    """The error for a dataset that cannot be loaded; `reason`: what the Hub's client said."""
    because = f" ({reason})" if reason else ""
    if dataset in DATASETS:
        return BadInput(
            f"dataset {dataset!r} is {DATASETS[dataset].source} on the Hugging Face Hub, which could not be read"
            f"{because}; a local folder of the same layout does as well"
        )
    near = get_close_matches(dataset, DATASETS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return BadInput(
        f"unknown dataset {dataset[:100]!r}{hint}: no folder, and not found on the Hugging Face Hub{because}; valid: "
        f"{', '.join(DATASETS)}, a folder, or an id of the Hub"
    )


def dataset_name(dataset: str) -> str:
    """A folder goes by its last part, which says nothing of the machine, and a slash, which no other name ends in."""
    folder = None if dataset in DATASETS else existing_folder(dataset)
    return f"{folder.resolve().name}/" if folder else dataset


def allowed_folders(dataset: str) -> Sequence[Path]:
    """Where the files of a dataset may lie that its rows name: in its folder, or where the Hub's files are kept."""
    folder = existing_folder(dataset)
    return (folder,) if folder else (Path(HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE))
