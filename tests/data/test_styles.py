"""Styles: strength 0 changes nothing, more strength changes more, and exclusive styles never meet."""

from itertools import product

import pytest
import torch
from conftest import full_test
from torchmetrics.functional.classification import binary_auroc

from hfdiff.core.errors import BadInput
from hfdiff.data.augmentation import NUM_AUGMENTS, NUM_DRAWS, augment
from hfdiff.data.strokes import BOLD_DARKER, FINE_DARKER, ground_of, has_plain_ground
from hfdiff.data.styles import (
    STYLES,
    apply_styles,
    check_styles,
    describe_styles,
    draw_styles,
    fitting_styles,
    shown_styles,
    visible_shares,
)
from hfdiff.data.table import to_unit_range


@pytest.fixture
def photos() -> torch.Tensor:
    """Smooth colour images (6, 3, 30, 32) in [0, 1]."""
    coarse = torch.rand((6, 3, 5, 5), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (30, 32), mode="bilinear")


@pytest.mark.parametrize("name", STYLES)
def test_strength_zero_is_bit_identical_and_strength_grows(name, photos):
    before = photos.clone()
    changes = []
    for strength in (0.0, 0.25, 0.5, 1.0):
        changed = apply_styles(photos, torch.full((6, 1), strength), [name])
        assert changed.shape == photos.shape
        assert 0 <= changed.min() <= changed.max() <= 1
        changes.append((changed - photos).abs().mean().item())
    assert changes[0] == 0
    assert changes == sorted(changes)
    assert changes[-1] > 0.01
    assert torch.equal(photos, before)


