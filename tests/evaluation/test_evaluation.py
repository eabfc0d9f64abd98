"""Metrics against closed forms, known mixtures, and damage that must move one number and no other."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from kornia.filters import gaussian_blur2d
from PIL import Image
from torchmetrics.image.kid import poly_mmd

from hfdiff.core.errors import BadInput
from hfdiff.core.files import slug
from hfdiff.data.config import ReadOptions
from hfdiff.data.styles import apply_styles
from hfdiff.data.table import to_bytes, to_unit_range
from hfdiff.evaluation.clip import image_features, load_clip
from hfdiff.evaluation.distances import cmmd, covered, frechet, kernel_distances, nearest, spread
from hfdiff.evaluation.given_samples import read_samples
from hfdiff.evaluation.judge import Judge, independent, load_judge, unseen
from hfdiff.evaluation.judge_training import make_judge
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.metrics import METRICS, missing_inputs
from hfdiff.evaluation.reference_images import JudgedImages, ReferenceSet, check_judge, judge_images
from hfdiff.evaluation.report import read_report
from hfdiff.evaluation.statistics import jackknife, wilson
from hfdiff.pipelines import Scorer

pytestmark = pytest.mark.slow


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def real(fashion) -> ReferenceSet:
    """2,000 training images, and 600 held-out ones, about half of which the judge never saw."""
    train, validation = fashion
    return ReferenceSet.of(
        load_judge("fashion_mnist_12k"),
        train.part(torch.arange(0, 10_000, 5)),
        validation.part(torch.arange(0, 1_800, 3)),
        scorer=Scorer(*load_clip(dataset="fashion_mnist_12k")),
    )


@pytest.fixture(scope="module")
def inputs(real) -> MetricInputs:
    """Training images in place of a model's samples: a model that copies, perfectly."""
    return MetricInputs(real, replace(real.others, clip=image_features(real.clip_reference.scorer, real.others.pixels)))


def test_frechet_distance_of_a_stretched_and_shifted_set_in_closed_form():
    a = normal(500, 6) @ normal(6, 6, seed=1)
    shift = normal(6, seed=2)
    # |m - (s m + shift)|^2 + (1 - s)^2 tr C, for b = s a + shift
    expected = ((a.mean(0) - (1.5 * a.mean(0) + shift)) ** 2).sum() + 0.25 * a.T.cov().trace()
    assert frechet(a, 1.5 * a + shift) == pytest.approx(expected.item(), rel=1e-6)


