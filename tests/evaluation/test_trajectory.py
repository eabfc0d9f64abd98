"""What the judge sees: known answers for constructed verdicts, and both processes as they are defined."""

import math

import pytest
import torch
from conftest import class_folders, tiny_unet
from diffusers.models.unets.unet_2d import UNet2DOutput

from hfdiff.core.errors import BadInput
from hfdiff.data.loading import load_training_data
from hfdiff.data.table import ImageTable, to_bytes, to_model_range
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
from hfdiff.evaluation.statistics import wilson
from hfdiff.evaluation.trajectory import (
    NUM_PLACES,
    Reading,
    Reverse,
    detail,
    falls_to,
    linear_betas,
    log_snr,
    measure_forward,
    measure_reverse,
    median_interval,
    recognised_from,
    recognised_share,
    recognition,
    score_histogram,
    speciation,
    steps_done,
)
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.objectives import OBJECTIVES, make_objective, timestep_at
from hfdiff.models.samplers import process_of
from hfdiff.models.sampling import generators
from hfdiff.pipelines import ClassStylePipeline, noise_levels

INF = math.inf


class BrightnessJudge(Judge):
    """Says class 1 of an image that is bright on average, class 0 otherwise, whatever the noise."""

    def __init__(self, noised: bool = False):
        super().__init__(1, ["dark", "bright"], ["thick"], widths=(4, 4, 4), noised=noised)

    def forward(self, images: torch.Tensor, log_snr: torch.Tensor | None = None) -> JudgeOutput:
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


def trajectory(classes: list[list[int]], asked: list[int], class_ids: list[int]) -> Reverse:
    """A reverse process of four evaluations at which both judges name these classes."""
    nothing, said = torch.zeros(0), torch.tensor(classes)
    points = torch.tensor([-INF, -2.0, 0.0, 2.0, INF], dtype=torch.float64)
    reading = Reading(said, torch.ones(said.shape))
    shares = torch.linspace(0, 1, 5, dtype=torch.float64)
    return Reverse(class_ids, torch.tensor(asked), shares, points, reading, reading, nothing, nothing)


def test_recognised_is_right_from_then_on():
    verdicts = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 0], [2, 0, 2, 2]])
    assert recognised_from(verdicts, torch.tensor([1, 1, 1, 1, 2])).tolist() == [0, 1, 3, 4, 2]


def test_recognition_of_a_constructed_trajectory():
    found = trajectory(
        [[0, 1, 1, 1, 1], [1, 0, 1, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 1, 3], [3, 3, 3, 3, 3]], [1, 1, 1, 1, 3], [1, 3]
    )
    ones, threes, together = recognition(found, found.state, ["a", "b", "c", "d"])
    assert (ones.name, ones.num_images, ones.never) == ("b", 4, 0.25)
    assert ones.shares == (0.5, 0.75, 0.75)  # from points 1, 2, 3 and never: the quartiles are places 1, 2 and 2
    assert ones.log_snr == (0.0, 2.0, 2.0)
    assert (ones.log_snr_interval, ones.shares_interval) == ((-2.0, INF), (0.25, INF))  # of four, the ends
    assert (threes.name, threes.shares, threes.log_snr, threes.never) == ("d", (0.0,) * 3, (-INF,) * 3, 0.0)
    assert (together.name, together.num_images, together.never) == ("together", 5, 0.2)
    share, interval = recognised_share(found, found.state)
    assert share.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert ((interval[:, 0] < share) & (share < interval[:, 1])).all()


def test_what_is_never_recognised_is_infinitely_late():
    found = trajectory([[0, 0, 0, 0, 0]] * 3, [1] * 3, [1])
    row = recognition(found, found.predicted, ["a", "b"])[0]
    assert (row.shares, row.log_snr, row.linear_beta_shares, row.never) == ((INF,) * 3, (INF,) * 3, (INF,) * 3, 1.0)


def test_the_interval_of_a_median_is_that_of_a_fair_coin():
    assert median_interval(torch.arange(1, 21)) == (6, 15)  # Conover's table: n = 20
    assert median_interval(torch.arange(1, 6)) == (1, 5)  # too few: the ends
    draws = torch.randint(0, 1001, (400, 20), generator=torch.Generator().manual_seed(0))
    held = [low <= 500 <= high for low, high in map(median_interval, draws)]
    assert 0.93 < sum(held) / len(held) < 0.99  # 0.959 in theory


def test_steps_of_another_schedule_at_the_same_level():
    linear, places = linear_betas(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    assert torch.allclose(steps_done(linear, log_snr(linear, 999 * (1 - places))), places, atol=1e-3)
    flow = make_objective(ObjectiveConfig()).scheduler()
    assert steps_done(flow, [-INF, 0.0, 2 * math.log(3), INF]).tolist() == pytest.approx([0, 0.5, 0.75, 1], abs=1e-3)
    # alpha_bar of Ho et al. 2020 after 500 steps of betas from 1e-4 to 0.02
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))[:500].prod()
    assert steps_done(linear, [(alpha_bar / (1 - alpha_bar)).log().item()]).item() == pytest.approx(0.5, abs=2e-3)


