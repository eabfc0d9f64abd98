"""Quality in training: how many samples the time allows, and that they stay the same ones."""

import pytest
import torch
from conftest import tiny_unet

from hfdiff.core.errors import BadInput
from hfdiff.evaluation.judge_training import make_judge
from hfdiff.evaluation.monitor import QualityMonitor
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.loading import make_pipeline
from hfdiff.models.objectives import make_objective
from hfdiff.training.build import make_state
from hfdiff.training.config import TrainConfig
from hfdiff.training.state import TrainState


@pytest.fixture
def watch(fashion):
    training, validation = (table.part(slice(0, 700)) for table in fashion)
    return QualityMonitor(make_judge(training, widths=(4, 8, 8), half="first"), training, validation, seed=0)


@pytest.fixture
def drawer(fashion):
    unet = tiny_unet(num_classes=10, num_styles=0, patch_size=4)
    return make_pipeline(unet, make_objective(ObjectiveConfig()).scheduler(), fashion[0].class_names, (), ())


@pytest.fixture
def state(drawer, accelerator) -> TrainState:
    return make_state(TrainConfig(), drawer.unet, accelerator)


@pytest.mark.parametrize(
    ("seconds", "needed", "n"),
    [
        (100.0, False, 0),
        (1_000.0, False, 500),
        (10**6, False, 2_000),
        (100.0, True, 256),
        (400.0, True, 256),
        (1_000.0, True, 500),
    ],
)
def test_the_share_of_the_time(watch, drawer, state, seconds, needed, n):
    watch.needed, state.seconds, state.quality_cost = needed, seconds, 0.1
    assert watch._affordable(drawer, state) == n


def test_what_was_spent_counts(watch, drawer, state):
    """Once n is decided, it is measured again only when the training has earned it."""
    state.quality_cost, state.quality_n, state.quality_seconds = 0.1, 200, 30.0
    for seconds, n in ((800.0, 0), (1_000.0, 200), (10_000.0, 200)):
        state.seconds = seconds
        assert watch._affordable(drawer, state) == n


def test_the_same_samples_every_time(watch, drawer, state):
    state.quality_n, state.quality_cost, state.seconds = 120, 1e-6, 10**6
    random_state = torch.get_rng_state()
    first = watch.measure(drawer, state)
    assert watch.measure(drawer, state) == first
    assert first.keys() == {"class_accuracy", "quality_n"}  # too few for a distance
    assert state.quality_seconds > 0
    assert torch.equal(torch.get_rng_state(), random_state)


def test_too_few_images_to_go_by(watch):
    watch.validation = watch.validation.part(slice(0, 100))
    watch.check()
    watch.needed = True
    with pytest.raises(BadInput, match="best_by 'frechet_judge': frechet_judge needs 256 held-out real images"):
        watch.check()
