"""What the judge sees: known answers for constructed verdicts, and both processes as they are defined."""

import math

import pytest
import torch
from conftest import class_folders, tiny_unet

from hfdiff.core.errors import BadInput
from hfdiff.data.loading import load_training_data
from hfdiff.data.table import to_model_range
from hfdiff.evaluation.judge import (
    Judge,
    JudgeOutput,
    cached,
    class_probabilities,
    find_judge,
    load_judge,
    predict,
    right_scores,
)
from hfdiff.evaluation.judge_training import judge_for, make_judge, train_judge
from hfdiff.evaluation.trajectory import (
    NUM_PLACES,
    Reverse,
    falls_to,
    log_snr,
    measure_forward,
    measure_reverse,
    recognised_from,
    recognised_share,
    recognition,
    score_histogram,
)
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.objectives import OBJECTIVES, make_objective, timestep_at
from hfdiff.pipelines import ClassStylePipeline, noise_levels

INF = math.inf


class BrightnessJudge(Judge):
    """Says class 1 of an image that is bright on average, class 0 otherwise."""

    def __init__(self):
        super().__init__(1, ["dark", "bright"], ["thick"], widths=(4, 4, 4))

    def forward(self, images: torch.Tensor) -> JudgeOutput:
        brightness = images.mean(dim=(1, 2, 3))
        return JudgeOutput(
            torch.stack([-brightness, brightness], dim=1), torch.zeros(len(images), 0), images.flatten(1)
        )


def two_class_pipeline(objective: str = "flow", sampler: str = "auto") -> ClassStylePipeline:
    scheduler = make_objective(ObjectiveConfig(objective=objective, sampler=sampler)).scheduler()
    unet = tiny_unet(num_classes=2, num_styles=0)
    pipe = ClassStylePipeline(unet=unet, scheduler=scheduler, id2label={0: "dark", 1: "bright"})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def trajectory(verdicts: list[list[int]], asked: list[int], class_ids: list[int]) -> Reverse:
    """A reverse process of four evaluations with these verdicts on the predicted clean images."""
    nothing = torch.zeros(0)
    points = torch.tensor([-INF, -2.0, 0.0, 2.0, INF], dtype=torch.float64)
    said, shares = torch.tensor(verdicts), torch.linspace(0, 1, 5, dtype=torch.float64)
    return Reverse(class_ids, torch.tensor(asked), shares, points, said, said, nothing, nothing, nothing)


def test_recognised_is_right_from_then_on():
    verdicts = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 0], [2, 0, 2, 2]])
    assert recognised_from(verdicts, torch.tensor([1, 1, 1, 1, 2])).tolist() == [0, 1, 3, 4, 2]


def test_recognition_of_a_constructed_trajectory():
    found = trajectory(
        [[0, 1, 1, 1, 1], [1, 0, 1, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 1, 3], [3, 3, 3, 3, 3]], [1, 1, 1, 1, 3], [1, 3]
    )
    ones, threes, together = recognition(found, found.clean_verdicts, ["a", "b", "c", "d"])
    assert (ones.name, ones.num_images, ones.never) == ("b", 4, 0.25)
    assert ones.shares == (0.5, 0.75, 0.75)  # from points 1, 2, 3 and never: the quartiles are places 1, 2 and 2
    assert ones.log_snr == (0.0, 2.0, 2.0)
    assert (threes.name, threes.shares, threes.log_snr, threes.never) == ("d", (0.0,) * 3, (-INF,) * 3, 0.0)
    assert (together.name, together.num_images, together.never) == ("together", 5, 0.2)
    assert recognised_share(found, found.clean_verdicts).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert found.said_of_noise in (0, 1)


def test_what_is_never_recognised_is_infinitely_late():
    found = trajectory([[0, 0, 0, 0, 0]] * 3, [1] * 3, [1])
    row = recognition(found, found.clean_verdicts, ["a", "b"])[0]
    assert (row.shares, row.log_snr, row.never) == ((INF,) * 3, (INF,) * 3, 1.0)


def test_falls_to_is_between_the_places():
    assert falls_to([0, 1, 2, 3], [1.0, 0.8, 0.4, 0.2], 0.5) == pytest.approx(1.75)
    assert falls_to([0, 1], [1.0, 0.8], 0.5) is None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_log_snr_falls_over_the_processs_time(objective):
    made = make_objective(ObjectiveConfig(objective=objective))
    places = torch.linspace(0, 1, 11, dtype=torch.float64)
    levels = log_snr(made.scheduler(), timestep_at(made.process(), places))
    assert (levels.diff() < 0).all()
    if objective == "flow":
        assert torch.allclose(levels[1:-1], 2 * ((1 - places) / places).log()[1:-1])
    if objective == "edm":  # ln sigma is even, from 0.002 to 80
        ends = -2 * torch.tensor([0.002, 80.0], dtype=torch.float64).log()
        assert torch.allclose(levels, torch.lerp(*ends, places))


@pytest.mark.parametrize("objective", ["flow", "epsilon", "edm"])
def test_the_forward_process_noises_real_images_until_the_judge_guesses(objective, table):
    scheduler = make_objective(ObjectiveConfig(objective=objective)).scheduler()
    bright = to_model_range(table.pixels).mean(dim=(1, 2, 3)) > -0.4
    pixels = table.pixels.clone()
    pixels[bright], pixels[~bright] = 255, 0
    labels, names = bright.long(), ("dark", "bright")
    data = type(table)(pixels, labels, table.style_weights, names, (), "constructed")
    found = measure_forward(scheduler, BrightnessJudge(), data, [0, 1], num_images=50, seed=1)
    assert (found.num_images, found.chance, found.class_ids) == (50, 0.5, [0, 1])
    assert found.images.shape == (2, NUM_PLACES, 1, 28, 28)
    assert found.accuracy[0] == 1
    assert found.accuracy[-1] < 0.8
    assert 0.5 < found.lost.place < 1
    level = noise_levels(scheduler, found.lost.timestep)
    assert found.lost.log_snr == pytest.approx(2 * (level[0] / level[1]).log().item())
    assert (found.images[0, 0] < 10).all()
    assert (found.images[1, 0] > 245).all()
    again = measure_forward(scheduler, BrightnessJudge(), data, [0, 1], num_images=50, seed=1)
    assert torch.equal(again.images, found.images)


