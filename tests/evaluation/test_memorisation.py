"""Memorisation: planted near-duplicates are found, fresh images are not, and duplicates elsewhere hide nothing."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from conftest import SHARED_DATA
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from hfdiff.core.errors import BadInput
from hfdiff.data.loading import load_test_data
from hfdiff.evaluation import memorisation
from hfdiff.evaluation.judge import load_judge
from hfdiff.evaluation.memorisation import ALTERED, magnitudes, near_duplicates, nearest
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.metrics import METRICS, missing_inputs
from hfdiff.evaluation.reference_images import ReferenceSet, judge_images

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_planted(monkeypatch):
    monkeypatch.setattr(memorisation, "PLANTED", 30)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(n: int, size: tuple[int, int] = (16, 16), channels: int = 1, seed: int = 0) -> torch.Tensor:
    """Random smooth images, about as dense as real ones."""
    coarse = np.random.default_rng(seed).random((n * channels, 5, 5)) * 255
    images = [np.asarray(Image.fromarray(x.astype(np.uint8)).resize(size[::-1], Image.BICUBIC)) for x in coarse]
    return torch.from_numpy(np.stack(images)).view(n, channels, *size)


@pytest.fixture(scope="module")
def inputs(fashion) -> MetricInputs:
    """500 training images, 600 held-out ones, about half of which the judge never saw; the held-out ones' other half
    as samples."""
    train, validation = fashion
    real = ReferenceSet.of(
        load_judge("fashion_mnist_12k"),
        train.part(torch.arange(0, 10_000, 20)),
        validation.part(torch.arange(0, 1_800, 3)),
    )
    return MetricInputs(real, real.reference[len(real.reference) // 2 :])


def with_samples(inputs: MetricInputs, pixels: torch.Tensor) -> MetricInputs:
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return replace(inputs, samples=judge_images(inputs.real.judge, pixels, labels))


def test_magnitudes_ignore_shifts_mirrors_gain_and_offset():
    images = smooth(20, (15, 20), channels=3) // 2
    for same in (images.roll((3, -2), (-2, -1)), images.flip(-1), images * 2, images + 40):
        torch.testing.assert_close(magnitudes(same), magnitudes(images), atol=2e-3, rtol=0)
    assert (magnitudes(images) @ magnitudes(smooth(20, (15, 20), 3, seed=1)).T).max() < 0.99


def test_the_nearest_image_is_that_of_an_exhaustive_search():
    """On images that are not reduced: every shift of every image and its mirror, one by one."""
    training, images = smooth(40, seed=1), smooth(12, seed=2)
    found = nearest(images, training)

    def standard(pixels: torch.Tensor) -> np.ndarray:
        # means of 2 x 2 pixels
        x = pixels.double().numpy()
        x = (x[:-1, :-1] + x[1:, :-1] + x[:-1, 1:] + x[1:, 1:]) / 4
        return (x - x.mean()) / x.std() / x.size**0.5

    for image, row in zip(images[:, 0], found.rows.tolist()):
        views = [
            standard(side[y : y + 12, x : x + 12])
            for side in (image, image.flip(-1))
            for y, x in product(range(5), range(5))
        ]
        distances = [
            min(np.linalg.norm(view - standard(known[2:14, 2:14])) for view in views) for known in training[:, 0]
        ]
        assert int(np.argmin(distances)) == row


def test_shifted_and_mirrored_images_find_their_origin(fashion):
    training = fashion[0].pixels
    for alter in ALTERED.values():
        assert (nearest(alter(training[:50], generator()), training).rows == torch.arange(50)).double().mean() >= 0.98


def test_an_image_that_is_left_out_is_not_its_own_neighbour():
    training = torch.randint(0, 256, (600, 1, 8, 8), dtype=torch.uint8, generator=generator())
    training[599] = training[3].flip(-1)
    found = nearest(training, training, own=torch.arange(600))
    assert found.rows[3] == 599
    assert found.rows[599] == 3
    assert (found.rows != torch.arange(600)).all()
    assert found.closeness[[3, 599]].max() < 0.01
    assert found.closeness[4:599].min() > 0.1


@pytest.mark.parametrize("name", ["fashion_mnist_12k", "cifar10"])
def test_planted_near_duplicates_are_found_and_fresh_images_are_not(name, fashion):
    """Planted here, by other code than the metric's own."""
    if name == "cifar10":  # the test split alone, which is decoded in less time
        if not SHARED_DATA.is_dir():
            pytest.skip("the folder with the full datasets is absent")
        training, held_out = load_test_data(str(SHARED_DATA / name)).pixels.split(8_000)
    else:
        training, held_out = (table.pixels[:8_000] for table in fashion)
    origin = training[7_000:7_040]
    noise = torch.randn(origin.shape, generator=generator(5)) * 5
    kinds = {
        "rolled by 1": origin.roll(1, -1),
        "rolled by 2 and 1": origin.roll((2, -1), (-1, -2)),
        "mirrored and rolled": origin.flip(-1).roll(-1, -2),
        "brighter": (origin.float() * 1.1).clamp(max=255).byte(),
        "darker": (origin.float() * 0.85).byte(),
        "noisy": (origin + noise).clamp(0, 255).byte(),
    }
    result = near_duplicates(torch.cat([*kinds.values(), held_out[600:760]]), training, held_out[:600])
    assert result.real <= 0.03
    assert result.details["false_alarm"] <= 0.03
    assert min(result.details["power"].values()) >= 0.95
    assert result.details["power_n"] == 15
    assert 0.95 * 240 <= result.value * 400 <= 240 + 0.03 * 160  # samples: 240 planted and 160 fresh


