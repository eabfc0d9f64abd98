"""Halves and hashes: an image keeps them whatever file it comes in, and other images have others."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHARED_DATA
from PIL import Image

from hfdiff.data.halves import in_second_half, near, perceptual_hashes
from hfdiff.data.loading import load_test_data
from hfdiff.data.table import ImageTable
from hfdiff.evaluation.judge import independence, unseen
from hfdiff.evaluation.judge_training import make_judge

pytestmark = pytest.mark.slow

Change = Callable[[Image.Image], Image.Image]


def saved(image: Image.Image, kind: str, **options: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def larger(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 9 // 8,) * 2)


CHANGES: dict[str, Change] = {
    "PNG": lambda image: saved(image, "PNG"),
    "JPEG 90": lambda image: saved(image, "JPEG", quality=90),
    "resized": larger,
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def changed(table: ImageTable, change: Change) -> ImageTable:
    images = [change(Image.fromarray(image.permute(1, 2, 0).numpy().squeeze())) for image in table.pixels]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).reshape(
        len(table), *images[0].size, -1
    )
    return replace(table, pixels=pixels.permute(0, 3, 1, 2).contiguous())


@pytest.fixture(scope="module", params=["cifar10", "fashion_mnist"])
def images(request, fashion) -> ImageTable:
    """2,000 real images, which stand for training images."""
    if request.param == "fashion_mnist":
        return replace(fashion[1], split="train")
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder with the full datasets is absent")
    return replace(load_test_data(str(SHARED_DATA / "cifar10")).part(slice(0, 2000)), split="train")


@pytest.mark.parametrize("name", CHANGES)
def test_another_file_of_an_image_is_in_its_half(images, name):
    again = changed(images, CHANGES[name])
    assert (in_second_half(again.pixels) != in_second_half(images.pixels)).double().mean() < 0.01


@pytest.mark.parametrize("name", CHANGES)
def test_a_judge_knows_another_file_of_what_it_saw(images, name):
    judge, again = make_judge(images, (4, 8, 8), half="first"), changed(images, CHANGES[name])
    rest = perceptual_hashes(unseen(judge, again).pixels)
    first = perceptual_hashes(again.pixels[~in_second_half(images.pixels)])  # as these files show what it saw
    assert torch.isin(rest, first).double().mean() < 0.01
    assert len(rest) > 0.45 * len(images)
    assert independence(judge, again) == {"independence": "known"}


def test_halves_are_alike(fashion):
    """Of 1,000 images of a class 500 +- 32 would be in either half by chance (95%)."""
    table = fashion[0]
    second = in_second_half(table.pixels)
    shares = torch.stack([second[table.labels == i].double().mean() for i in range(10)])
    assert (shares - 0.5).abs().max() < 0.08
    for measure in (table.pixels.double().mean((1, 2, 3)), table.pixels.double().std((1, 2, 3))):
        halves = [measure[second], measure[~second]]
        error = sum(half.var() / len(half) for half in halves).sqrt()
        assert (halves[0].mean() - halves[1].mean()).abs() < 3.5 * error


def test_grey_and_colour_are_one_image():
    grey = torch.randint(256, (50, 1, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(in_second_half(grey), in_second_half(grey.expand(-1, 3, -1, -1)))
    assert torch.equal(perceptual_hashes(grey), perceptual_hashes(grey.expand(-1, 3, -1, -1)))


def test_near_hashes_are_found_by_their_parts():
    """Against the comparison of all with all."""
    generator = torch.Generator().manual_seed(0)
    known = torch.randint(2**63 - 1, (300,), generator=generator)
    flips = [sum(1 << int(bit) for bit in torch.randperm(63, generator=generator)[: i % 13]) for i in range(300)]
    asked = known.bitwise_xor(torch.tensor(flips))
    differ = np.bitwise_count(asked.numpy()[:, None] ^ known.numpy()).min(axis=1)
    assert near(asked, known).tolist() == (differ <= 6).tolist()
    assert near(asked, known).tolist() == [i % 13 <= 6 for i in range(300)]
    assert not near(asked, known[:0]).any()


def test_other_images_and_edited_ones_leave_a_judge_in_doubt(images):
    judge = make_judge(images, (4, 8, 8), half="first")
    turned = replace(images, pixels=images.pixels.flip(-2))
    assert independence(judge, turned)["independence"] == "unknown"
    assert "it knows" in independence(judge, turned)["reason"]
    judge.seen = judge.seen[:0]
    assert "do not say which images" in independence(judge, images)["reason"]