def test_where_noise_never_hides_the_class_nothing_is_lost(table):
    data = type(table)(table.pixels * 0, table.labels * 0, table.style_weights, ("dark", "bright"), (), "constructed")
    judge = BrightnessJudge()
    judge.forward = lambda images: JudgeOutput(torch.tensor([[1.0, 0.0]] * len(images)), torch.zeros(0), torch.zeros(0))
    assert measure_forward(make_objective(ObjectiveConfig()).scheduler(), judge, data, [0, 1]).lost is None


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [
        ("flow", "auto"),
        ("flow", "heun"),
        ("v_prediction", "heun"),
        ("edm", "auto"),
        ("epsilon", "auto"),
        ("sample", "ddpm"),
    ],
)
def test_the_reverse_process_is_judged_at_every_evaluation(objective, sampler):
    pipe, judge = two_class_pipeline(objective, sampler), BrightnessJudge()
    found = measure_reverse(pipe, judge, [0, 1], num_images=3, num_inference_steps=5, seed=4, max_batch_size=4)
    pipe.scheduler.set_timesteps(5)
    points = len(pipe.scheduler.timesteps) + 1
    assert found.asked.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.clean_verdicts.shape == found.noisy_verdicts.shape == (6, points)
    assert found.clean.shape == found.noisy.shape == (2, points, 1, 28, 28)
    assert found.shares.tolist() == pytest.approx([i / (points - 1) for i in range(points)])
    assert (found.log_snr.diff() >= 0).all()
    images = pipe(
        [0, 1], None, 3, num_inference_steps=5, output_type="pt",
        generator=[torch.Generator().manual_seed(4 + i) for i in (0, 1, 2) * 2],
    ).images  # fmt: skip
    ended = (images * 255).round().byte()
    assert (found.clean[:, -1].int() - ended[::3].int()).abs().max() <= 1
    assert torch.equal(found.clean_verdicts[:, -1], predict(judge, ended).classes)
    assert torch.equal(found.noisy[0, 0], found.noisy[1, 0])  # the same noise
    for images, verdicts in ((found.clean, found.clean_verdicts), (found.noisy, found.noisy_verdicts)):
        assert torch.equal(predict(judge, images.flatten(0, 1)).classes, verdicts[::3].flatten())


def test_scores_are_the_probability_of_the_right_class_and_histograms_sum_to_one():
    logits = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]])
    verdict = JudgeOutput(logits, torch.zeros(2, 0), torch.zeros(2, 0))
    assert right_scores(verdict, torch.tensor([1, 1])).tolist() == pytest.approx([0.75, 0.2])
    found = score_histogram(torch.tensor([0.0, 0.02, 0.99, 1.0]), torch.rand(77))
    assert found.generated.sum() == pytest.approx(1)
    assert found.real.sum() == pytest.approx(1)
    assert (found.generated[0], found.generated[-1]) == (0.5, 0.5)
    assert (found.num_generated, found.num_real) == (4, 77)


def test_a_judge_of_noised_images_knows_the_level(fashion):
    table, validation = fashion[0].part(torch.arange(0, 10_000, 5)), fashion[1].part(torch.arange(0, 2_000, 4))
    judge = make_judge(table, widths=(8, 16, 16), noised=True)
    epochs = list(train_judge(judge, table, validation, epochs=3, batch_size=32))
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].validation_accuracy > 0.4  # chance: 0.1
    clean = to_model_range(validation.pixels)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    half_noise = class_probabilities(judge, (clean + noise) / math.sqrt(2), 0.0)
    assert (half_noise.argmax(1) == validation.labels).double().mean() > 0.35
    assert class_probabilities(judge, noise, -INF).max(dim=1).values.mean() < 0.3  # of pure noise nothing is certain
    assert torch.allclose(class_probabilities(judge, clean, INF), predict(judge, validation.pixels).logits.softmax(1))
    assert not torch.allclose(class_probabilities(judge, clean, 0.0), class_probabilities(judge, clean, INF))


def test_the_judge_of_noised_images_is_kept_beside_the_other(tmp_path, monkeypatch):
    monkeypatch.setenv("HFDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hfdiff.evaluation.judge_training.MAX_EPOCHS", 1)
    train, validation = load_training_data(str(class_folders(tmp_path / "data", {"cat": 40, "dog": 40})))
    said: list[str] = []
    noised = judge_for(train, validation, noised=True, log=said.append)
    assert (noised.noised, noised.style_names, len(said)) == (True, [], 2)
    assert find_judge(train) is None
    again = judge_for(train, validation, noised=True, log=said.append)
    x = torch.randn(5, *train.pixels.shape[1:])
    assert torch.equal(class_probabilities(noised, x, 0.0), class_probabilities(again, x, 0.0))
    assert len(said) == 2
    folder = str(cached(train, "first", noised=True))
    assert load_judge(folder, noised=True).noised
    with pytest.raises(BadInput, match="is one of noised images; valid: one of clean images"):
        load_judge(folder)