def test_identical_sets_have_no_distance():
    a = normal(500, 6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    # The unbiased estimate of identical parts is short of 0 by 2 (k(x, x) - k(x, y)) / m.
    assert kernel_distances(poly_mmd, a, a).abs().max() < 2 * 30 / 50


def test_kernel_distance_of_shifted_gaussians_in_closed_form():
    """One dimension: k(x, y) = (xy + 1)^3, so the distance is a sum over the differences of the first moments."""
    a, b = normal(100_000, 1), normal(100_000, 1, seed=1) + 1
    moments = [(0.0, 1.0), (1.0, 2.0), (0.0, 4.0)]  # E x, E x^2, E x^3 of N(0, 1) and of N(1, 1)
    expected = sum(weight * (p - q) ** 2 for weight, (p, q) in zip((3, 3, 1), moments))
    values = kernel_distances(poly_mmd, a, b)
    assert values.mean().item() == pytest.approx(expected, abs=4 * values.std().item() / 10**0.5)


def test_cmmd_is_the_unbiased_sum_over_pairs():
    a, b = (torch.nn.functional.normalize(normal(7, 3, seed=seed), dim=1) for seed in (0, 1))

    def kernel(x, y):
        return torch.exp(-((x - y) ** 2).sum() / 200)

    inside = sum(kernel(x[i], x[j]) for x in (a, b) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    across = sum(kernel(x, y) for x in a for y in b) / 49
    assert cmmd(a, b).item() == pytest.approx(1000 * (inside - 2 * across).item(), rel=1e-9)


def test_precision_and_recall_of_mixtures():
    """Half of the samples fall on one of the two real clusters, half beside both."""
    clusters = {name: normal(200, 4, seed=i) + 100 * i for i, name in enumerate("abc")}
    reference = torch.cat([clusters["a"], clusters["b"]])
    samples = torch.cat([clusters["a"] + 1e-3, clusters["c"]])
    assert covered(samples, reference).double().mean() == 0.5  # precision
    assert covered(reference, samples).double().mean() == 0.5  # recall


def test_wilson_interval():
    low, high = wilson(torch.arange(10) < 1)
    assert (low, high) == pytest.approx((0.01787, 0.40416), abs=1e-4)  # tabulated for 1 of 10
    assert wilson(torch.zeros(50, dtype=torch.bool))[0] == pytest.approx(0, abs=1e-12)


def test_jackknife_of_a_mean_is_the_interval_of_the_mean_of_groups():
    values = normal(500)
    tenth = torch.randperm(500, generator=torch.Generator().manual_seed(0)) % 10
    error = torch.stack([values[tenth == i].mean() for i in range(10)]).std().item() / 10**0.5
    expected = [values.mean().item() + side * 2.262 * error for side in (-1, 1)]
    assert jackknife(lambda rows: values[rows].mean().item(), 500) == pytest.approx(expected)


def test_spread_of_classes():
    labels = torch.tensor([0, 0, 1, 1])
    features = torch.tensor([[0.0], [2.0], [5.0], [9.0]])
    assert spread(features, labels) == pytest.approx((2 + 4) / 2)


def test_real_images_reach_the_real_value_of_every_metric(real):
    """Held-out images in place of samples, against the other held-out ones: as good as the training images are."""
    half = len(real.reference) // 2
    held_out = MetricInputs(replace(real, reference=real.reference[:half]), real.reference[half:])
    for name in ("class_accuracy", "frechet_judge", "precision", "recall", "diversity"):
        result = METRICS[name].measure(held_out)
        assert result.value != result.real, name
        near = {"rel": 0.5} if name == "frechet_judge" else {"abs": 0.1} if result.value < 1 else {"rel": 0.1}
        assert result.value == pytest.approx(result.real, **near), name
        assert result.ci95[0] <= result.value <= result.ci95[1], name
    clip_reference = real.clip_reference
    count = len(clip_reference.reference) // 2
    few = replace(real.reference[:count], clip=clip_reference.reference[-count:])
    by_clip = MetricInputs(
        replace(real, clip_reference=replace(clip_reference, reference=clip_reference.reference[:count])), few
    )
    for result in (METRICS["kernel_judge"].measure(held_out), METRICS["cmmd"].measure(by_clip)):
        assert result.ci95[0] < 0 < result.ci95[1]


def test_copies_raise_memorisation_by_their_share(inputs):
    """Held-out images with a tenth of near-duplicates of training images; without, about 1% by definition."""
    samples = inputs.real.reference[len(inputs.real.reference) // 2 :]  # those that the real value is measured on
    held_out = samples.pixels
    clean = METRICS["memorisation"].measure(replace(inputs, samples=samples))
    assert clean.value == clean.real < 0.05
    copied = held_out.clone()
    copied[::10] = inputs.real.training.pixels[: len(held_out[::10])]
    fresh = judge_images(inputs.real.judge, copied, samples.labels)
    result = METRICS["memorisation"].measure(replace(inputs, samples=fresh))
    assert result.value == pytest.approx(clean.value + 0.1, abs=0.01)


def test_a_mirrored_copy_is_a_copy(inputs):
    training = inputs.real.training.pixels
    found = nearest(training[:50].flip(-1), training)
    assert found.closeness.max() < 0.01
    assert torch.equal(training[found.rows], training[:50])


def test_a_darker_copy_is_nearer_than_any_new_image(inputs):
    training = inputs.real.training.pixels
    copies = (training[:50].float() * 0.95).byte()
    new = nearest(inputs.real.reference.pixels, training).closeness
    assert nearest(copies, training).closeness.max() < new.quantile(0.05)


def test_an_image_that_is_left_out_is_not_its_own_neighbour():
    training = torch.randint(0, 256, (600, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    training[599] = training[3].flip(-1)
    found = nearest(training, training, left_out=True)
    assert found.rows[3] == 599
    assert found.rows[599] == 3
    assert (found.rows != torch.arange(600)).all()
    assert (found.closeness[4:599] > 0.5).all()


def test_few_held_out_images_leave_the_threshold_to_the_training_images(inputs):
    few = replace(inputs.real, reference=inputs.real.reference[:15])
    assert missing_inputs("memorisation", few, 200, 0) is None
    fresh = METRICS["memorisation"].measure(MetricInputs(few, inputs.real.reference))
    assert fresh.details["threshold_of"] == "training images, each against the others"
    assert fresh.value < 0.05
    assert METRICS["memorisation"].measure(MetricInputs(few, inputs.samples)).value == 1  # which are near-duplicates


def test_shuffled_labels_move_accuracy_alone(inputs):
    order = torch.randperm(len(inputs.samples), generator=torch.Generator().manual_seed(0))
    shuffled = replace(inputs, samples=replace(inputs.samples, labels=inputs.samples.labels[order]))
    assert METRICS["class_accuracy"].measure(shuffled).value < 0.2
    score = METRICS["clip_score"].measure(shuffled)
    assert score.value < score.real - 0.2
    for name in ("frechet_judge", "kernel_judge", "frechet_clip", "cmmd", "precision", "recall"):
        assert METRICS[name].measure(shuffled).value == METRICS[name].measure(inputs).value


def test_blur_moves_distances_and_is_no_memorisation(inputs):
    pixels = to_bytes(gaussian_blur2d(to_unit_range(inputs.real.reference.pixels[:500]), (5, 5), (1.5, 1.5)))
    labels = inputs.real.reference.labels[:500]
    scorer = inputs.real.clip_reference.scorer
    sharp, blurred = (
        replace(inputs, samples=judge_images(inputs.real.judge, given, labels, scorer=scorer))
        for given in (inputs.real.reference.pixels[:500], pixels)
    )
    before, after = ({k: METRICS[k].measure(e).value for k in METRICS if METRICS[k].default and k != "style_fidelity"}
                     for e in (sharp, blurred))  # fmt: skip
    assert after["frechet_judge"] > 3 * max(before["frechet_judge"], 0.1)
    for name in ("kernel_judge", "frechet_clip", "cmmd"):
        assert after[name] > before[name]
    assert after["clip_score"] < before["clip_score"]
    assert after["precision"] < before["precision"]
    assert after["memorisation"] < before["memorisation"] + 0.03


def styled(real: ReferenceSet, shuffle: bool) -> JudgedImages:
    """Real images changed by the styles' transforms; the strengths given are right, or someone else's."""
    generator = torch.Generator().manual_seed(1)
    columns = [real.judge.style_names.index(name) for name in ("thick", "slanted")]
    strengths = torch.zeros(600, len(real.judge.style_names))
    strengths[:300, columns[0]] = 1 - torch.rand(300, generator=generator)
    strengths[300:, columns[1]] = 1 - torch.rand(300, generator=generator)
    pixels = apply_styles(to_unit_range(real.others.pixels[:600]), strengths[:, columns], ("thick", "slanted"))
    told = strengths.clone()
    if shuffle:
        for part in (slice(0, 300), slice(300, 600)):
            told[part] = told[part][torch.randperm(300, generator=generator)]
    return judge_images(real.judge, to_bytes(pixels), real.others.labels[:600], told)


def test_style_fidelity_of_true_and_of_shuffled_strengths(inputs):
    true, shuffled = (
        METRICS["style_fidelity"].measure(replace(inputs, styled=styled(inputs.real, shuffle)))
        for shuffle in (False, True)
    )
    assert true.value > 0.7
    assert true.value == pytest.approx(true.real, abs=1e-6)
    assert abs(shuffled.value) < 0.2
    silent = styled(inputs.real, shuffle=False)
    silent.output.strengths.fill_(0.5)
    assert METRICS["style_fidelity"].measure(replace(inputs, styled=silent)).value == 0
    assert set(true.details["per_style"]) == {"thick", "slanted"}
    assert true.details["per_style"]["thick"]["n"] == 300
    assert true.details["per_style"]["thick"]["mean_error"] < shuffled.details["per_style"]["thick"]["mean_error"]


def test_the_reference_images_of_clip_are_images_that_it_never_saw(fashion, real):
    config, judge = real.clip_reference.scorer.model.config, real.judge
    seen = {image.numpy().tobytes() for table in fashion for image in table.half(config.half_seen).pixels}
    assert not seen & {image.numpy().tobytes() for image in real.clip_reference.table.pixels}
    assert len(real.clip_reference.others) == len(unseen(config, real.training)) > 900
    assert independent(judge, config)
    assert not independent(load_judge("fashion_mnist"), SimpleNamespace(half_seen="first"))
    assert independent(judge, SimpleNamespace())  # a model of the Hub


def test_what_is_too_small_is_said(inputs):
    real = inputs.real
    assert missing_inputs("frechet_judge", real, 50, 0) == "frechet_judge needs 256 samples; there are 50"
    assert missing_inputs("class_accuracy", real, 50, 0) is None
    assert missing_inputs("style_fidelity", real, 500, 0) == "style_fidelity needs 100 samples in styles; there are 0"
    few = replace(real, reference=real.reference[:90])
    assert missing_inputs("recall", few, 500, 0) == "recall needs 100 held-out real images; there are 90"
    with pytest.raises(BadInput, match="unknown metric 'fid'.*frechet_judge"):
        missing_inputs("fid", real, 50, 0)


def test_pixels_that_are_no_numbers():
    images = torch.rand(4, 1, 5, 5)
    images[2, 0, 1, 1] = torch.nan
    with pytest.raises(BadInput, match="image 2 holds pixels that are no numbers"):
        to_bytes(images)


def test_a_judge_of_other_classes(fashion):
    with pytest.raises(BadInput, match="the judge knows the classes a, b; dataset 'fashion_mnist_12k' has T - shirt"):
        check_judge(Judge(1, ["a", "b"]), fashion[0])
    with pytest.raises(BadInput, match="3 channels; dataset"):
        check_judge(Judge(3, list(fashion[0].class_names)), fashion[0])


def test_a_judge_that_saw_everything(fashion):
    table = fashion[0].part(slice(0, 300))
    with pytest.raises(BadInput, match="was trained on all train images of 'fashion_mnist_12k'; give one of half"):
        ReferenceSet.of(make_judge(table, widths=(4, 8, 8)), table, fashion[1].part(slice(0, 50)))


def test_real_images_in_class_folders_are_measured_as_real(real, tmp_path):
    """Held-out images that another program saved, against the other held-out ones."""
    half = len(real.reference) // 2
    held_out = MetricInputs(replace(real, reference=real.reference[:half]), real.reference[half:])
    for i, (image, label) in enumerate(zip(held_out.samples.pixels, held_out.samples.labels.tolist())):
        folder = tmp_path / "real" / slug(real.training.class_names[label])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).convert("RGB").save(folder / f"{i}.png")
    table = read_samples(tmp_path / "real", real.training, ReadOptions(), seed=0)
    given = replace(held_out, samples=judge_images(real.judge, table.pixels, table.labels))
    for name in ("class_accuracy", "frechet_judge", "precision", "recall", "diversity", "memorisation"):
        result, own = METRICS[name].measure(given), METRICS[name].measure(held_out)
        assert result.value == pytest.approx(own.value, rel=1e-6, abs=1e-9), name
        assert result.real == pytest.approx(own.real, rel=1e-6, abs=1e-9), name
        assert result.ci95[0] <= result.real <= result.ci95[1] or name in ("recall", "precision"), name


def test_a_report_of_version_1_is_read_as_one_of_today():
    """Classes and styles may be called as they like."""
    own = {"value": 0.7, "per_class": {"floor": 0.5}}
    old = {**own, "floor": 0.8, "floor_n": 10, "per_style": {"floor_tiles": {"floor_spearman": None, "n": 3}}}
    now = {**own, "real": 0.8, "real_n": 10, "per_style": {"floor_tiles": {"real_spearman": None, "n": 3}}}
    assert read_report({"seconds": {}, "metrics": {"any": old}}) == {
        "version": 2,
        "seconds": {},
        "metrics": {"any": now},
    }
    for version in ({}, {"version": 1}, {"version": 2}):
        assert read_report({**version, "metrics": {"any": now}}) == {"version": 2, "metrics": {"any": now}}
    with pytest.raises(BadInput, match="a report of version 3; this hfdiff reads 1 and 2"):
        read_report({"version": 3, "metrics": {}})
    for damaged in ({"protocol": {}}, {"metrics": None}, {"version": 2, "metrics": {"any": 1}}):
        assert read_report(damaged) == damaged