def test_classes_part_at_the_largest_eigenvalue_between_them():
    """Two classes at m + d and m - d: the covariance between them has the eigenvalue |d|^2 alone."""
    pixels = torch.full((40, 1, 4, 4), 128, dtype=torch.uint8)
    pixels[::2, 0, :2] += 50
    table = ImageTable(pixels, torch.arange(40) % 2, torch.empty(40, 0), ("a", "b"), (), "constructed")
    assert speciation(table) == pytest.approx(-math.log(8 * (25 / 127.5) ** 2))
    assert detail(table).tolist() == pytest.approx([50 / 255 / 3 / 2, 0.0])


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
    found = measure_forward(scheduler, BrightnessJudge(noised=True), data, [0, 1], num_images=50, seed=1)
    assert (found.num_images, found.chance, found.class_ids) == (50, 0.5, [0, 1])
    assert found.images.shape == (2, NUM_PLACES, 1, 28, 28)
    assert found.accuracy[0] == 1
    assert found.accuracy[-1] < 0.8
    assert 0.5 < found.lost.place < 1
    level = noise_levels(scheduler, timestep_at(process_of(scheduler), torch.tensor(found.lost.place)))
    assert found.lost.log_snr == pytest.approx(2 * (level[0] / level[1]).log().item())
    for name in ("log_snr", "place"):
        low, high = getattr(found.lost, f"{name}_interval")
        assert low <= getattr(found.lost, name) <= high
    assert ((found.intervals[:, 0] <= found.accuracy) & (found.accuracy <= found.intervals[:, 1])).all()
    assert (found.images[0, 0] < 10).all()
    assert (found.images[1, 0] > 245).all()
    again = measure_forward(scheduler, BrightnessJudge(noised=True), data, [0, 1], num_images=50, seed=1)
    assert torch.equal(again.images, found.images)


def test_where_noise_never_hides_the_class_nothing_is_lost(table):
    data = type(table)(table.pixels * 0, table.labels * 0, table.style_weights, ("dark", "bright"), (), "constructed")
    judge = BrightnessJudge(noised=True)
    judge.forward = lambda images, log_snr: JudgeOutput(
        torch.tensor([[1.0, 0.0]] * len(images)), torch.zeros(0), torch.zeros(0)
    )
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
    pipe, judge, noised = two_class_pipeline(objective, sampler), BrightnessJudge(), BrightnessJudge(noised=True)
    found = measure_reverse(pipe, judge, noised, [0, 1], num_images=3, num_inference_steps=5, seed=4, max_batch_size=4)
    pipe.scheduler.set_timesteps(5)
    points = len(pipe.scheduler.timesteps) + 1
    assert found.asked.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.clean.shape == found.noisy.shape == (2, points, 1, 28, 28)
    assert found.shares.tolist() == pytest.approx([i / (points - 1) for i in range(points)])
    assert (found.log_snr.diff() >= 0).all()
    images = pipe(
        [0, 1], None, 3, num_inference_steps=5, output_type="pt",
        generator=generators(range(6), 4, "reverse"),
    ).images  # fmt: skip
    ended = (images * 255).round().byte()
    assert (found.clean[:, -1].int() - ended[::3].int()).abs().max() <= 1
    assert torch.equal(found.predicted.classes[:, -1], predict(judge, ended).classes)
    assert not torch.equal(found.noisy[0, 0], found.noisy[1, 0])  # each has its own noise
    assert torch.equal(predict(judge, found.clean.flatten(0, 1)).classes, found.predicted.classes[::3].flatten())
    for reading in (found.predicted, found.state):
        assert reading.classes.shape == reading.scores.shape == (6, points)


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


# Two classes of grey images of SIDE^2 pixels, all at -DISTANCE or all at +DISTANCE, plus noise of SPREAD in each pixel.
SIDE, DISTANCE, SPREAD = 8, 0.3, 0.1


