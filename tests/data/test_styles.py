"""Styles: strength 0 changes nothing, more strength changes more, and exclusive styles never meet."""

import pytest
import torch

from hfdiff.core.errors import BadInput
from hfdiff.data.augmentation import NUM_AUGMENTS, NUM_DRAWS, augment
from hfdiff.data.styles import STYLES, apply_styles, check_styles, draw_styles
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


def test_thick_adds_ink_and_thin_removes_it(table):
    pixels = to_unit_range(table.pixels)
    full = torch.ones(len(pixels), 1)
    assert (apply_styles(pixels, full, ["thick"]) >= pixels).all()
    assert (apply_styles(pixels, full, ["thin"]) <= pixels).all()


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