@pytest.mark.parametrize("share", [0, 0.01, 0.02, 0.05])
def test_near_duplicates_among_held_out_images_hide_nothing(share):
    """CIFAR-10's test split holds 3% of them (Barz & Denzler 2020)."""
    training, held_out, fresh = smooth(800), smooth(400, seed=1), smooth(100, seed=2)
    rows = torch.randperm(400, generator=generator(1))[: int(400 * share)]
    held_out[rows] = training[: len(rows)]
    result = near_duplicates(torch.cat([training[100:200], fresh]), training, held_out)
    assert 95 <= result.value * 200 <= 103
    assert result.details["duplicates"] == pytest.approx(share, abs=0.01)
    assert result.details["false_alarm"] <= 0.03


def test_held_out_images_that_are_all_near_duplicates_hide_nothing():
    training = smooth(300)
    result = near_duplicates(torch.cat([training[:100], smooth(100, seed=2)]), training, training)
    assert 95 <= result.value * 200 <= 103
    assert (result.details["threshold_n"], result.details["false_alarm"]) == (0, None)


@pytest.mark.parametrize("alter", ["shifted by 1 pixel", "JPEG of quality 75", "noise of 5 in 255"])
def test_altered_near_duplicates_among_held_out_images_hide_nothing(alter):
    training, held_out = smooth(400), smooth(400, seed=1)
    held_out[::20] = ALTERED[alter](training[:20], generator())
    assert near_duplicates(training[100:200].roll(1, -1), training, held_out).value > 0.95


@pytest.mark.parametrize("times", [7, 60])
def test_duplicates_inside_the_training_data_hide_nothing(fashion, times):
    """Samples are noisy repeats of images that the training data holds several times, as they are or as JPEG."""
    training, held_out = fashion[0].pixels[:3_000], fashion[1].pixels[:600]
    again = training[:50].repeat(times - 1, 1, 1, 1)
    again[::2] = ALTERED["JPEG of quality 75"](again[::2], generator())
    samples = ALTERED["noise of 5 in 255"](training[:50], generator())
    result = near_duplicates(samples, torch.cat([training, again]), held_out)
    assert result.value >= 0.95
    assert result.details["false_alarm"] <= 0.03


def test_copies_raise_memorisation_by_their_share(inputs):
    """Held-out images with a tenth of near-duplicates of training images; without, about 1% by definition."""
    pixels = inputs.samples.pixels.clone()
    clean = METRICS["memorisation"].measure(inputs)
    assert clean.value == clean.real < 0.05
    assert clean.details["searched"] == "fashion_mnist_12k"
    pixels[::10] = inputs.real.training.pixels[: len(pixels[::10])]
    result = METRICS["memorisation"].measure(with_samples(inputs, pixels))
    assert result.value == pytest.approx(clean.value + 0.1, abs=0.01)


def test_few_held_out_images_leave_the_threshold_to_the_training_images(inputs):
    few = replace(inputs, real=replace(inputs.real, reference=inputs.real.reference[:15]))
    assert missing_inputs("memorisation", few.real, 200, 0) is None
    fresh = METRICS["memorisation"].measure(few)
    assert fresh.details["threshold_of"] == "training images, each against the others"
    assert fresh.value < 0.05
    repeated = with_samples(few, inputs.real.training.pixels[:100].roll(1, -1))
    assert METRICS["memorisation"].measure(repeated).value >= 0.95


@pytest.mark.parametrize(
    ("size", "channels"), [((8, 8), 1), ((28, 28), 3), ((16, 40), 3), ((64, 64), 1), ((9, 31), 1), ((1, 1), 1)]
)
def test_a_hundred_images_of_any_size_are_enough(size, channels):
    training = smooth(100, size, channels)
    training[:10] = 128  # of one colour
    result = near_duplicates(torch.cat([training[10:20], training[:1]]), training, training[:0])
    assert result.details["power_n"] == 15
    assert 0 <= result.value <= 1
    if min(size) >= 8:
        assert result.value > 0.9


def test_images_of_one_colour_are_measured():
    plain = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1).expand(-1, 3, 12, 12).contiguous()
    result = near_duplicates(plain[:20], plain, plain[:0])
    assert 0 <= result.value <= 1


def test_one_training_image_is_too_few():
    with pytest.raises(BadInput, match="needs 2 images to search; there are 1"):
        near_duplicates(smooth(3), smooth(1), smooth(3)[:0])


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operation leaves."""

    nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor) and function is not torch.ops.aten.view.default:
                self.nbytes = max(self.nbytes, value.nbytes)
        return result


def test_memory_is_that_of_a_block_whatever_the_number_of_training_images():
    images, sizes = smooth(40, (32, 32), 3), []
    for count in (4_096, 12_288):
        training = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator())
        with Largest() as largest:
            nearest(images, training)
        sizes.append(largest.nbytes)
    assert sizes[0] == sizes[1]