def posterior(x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """p(bright | alpha x_0 + sigma e = x) of images (B, 1, SIDE, SIDE): (B,), by Bayes' rule."""
    variance = alpha**2 * SPREAD**2 + sigma**2
    return (2 * alpha * DISTANCE * x.sum(dim=(1, 2, 3)) / variance).sigmoid()


def distance_at(levels: torch.Tensor) -> torch.Tensor:
    """Half of that between the two classes at log-SNR, in standard deviations of x_t along the line between them."""
    alpha_2, sigma_2 = levels.sigmoid(), (-levels).sigmoid()
    return SIDE * DISTANCE * (alpha_2 / (alpha_2 * SPREAD**2 + sigma_2)).sqrt()


def mean_posterior(levels: torch.Tensor) -> torch.Tensor:
    """E[p(c | x_t)] over images of class c: the mean of sigmoid(2 r (r + g)) over a normal g, by a sum."""
    g, r = torch.linspace(-8, 8, 4001, dtype=torch.float64), distance_at(levels.double())[:, None]
    density = (-(g**2) / 2).exp()
    return ((2 * r * (r + g)).sigmoid() * density).sum(dim=1) / density.sum()


class BayesJudge(Judge):
    """Says the probabilities of the two classes exactly, of noised images."""

    def __init__(self):
        super().__init__(1, ["dark", "bright"], [], widths=(4, 4, 4), noised=True)

    def forward(self, images: torch.Tensor, log_snr: torch.Tensor | None = None) -> JudgeOutput:
        alpha, sigma = log_snr.double().sigmoid().sqrt(), (-log_snr.double()).sigmoid().sqrt()
        bright = posterior(images.double(), alpha, sigma).clamp(1e-12, 1 - 1e-12)
        logits = torch.stack([1 - bright, bright], dim=1).log().float()
        return JudgeOutput(logits, torch.zeros(len(images), 0), images.flatten(1))


def mixture_pipeline() -> ClassStylePipeline:
    """One whose network predicts the mixture exactly, with a class and without."""
    unet = tiny_unet(num_classes=2, num_styles=0, sample_size=SIDE)

    def forward(x, timestep, class_labels=None, style_weights=None):
        t = timestep.double() / 1000
        alpha, sigma = 1 - t, t
        bright = posterior(x.double(), alpha, sigma)
        if class_labels is not None:
            bright = torch.where(class_labels == 2, bright, class_labels.double())
        means = (DISTANCE * torch.stack([-torch.ones(()), torch.ones(())]).double()).reshape(2, 1, 1, 1, 1)
        clean = means + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (x - alpha * means)  # given the class
        expected = torch.lerp(clean[0], clean[1], bright.reshape(-1, 1, 1, 1))
        return UNet2DOutput(((x - expected) / sigma).float())  # e - x_0 where x = alpha x_0 + sigma e

    unet.forward = forward
    scheduler = make_objective(ObjectiveConfig()).scheduler()
    pipe = ClassStylePipeline(unet=unet, scheduler=scheduler, id2label={0: "dark", 1: "bright"})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def mixture_table(count: int, seed: int) -> ImageTable:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    means = DISTANCE * (2.0 * labels - 1).reshape(-1, 1, 1, 1)
    images = means + SPREAD * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    return ImageTable(to_bytes(images / 2 + 0.5), labels, torch.empty(count, 0), ("dark", "bright"), (), "mixture")


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_reverse_process_of_an_exact_mixture_is_read_exactly(guidance):
    """Without guidance the states are those of noised images, so that the mean of p(c | x_t) is known; with it they
    are not, but nothing is known of the class at pure noise."""
    given = {"guidance_scale": guidance, "style_guidance_scale": guidance, "num_images": 500, "max_batch_size": 1000}
    found = measure_reverse(mixture_pipeline(), BrightnessJudge(), BayesJudge(), [0, 1], **given)
    for reading in (found.state, found.predicted):
        low, high = wilson(reading.classes[:, 0] == found.asked)
        assert low < 0.5 < high
        assert (reading.classes[:, -1] == found.asked).all()
    if guidance == 1:
        assert (found.state.scores.double().mean(dim=0) - mean_posterior(found.log_snr)).abs().max() < 0.03
        right = (found.predicted.classes == found.asked[:, None]).double().mean(dim=0)
        assert (right - torch.special.ndtr(distance_at(found.log_snr))).abs().max() < 0.05


def test_the_forward_process_of_an_exact_mixture_is_read_exactly():
    scheduler = make_objective(ObjectiveConfig()).scheduler()
    found = measure_forward(scheduler, BayesJudge(), mixture_table(2000, seed=1), [0, 1], num_images=2000)
    expected = torch.special.ndtr(distance_at(found.log_snr))
    assert (found.accuracy - expected).abs().max() < 0.03
    levels = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    half_way = levels[(torch.special.ndtr(distance_at(levels)) - 0.75).abs().argmin()]
    assert found.lost.log_snr == pytest.approx(half_way.item(), abs=0.3)
    assert found.speciation == pytest.approx(-2 * math.log(SIDE * DISTANCE), abs=0.05)


def test_a_trained_judge_of_noised_images_is_right_as_often_as_bayes_rule():
    training, held_out = mixture_table(2000, seed=2), mixture_table(1000, seed=3)
    judge = make_judge(training, widths=(4, 8, 8), noised=True)
    list(train_judge(judge, training, held_out, epochs=6, batch_size=50, learning_rate=1e-2))
    clean = to_model_range(held_out.pixels)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    for level in (-6.0, -4.0, -2.0, 0.0, 6.0):
        alpha, sigma = torch.tensor([level, -level]).sigmoid().sqrt()
        said = [class_probabilities(j, alpha * clean + sigma * noise, level).argmax(1) for j in (judge, BayesJudge())]
        right, best = ((classes == held_out.labels).double().mean() for classes in said)
        assert abs(right - best) < 0.03
