"""What scores go with, and how large chance makes that."""

from statistics import NormalDist

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from hfdiff.data.table import to_bytes
from hfdiff.evaluation.preferences import Correlations, image_properties, mean_correlations, near_black_share
from hfdiff.evaluation.statistics import gain_of_choice


def noise(cells: int) -> list[Correlations]:
    """Of four scores and five properties that have nothing to do with each other, of ten images in each cell."""
    generator = torch.Generator().manual_seed(0)
    kinds = (["a", "b", "c", "d"], ["k", "l", "m", "n", "o"])
    parts = [[{name: torch.rand(10, generator=generator) for name in kind} for kind in kinds] for _ in range(cells)]
    return [Correlations.of(scores, properties, generator) for scores, properties in parts]


def test_rank_correlations_are_spearmans_with_ties():
    generator = torch.Generator().manual_seed(0)
    score, tied = torch.rand(30, generator=generator), torch.randint(4, (30,), generator=generator).float()
    found = Correlations.of({"a": score}, {"b": tied, "same": torch.ones(30)}, generator)
    assert found.table["a"]["b"] == pytest.approx(spearman_corrcoef(score, tied).item(), abs=1e-5)
    assert found.table["a"]["same"] is None


def test_chance_has_the_closed_forms_spread():
    """The variance of Spearman's correlation is 1 / (n - 1) over shuffles (Student's exact moment, ties or not)."""
    cells = noise(10)
    assert cells[0].shuffled.square().mean().item() == pytest.approx(1 / 9, rel=0.1)
    assert mean_correlations(cells).shuffled.square().mean().item() == pytest.approx(1 / 90, rel=0.1)


def test_chance_alone_stays_below_its_line_in_95_percent():
    cells = noise(300)
    largest, lines = (
        torch.tensor(column) for column in zip(*((cell.values.abs().max(), cell.chance95) for cell in cells))
    )
    assert (largest <= lines + 1e-9).double().mean().item() == pytest.approx(0.95, abs=0.03)
    one_of_twenty = NormalDist().inv_cdf(1 - (1 - 0.95 ** (1 / 20)) / 2)  # Sidak 1967; means are nearly normal
    assert mean_correlations(cells[:10]).chance95 == pytest.approx(one_of_twenty / 90**0.5, rel=0.05)


def test_a_mean_is_over_the_cells_where_it_is_known():
    generator = torch.Generator().manual_seed(0)
    score, rising = {"a": torch.arange(5.0)}, {"b": torch.arange(5.0)}
    cells = [Correlations.of(score, values, generator) for values in (rising, {"b": torch.zeros(5)})]
    assert mean_correlations(cells).table == {"a": {"b": pytest.approx(1)}}
    assert mean_correlations(cells[1:]).chance95 is None


def test_statistics_of_images_that_are_known():
    flat, bars = torch.full((1, 1, 28, 28), 0.25), torch.zeros(1, 1, 28, 28)
    bars[..., ::4] = 1
    found = image_properties(torch.cat([flat, bars]))
    assert found["brightness"].tolist() == pytest.approx([0.25, 0.25])
    for name in ("contrast", "sharpness", "edge_density"):
        assert found[name][0] == pytest.approx(0, abs=1e-6)
        assert found[name][1] > 0.02
    assert to_bytes(flat).unique().tolist() == [64]


def test_near_black_is_what_looks_black_and_is_not():
    pixels = torch.tensor([[0, 0, 0, 15], [0, 1, 16, 255], [16, 100, 200, 255]], dtype=torch.uint8).view(3, 1, 2, 2)
    assert near_black_share(pixels).tolist() == [0.25, 0.5, 0]
    assert image_properties(pixels / 255)["near_black"].tolist() == [0.25, 0.5, 0]


def draws(shares: Tensor, gain: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Hits of ten candidates of each cell, the first three of them right more often, and the true gain."""
    chances = shares[:, None].repeat(1, 10)
    chances[:, :3] = (chances[:, :3] + gain).clamp(0, 1)
    truth = (chances[:, :3].mean(dim=1) - chances.mean(dim=1)).mean().item()
    return torch.rand(chances.shape, generator=generator) < chances, truth


@pytest.mark.parametrize("gain", [0.0, 0.15, -0.4])
def test_the_interval_of_a_choice_covers_the_truth(gain):
    shares = torch.tensor([0.99, 0.9, 0.25, 0.5, 0.25, 1, 0.95, 0.99, 1, 0.6])
    generator, covered, trials = torch.Generator().manual_seed(0), 0, 400
    for _ in range(trials):
        hits, truth = draws(shares, gain, generator)
        low, high = gain_of_choice(hits, 3)[1]
        covered += low <= truth <= high
    assert 0.92 <= covered / trials <= 0.995


def test_the_interval_of_a_choice_among_all_right_is_no_point():
    value, (low, high) = gain_of_choice(torch.ones(10, 10, dtype=torch.bool), 3)
    assert value == 0
    assert 0.04 < high == -low < 0.1
    one = gain_of_choice(torch.ones(1, 10, dtype=torch.bool), 3)[1]
    assert one[1] > 2.5 * high  # a cell alone tells little


def test_how_much_classes_differ_does_not_widen_the_interval_of_a_choice():
    apart, alike = torch.zeros(2, 10, 10, dtype=torch.bool)
    apart[:5] = True
    alike[:, ::2] = True
    widths = [high - low for _, (low, high) in (gain_of_choice(hits, 3) for hits in (apart, alike))]
    assert widths[0] < 0.6 * widths[1]
