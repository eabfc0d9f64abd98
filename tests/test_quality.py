"""Quality in training: how many samples the time allows, and that they stay the same ones."""

import pytest
import torch
from conftest import tiny_unet

from hfdiff import quality
from hfdiff.checkpoint import make_pipeline
from hfdiff.judge import make_judge
from hfdiff.objectives import ObjectiveConfig, make_objective
from hfdiff.quality import QualityWatch


@pytest.fixture
def watch(fashion):
    training, validation = (table.part(slice(0, 700)) for table in fashion)
    return QualityWatch(make_judge(training, widths=(4, 8, 8)), training, validation, seed=0)


@pytest.fixture
def drawer(fashion):
    unet = tiny_unet(num_classes=10, num_styles=0, patch_size=4)
    return make_pipeline(unet, make_objective(ObjectiveConfig()).scheduler(), fashion[0].class_names, (), ())


@pytest.mark.parametrize(
    ("seconds", "needed", "n"),
    [(100.0, False, 0), (1_000.0, False, 460), (10**6, False, 2_000), (100.0, True, 260)],
)
def test_the_share_of_the_time(watch, drawer, monkeypatch, seconds, needed, n):
    monkeypatch.setattr(quality, "seconds_per_picture", lambda pipeline: 0.1)
    watch.needed = needed
    assert watch._affordable(drawer, seconds) == n


def test_the_same_samples_every_time(watch, drawer):
    watch.n = 120
    random_state = torch.get_rng_state()
    first = watch.measure(drawer, 0.0)
    assert watch.measure(drawer, 10**9) == first
    assert first.keys() == {"class_accuracy", "quality_n"}  # too few for a distance
    assert torch.equal(torch.get_rng_state(), random_state)
