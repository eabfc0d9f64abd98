"""Class folders and parquet of other programs, read with the classes of a dataset."""

import datasets
import pytest
import torch
from PIL import Image

from hfdiff.core.errors import BadInput
from hfdiff.core.files import slug
from hfdiff.data.config import ReadOptions
from hfdiff.data.table import ImageTable
from hfdiff.evaluation.given_samples import class_ids, read_samples

NAMES = ("T - shirt / top", "Ankle boot", "Café", "日本", "C+", "C-", "1")
PIXELS = torch.randint(0, 256, (21, 1, 6, 8), generator=torch.Generator().manual_seed(0)).byte()


def dataset(channels: int = 1) -> ImageTable:
    pixels = PIXELS.expand(-1, channels, -1, -1)
    labels = torch.arange(len(PIXELS)) % len(NAMES)
    return ImageTable(pixels, labels, torch.empty(len(PIXELS), 0), NAMES, (), "things")


def saved(table: ImageTable, folder, names, mode: str = "L", suffix: str = "png"):
    for i, (image, label) in enumerate(zip(table.pixels, table.labels.tolist())):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).convert(mode).save(folder / names[label] / f"{i}.{suffix}")
    return folder


def pairs(table: ImageTable) -> list[tuple[bytes, int]]:
    """The images with their classes, in an order of their own."""
    return sorted((image.numpy().tobytes(), label) for image, label in zip(table.pixels, table.labels.tolist()))


@pytest.mark.parametrize(
    "names",
    [
        ("t-shirt-top", "ankle boot", "CAFE\u0301", "日本", "C+", "C-", "1"),
        ("T-SHIRT_TOP", "Ankle-Boot", "café", " 日本 ", "c+", "c-", "1"),
        tuple(map(str, range(7))),
        tuple(f"{i:03d}" for i in range(7)),
    ],
    ids=["slugs", "spelling", "numbers", "padded"],
)
@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_folders_are_named_by_slug_name_or_number(tmp_path, names, suffix):
    table = read_samples(saved(dataset(), tmp_path / "out", names, suffix=suffix), dataset(), ReadOptions(), 0)
    assert pairs(table) == pairs(dataset())
    assert (table.class_names, table.name, table.style_names) == (NAMES, "out/", ())


@pytest.mark.parametrize("kind", ["ids", "text", "class labels"])
def test_parquet_of_samples_is_read_by_its_class_column(tmp_path, kind):
    real = dataset()
    labels = real.labels.tolist()
    order = torch.randperm(len(real)).tolist()
    columns = {
        "sample": [Image.fromarray(real.pixels[i, 0].numpy()) for i in order],
        "kind": [labels[i] if kind == "ids" else NAMES[labels[i]] for i in order],
        "fidelity": [2.5] * len(order),
    }
    data = datasets.Dataset.from_dict(columns).cast_column("sample", datasets.Image())
    if kind == "class labels":
        data = data.cast_column("kind", datasets.ClassLabel(names=sorted(NAMES)))
    data.to_parquet(tmp_path / "samples.parquet")
    table = read_samples(tmp_path, real, ReadOptions(), seed=5)
    assert pairs(table) == pairs(real)
    again = read_samples(saved(real, tmp_path / "out", tuple(map(str, range(7)))), real, ReadOptions(), seed=5)
    assert torch.equal(table.pixels, again.pixels)  # in the same order, too
    assert torch.equal(table.labels, again.labels)


def test_parquet_with_several_columns_of_text_is_read_by_the_one_chosen(tmp_path):
    real = dataset()
    data = {"image": [Image.fromarray(image[0].numpy()) for image in real.pixels]}
    data |= {"kind": [NAMES[label] for label in real.labels], "by": ["me", "you", "me"] * 7}
    datasets.Dataset.from_dict(data).cast_column("image", datasets.Image()).to_parquet(tmp_path / "samples.parquet")
    with pytest.raises(BadInput, match="several label columns .kind, by.: choose one with --label_column"):
        read_samples(tmp_path, real, ReadOptions(), seed=0)
    assert pairs(read_samples(tmp_path, real, ReadOptions(label_column="kind"), seed=0)) == pairs(real)


def test_a_number_is_first_of_all_a_name():
    assert class_ids(["1", "2"], ["2", "1", "0"], "") == [1, 0]
    assert class_ids(["1", "0"], ["one", "two"], "") == [1, 0]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (["c"], "unknown class 'c'"),  # the slug of two
        (["7"], "unknown class '7'"),
        (["0", "boots"], "unknown class 'boots'"),
        (["ankle boot", "ankle-boot"], "ankle boot, ankle-boot are one class, Ankle boot"),
        (["01", "1"], "01, 1 are one class"),
        ([""], "unknown class ''"),
    ],
)
def test_names_that_are_no_class_or_one_class_twice(found, message):
    names = [*NAMES[:-1], "one"]
    with pytest.raises(BadInput, match=f"place: {message}"):
        class_ids(found, names, "place")


def test_every_slug_that_is_alone_names_its_class():
    for i, name in enumerate(NAMES):
        alone = slug(name) and [slug(other) for other in NAMES].count(slug(name)) == 1
        if alone:
            assert class_ids([slug(name)], NAMES, "") == [i]


def test_grey_images_take_the_channels_of_the_dataset(tmp_path):
    names = tuple(map(str, range(7)))
    for mode in ("L", "RGB"):
        for channels in (1, 3):
            folder = saved(dataset(), tmp_path / f"{mode}{channels}", names, mode)
            assert pairs(read_samples(folder, dataset(channels), ReadOptions(), 0)) == pairs(dataset(channels))


def test_a_size_that_is_not_square_is_named_as_it_is(tmp_path):
    folder = saved(dataset(), tmp_path / "out", tuple(map(str, range(7))))
    real = ImageTable(torch.zeros(3, 1, 5, 9).byte(), torch.arange(3), torch.empty(3, 0), NAMES, (), "things")
    with pytest.raises(BadInput, match="out/ holds images of 6x8, dataset 'things' of 5x9; save them as 5x9"):
        read_samples(folder, real, ReadOptions(), 0)