@pytest.mark.parametrize("name", STYLES)
def test_each_image_has_its_own_strength(name, photos):
    weights = torch.tensor([[0.0], [1.0], [0.3], [0.0], [0.7], [1.0]])
    together = apply_styles(photos, weights, [name])
    alone = torch.cat([apply_styles(photos[i : i + 1], weights[i : i + 1], [name]) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.equal(together[0], photos[0])
    assert torch.equal(together[3], photos[3])


def test_several_styles_act_together(photos):
    weights = torch.tensor([[0.5, 1.0]]).expand(6, 2)
    both = apply_styles(photos, weights, ["slanted", "dark"])
    one_by_one = apply_styles(apply_styles(photos, weights[:, :1], ["slanted"]), weights[:, 1:], ["dark"])
    assert torch.equal(both, one_by_one)


def figure_area(pixels: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """Pixels more than 0.25 from the ground, (B,)."""
    return ((pixels - ground).abs().amax(dim=1) > 0.25).sum(dim=(1, 2)).float()


def brightness_of_figure(pixels: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """Mean distance of the figure's pixels to the ground, (B,)."""
    away = (pixels - ground).abs().amax(dim=1)
    return (away * (away > 0.25)).sum(dim=(1, 2)) / (away > 0.25).sum(dim=(1, 2)).clamp(min=1)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(("name", "sign"), [("thick", 1), ("thin", -1)])
def test_strokes_of_figures_light_and_dark(fashion, name, sign, inverted):
    pixels = to_unit_range(fashion[0].pixels[:1000])
    pixels = 1 - pixels if inverted else pixels
    ground = ground_of(pixels)
    plain, half, full = (
        apply_styles(pixels, torch.full((len(pixels), 1), strength), [name]) for strength in (0.0, 0.5, 1.0)
    )
    assert torch.equal(plain, pixels)
    before, middle, after = (figure_area(images, ground) for images in (plain, half, full))
    assert (sign * (after - before) > 0).double().mean() >= 0.95
    assert (sign * (after - middle) >= 0).double().mean() >= 0.95
    assert (after < before / 2).double().mean() < 0.01
    bright = brightness_of_figure(plain, ground)
    assert ((brightness_of_figure(full, ground) - bright).abs() / bright).median() < 0.05


def test_polarity_and_colours_change_no_stroke(fashion):
    grey = to_unit_range(fashion[0].pixels[:100])
    full = torch.ones(100, 1)
    ground, ink = (torch.tensor(colour).reshape(1, 3, 1, 1) for colour in ([0.9, 0.7, 0.2], [0.1, 0.3, 0.6]))
    coloured = ground + grey * (ink - ground)
    for name in ("thick", "thin"):
        changed = apply_styles(grey, full, [name])
        assert torch.allclose(1 - apply_styles(1 - grey, full, [name]), changed, atol=1e-5)
        assert torch.allclose(apply_styles(coloured, full, [name]), ground + changed * (ink - ground), atol=1e-2)


def test_a_hairline_stays_a_line():
    """A figure that is narrower than the way that its outline would move keeps a ridge."""
    pixels = torch.zeros(1, 1, 28, 28)
    pixels[..., 4:24, 14] = 1
    thin = apply_styles(pixels, torch.ones(1, 1), ["thin"])
    assert (thin[0, 0, 6:22, 14] > 0.5).all()


def test_photographs_are_outlined_in_their_own_darker_colour():
    photos = to_unit_range(full_test("cifar10").pixels[:100])
    photos = photos[~has_plain_ground(photos)]
    full = torch.ones(len(photos), 1)
    bold, fine = (apply_styles(photos, full, [name]) for name in ("thick", "thin"))
    coloured = photos > 0.1
    shares = [image[coloured] / photos[coloured] for image in (bold, fine)]
    assert [share.quantile(0.02).item() for share in shares] == pytest.approx(
        [1 - BOLD_DARKER, 1 - FINE_DARKER], abs=0.02
    )
    for image, share in zip((bold, fine), shares):
        assert (image <= photos).all()
        assert share.min() > 0.05  # no line is black where the image is not


@pytest.mark.parametrize(("name", "darker", "width"), [("thick", BOLD_DARKER, 3), ("thin", FINE_DARKER, 1.5)])
@pytest.mark.parametrize("scale", [1, 2])
def test_outlines_are_as_wide_as_they_are_said_to_be(name, darker, width, scale):
    """In pixels at 32 a side, across an upright edge: the sum of the darkening over that at strength 1."""
    row = torch.tensor([0.3] * 15 + [0.55] + [0.8] * 16).repeat_interleave(scale)
    side = 32 * scale
    photo = row.expand(1, 3, side, side) + 0.1 * torch.linspace(0, 1, side)[:, None]  # no plain ground
    dark = 1 - apply_styles(photo, torch.ones(1, 1), [name]) / photo
    assert dark.max() == pytest.approx(darker, abs=1e-5)
    assert dark[0, 0, side // 2].sum() / darker / scale == pytest.approx(width, abs=0.51)


@pytest.mark.parametrize("dataset", ["fashion_mnist", "cifar10"])
def test_rulers_read_their_own_style(dataset):
    """Each real image beside itself; the ends of the histogram and colours are told apart between images, too."""
    pixels = to_unit_range(full_test(dataset).pixels[:400])
    for name in fitting_styles(pixels.shape[1]):
        if STYLES[name].group == "stroke" and dataset == "cifar10":
            continue  # outlines in photographs are told by the judge: tests/evaluation/test_judge.py
        ruler = STYLES[name].ruler
        plain = ruler(pixels)
        means = []
        for strength in (0.25, 0.5, 0.75, 1.0):
            styled = ruler(apply_styles(pixels, torch.full((len(pixels), 1), strength), [name]))
            means.append((styled - plain).mean().item())
        assert (styled > plain).double().mean() > 0.8, name
        assert means[1:] == sorted(means[1:]), name
        assert means[0] < means[1], name
        line = torch.tensor([[0, 0.25, 0.5, 0.75, 1], [0, *means]])
        assert line.corrcoef()[0, 1] ** 2 >= 0.95, name
        if STYLES[name].group in ("light", "colour"):
            assert binary_auroc(torch.cat([styled, plain]), torch.arange(800) < 400) >= 0.95, name


def test_light_keeps_its_measure_beside_other_styles():
    """The ends of the histogram stay where they were when strokes and shears move pixels, and when colours change."""
    for dataset, names in (("fashion_mnist", ("bright", "dark", "faded")), ("cifar10", ("bright", "dark", "faded"))):
        pixels = to_unit_range(full_test(dataset).pixels[:300])
        full = torch.ones(len(pixels), 2)
        others = ("slanted", "grey", "warm") if pixels.shape[1] == 3 else ("thick", "slanted")
        for name, other in product(names, others):
            ruler, pair = STYLES[name].ruler, sorted((name, other), key=list(STYLES).index)
            alone, both = (ruler(apply_styles(pixels, full[:, : len(given)], given)) for given in ([name], pair))
            moved = (both - ruler(pixels)).mean() / (alone - ruler(pixels)).mean()
            assert abs(moved - 1) < 0.1, (dataset, name, other)


def test_a_style_that_no_image_shows_is_left_out_and_named(table):
    white = visible_shares(torch.full((50, 1, 12, 12), 255, dtype=torch.uint8), ("thick", "dark", "bright"))
    assert shown_styles(white) == ("dark",)
    assert describe_styles((), white, ("dark",)) == (
        "styles: dark (seen in 100%); left out, as hardly any image shows it: thick (seen in 0%), bright (seen in 0%)"
    )
    names = ("thick", "thin", "slanted")
    assert shown_styles(visible_shares(table.pixels, names)) == names
    assert visible_shares(table.pixels, ["thick", "dark"])["dark"] > 0.9
    assert describe_styles(("old",), {"faded": 1.0}, ("faded",)) == "styles: old, faded (seen in 100%)"


def test_slanted_moves_the_top_to_one_side():
    bar = torch.zeros(1, 1, 28, 28)
    bar[..., 14] = 1
    slanted = apply_styles(bar, torch.ones(1, 1), ["slanted"])
    columns = torch.arange(28.0)
    centre = [(slanted[0, 0, row] * columns).sum() / slanted[0, 0, row].sum() for row in (0, 13, 27)]
    assert abs(centre[1] - 14) < 1
    assert abs(centre[0] - centre[2]) > 8


def test_draws_are_reproducible_and_exclusive():
    names = ("thick", "thin", "slanted", "bright", "dark")

    def draw() -> torch.Tensor:
        return draw_styles(4000, names, 0.5, torch.Generator().manual_seed(3))

    weights = draw()
    assert torch.equal(weights, draw())
    assert weights.shape == (4000, 5)
    assert ((weights >= 0) & (weights <= 1)).all()
    active = weights > 0
    assert not (active[:, 0] & active[:, 1]).any()
    assert not (active[:, 3] & active[:, 4]).any()
    counts = active.sum(dim=1)
    assert counts.max() == 2
    assert abs((counts == 0).double().mean() - 0.5) < 0.03  # half of the images stay plain
    assert 0.2 < (counts == 2).double().mean() < 0.3
    assert active.double().mean(dim=0).min() > 0.05
    assert abs(weights[active].mean() - 0.5) < 0.03


def test_no_styles_is_a_draw_of_no_columns():
    assert draw_styles(5, (), 0.5, torch.Generator()).shape == (5, 0)


def test_mistakes_of_styles_are_named():
    with pytest.raises(BadInput, match=r"unknown style 'thik' \(did you mean 'thick'\?\); valid: thick"):
        check_styles(["thik"], channels=3)
    with pytest.raises(BadInput, match="style 'warm' needs colour images"):
        check_styles(["warm"], channels=1)
    with pytest.raises(BadInput, match="named twice.*old|named twice.*thick"):
        check_styles(["thick"], 1, data_styles=["thick"])


def test_augmentation_tells_what_it_did(photos):
    draw = torch.rand((6, NUM_DRAWS), generator=torch.Generator().manual_seed(0))
    same, labels = augment(photos, draw, probability=0.0)
    assert torch.equal(same, photos)
    assert not labels.any()
    changed, labels = augment(photos, draw, probability=1.0)
    assert labels.shape == (6, NUM_AUGMENTS)
    assert (changed != photos).flatten(1).any(dim=1).all()
    assert labels.abs().sum(dim=1).min() > 0


def test_a_mirrored_image_is_the_flipped_one(photos):
    draw = torch.full((6, NUM_DRAWS), 0.5)  # amounts of zero
    draw[:, 0] = 0.0  # only the mirror happens
    mirrored, labels = augment(photos, draw, probability=0.3)
    assert torch.allclose(mirrored, photos.flip(-1), atol=1e-5)
    assert labels.tolist() == [[1.0, 0, 0, 0, 0, 0]] * 6
