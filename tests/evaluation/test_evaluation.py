"""Metrics against closed forms, known mixtures, and damage that must move one number and no other."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from kornia.filters import gaussian_blur2d
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance

from hfdiff.core.errors import BadInput
from hfdiff.core.files import slug
from hfdiff.data.config import ReadOptions
from hfdiff.data.styles import LEVELS, apply_styles
from hfdiff.data.table import to_bytes, to_unit_range
from hfdiff.evaluation.clip import image_features, load_clip
from hfdiff.evaluation.distances import SCALES, Kernels, at_infinite_n, frechet
from hfdiff.evaluation.given_samples import read_samples
from hfdiff.evaluation.judge import Judge, independent, load_judge, unseen
from hfdiff.evaluation.judge_training import make_judge
from hfdiff.evaluation.metric import MetricInputs, Result
from hfdiff.evaluation.metrics import METRICS, check_comparable, missing_inputs
from hfdiff.evaluation.neighbours import Neighbourhood
from hfdiff.evaluation.reference_images import JudgedImages, ReferenceSet, check_judge, judge_images
from hfdiff.evaluation.report import read_report
from hfdiff.evaluation.statistics import around_distance, jackknife, split_error, student_t, wilson
from hfdiff.evaluation.vendi import kernel_widths, variety, vendi_score
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


def test_frechet_distance_is_that_of_torchmetrics():
    a, b = normal(300, 6), normal(200, 6, seed=1) @ normal(6, 6, seed=2)
    distance = FrechetInceptionDistance(feature=Given(6), sync_on_compute=False).set_dtype(torch.float64)
    distance.update(a, real=False)
    distance.update(b, real=True)
    assert frechet(a, b) == pytest.approx(distance.compute().item(), rel=1e-6)


class Given(torch.nn.Identity):
    """Stands for the network of torchmetrics' distance: features are given."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


def test_extrapolation_finds_the_limit_of_what_is_linear_in_1_over_n():
    assert at_infinite_n(lambda rows: 3 + 50 / len(rows), torch.zeros(2400, 1)) == pytest.approx(3)


def test_extrapolation_takes_away_the_bias_of_n():
    a, b = normal(2000, 16), normal(50_000, 16, seed=1)
    plain = frechet(a, b)
    assert plain > 0.03
    assert abs(at_infinite_n(lambda rows: frechet(rows, b), a)) < plain / 4


def test_kernel_distance_is_the_unbiased_sum_over_pairs():
    a, b = normal(7, 3), normal(5, 3, seed=1)
    median = torch.pdist(b).median()

    def kernel(x, y):
        return sum(torch.exp(-((x - y) ** 2).sum() / (2 * (scale * median) ** 2)) for scale in SCALES)

    inside = sum(
        sum(kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j) / (len(x) * (len(x) - 1))
        for x in (a, b)
    )
    across = sum(kernel(x, y) for x in a for y in b) / 35
    found = Kernels.of(a, b).distance(torch.arange(7), torch.arange(5))
    assert found == pytest.approx(1000 * (inside - 2 * across).item(), rel=1e-9)


def test_kernel_distance_of_shifted_gaussians_in_closed_form():
    """E exp(-(x - y)^2 / 2 w^2) = w / sqrt(w^2 + 2) exp(-(shift)^2 / 2 (w^2 + 2)) for unit normals."""
    a, b = normal(1500, 1) + 1, normal(1500, 1, seed=1)
    widths = [scale * torch.pdist(b).median().item() for scale in SCALES]
    expected = sum(2 * w / (w**2 + 2) ** 0.5 * (1 - math.exp(-1 / (2 * (w**2 + 2)))) for w in widths)
    every = torch.arange(1500)
    assert Kernels.of(a, b).distance(every, every) == pytest.approx(1000 * expected, rel=0.1)


def test_precision_and_recall_of_mixtures():
    """Half of the samples fall on one of the two real clusters, half beside both."""
    clusters = {name: normal(200, 4, seed=i) + 100 * i for i, name in enumerate("abc")}
    near = Neighbourhood.of(torch.cat([clusters["a"] + 1e-3, clusters["c"]]), torch.cat([clusters["a"], clusters["b"]]))
    assert near.precise().double().mean() == 0.5
    assert near.recalled().double().mean() == 0.5
    assert near.covered().double().mean() == 0.5
    assert near.densities()[200:].max() == 0


def test_density_and_coverage_of_one_distribution():
    """Density is 1 on average, coverage 1 - (n - 1) ... (n - 5) / (2 n - 1) ... (2 n - 5) (Naeem et al. 2020, Lemmas 1
    and 2)."""
    n = 200
    found = [Neighbourhood.of(normal(n, 4, seed=2 * i), normal(n, 4, seed=2 * i + 1)) for i in range(40)]
    expected = 1 - math.prod((n - k) / (2 * n - k) for k in range(1, 6))
    assert torch.stack([near.densities().mean() for near in found]).mean().item() == pytest.approx(1, abs=0.03)
    assert torch.stack([near.covered().double().mean() for near in found]).mean().item() == pytest.approx(
        expected, abs=0.01
    )


def test_a_part_of_a_neighbourhood_is_that_of_the_part():
    a, b = normal(30, 4), normal(20, 4, seed=1)
    rows, columns = torch.arange(3, 25), torch.arange(0, 20, 2)
    part, direct = Neighbourhood.of(a, b).part(rows, columns), Neighbourhood.of(a[rows], b[columns])
    for name in ("precise", "recalled", "densities", "covered"):
        assert torch.equal(getattr(part, name)(), getattr(direct, name)()), name


def test_vendi_score_counts_what_differs():
    assert vendi_score(torch.eye(9, dtype=torch.float64)) == pytest.approx(9)
    assert vendi_score(torch.ones(9, 9, dtype=torch.float64)) == pytest.approx(1)
    groups = torch.block_diag(*[torch.ones(3, 3, dtype=torch.float64)] * 4)
    assert vendi_score(groups) == pytest.approx(4)
    a, b, c = 1 / 3 * (1 + 0.5), 1 / 3 * (1 - 0.5), 1 / 3  # eigenvalues of two images of similarity 0.5 and one apart
    pair = torch.tensor([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]], dtype=torch.float64)
    assert vendi_score(pair) == pytest.approx(math.exp(-sum(x * math.log(x) for x in (a, b, c))))


def test_a_class_without_samples_has_no_variety():
    features, labels = normal(60, 4), torch.arange(60) % 2
    widths = kernel_widths(features, labels)
    both = variety(features, labels, widths, {0: 20, 1: 20})
    one = variety(features[labels == 0], labels[labels == 0], widths, {0: 20, 1: 20})
    assert one.per_class == {0: both.per_class[0], 1: 0.0}
    assert one.value == pytest.approx(both.per_class[0] / 2)


def test_wilson_interval():
    low, high = wilson(torch.arange(10) < 1)
    assert (low, high) == pytest.approx((0.01787, 0.40416), abs=1e-4)  # tabulated for 1 of 10
    for n in range(1, 60):
        assert wilson(torch.zeros(n, dtype=torch.bool))[0] == 0
        assert wilson(torch.ones(n, dtype=torch.bool))[1] == 1


def test_jackknife_of_a_mean_is_the_interval_of_the_mean_of_groups():
    values = normal(500)
    tenth = torch.randperm(500, generator=torch.Generator().manual_seed(0)) % 10
    error = torch.stack([values[tenth == i].mean() for i in range(10)]).std().item() / 10**0.5
    expected = [values.mean().item() + side * 2.262 * error for side in (-1, 1)]
    assert jackknife(lambda rows: values[rows].mean().item(), 500) == pytest.approx(expected)


def test_split_error_of_a_mean_and_of_a_degenerate_sum_of_pairs():
    """The variances of both orders, of centred values in 50 dimensions: 1 / n for the mean of one, 100 / n (n - 1)
    for the mean product of pairs."""
    n, width = 400, 50
    x = normal(n, width)

    def of_pairs(rows, _):
        return ((x[rows].sum(dim=0).square().sum() - x[rows].square().sum()) / (len(rows) * (len(rows) - 1))).item()

    assert split_error(lambda rows, _: x[rows, 0].mean().item(), n) == pytest.approx(n**-0.5, rel=0.25)
    assert split_error(of_pairs, n) == pytest.approx((2 * width / (n * (n - 1))) ** 0.5, rel=0.25)


def test_real_images_reach_the_real_value_of_every_metric(real):
    """Half of the training images in place of samples: as good as the other half."""
    clip_reference, n = real.clip_reference, min(len(real.others), len(real.clip_reference.others)) // 2
    halves = replace(
        real, others=real.others[:n], clip_reference=replace(clip_reference, others=clip_reference.others[:n])
    )
    inputs = MetricInputs(halves, replace(real.others[n : 2 * n], clip=clip_reference.others[n : 2 * n]))
    for name in "class_accuracy frechet_judge precision density recall coverage vendi near_black".split():
        result = METRICS[name].measure(inputs)
        assert result.value != result.real, name
        near = {"rel": 0.5} if name == "frechet_judge" else {"abs": 0.1} if result.value < 1 else {"rel": 0.15}
        assert result.value == pytest.approx(result.real, **near), name
        assert result.ci95[0] <= result.value <= result.ci95[1], name
    for name in ("kernel_judge", "cmmd"):
        result = METRICS[name].measure(inputs)
        assert abs(result.value) < result.ci95[1] - result.ci95[0], name


def test_shuffled_labels_move_accuracy_alone(inputs):
    order = torch.randperm(len(inputs.samples), generator=torch.Generator().manual_seed(0))
    shuffled = replace(inputs, samples=replace(inputs.samples, labels=inputs.samples.labels[order]))
    assert METRICS["class_accuracy"].measure(shuffled).value < 0.2
    score = METRICS["clip_score"].measure(shuffled)
    assert score.value < score.real - 0.2
    for name in ("frechet_judge", "kernel_judge", "frechet_clip", "cmmd", "precision", "density", "recall", "coverage"):
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


def styled(real: ReferenceSet, shuffle: bool = False) -> JudgedImages:
    """Real images changed by the styles' transforms; the strengths given are right, or someone else's."""
    generator = torch.Generator().manual_seed(1)
    columns = [real.judge.style_names.index(name) for name in ("thick", "slanted")]
    strengths = torch.zeros(600, len(real.judge.style_names))
    levels = torch.tensor(LEVELS[1:])[torch.randint(4, (600,), generator=generator)]
    strengths[:300, columns[0]], strengths[300:, columns[1]] = levels[:300], levels[300:]
    pixels = apply_styles(to_unit_range(real.others.pixels[:600]), strengths[:, columns], ("thick", "slanted"))
    told = strengths.clone()
    if shuffle:
        for part in (slice(0, 300), slice(300, 600)):
            told[part] = told[part][torch.randperm(300, generator=generator)]
    return judge_images(real.judge, to_bytes(pixels), real.others.labels[:600], told)


def fidelity(inputs: MetricInputs, images: JudgedImages) -> Result:
    return METRICS["style_fidelity"].measure(replace(inputs, samples=inputs.real.others, styled=images))


def test_style_fidelity_of_true_and_of_shuffled_strengths(inputs):
    true, shuffled = (fidelity(inputs, styled(inputs.real, shuffle)) for shuffle in (False, True))
    assert true.value > 0.5
    assert true.value == pytest.approx(true.real, abs=0.15)
    assert shuffled.value < true.value - 0.3  # strength 0 stays where it is
    plain, silent = inputs.real.others[torch.arange(len(inputs.real.others))], styled(inputs.real)
    for images in (plain, silent):
        images.output.strengths.fill_(0.5)
    assert METRICS["style_fidelity"].measure(replace(inputs, samples=plain, styled=silent)).value == pytest.approx(
        0, abs=1e-6
    )
    assert set(true.details["per_style"]) == {"thick", "slanted"}
    row = true.details["per_style"]["thick"]
    assert row["n"] == 300
    assert row["mean_error"] < shuffled.details["per_style"]["thick"]["mean_error"]
    assert [level["asked"] for level in row["levels"]] == list(LEVELS)
    assert sum(level["n"] for level in row["levels"]) == 375
    assert row["slope"] == pytest.approx(1, abs=0.2)
    assert abs(row["leakage"]["slanted"]) < 0.2


def test_styles_alone_and_pairs_of_them_are_in_both_halves_of_the_real_images(inputs):
    """One half gives the scale, the other stands beside the samples, which take turns as a report's do."""
    real = inputs.real
    thick, slanted = (real.judge.style_names.index(name) for name in ("thick", "slanted"))
    strengths = torch.zeros(400, len(real.judge.style_names))
    strengths[0::2] = torch.eye(strengths.shape[1])[[thick, thick, slanted, slanted] * 50]  # alone
    strengths[1::2, [thick, slanted]] = torch.tensor(LEVELS[1:])[torch.arange(200) % 4][:, None]
    pixels = apply_styles(to_unit_range(real.others.pixels[:400]), strengths, real.judge.style_names)
    row = fidelity(inputs, judge_images(real.judge, to_bytes(pixels), real.others.labels[:400], strengths))
    assert row.details["real_pairs"]["thick+slanted"]["n"] == 100
    for style in row.details["per_style"].values():
        assert style["leakage"]
        assert style["real_leakage"].keys() == style["leakage"].keys()
    assert row.value == pytest.approx(row.real, abs=0.15)


def test_a_model_that_answers_with_an_offset_is_not_faithful(inputs):
    """Strengths 0.4 + 0.6 s keep every rank: only a scale with an origin sees them."""
    real = inputs.real
    column = real.judge.style_names.index("slanted")
    asked = styled(real)[300:600]
    pixels = to_unit_range(real.others.pixels[300:600])
    given = 0.4 + 0.6 * asked.strengths[:, column : column + 1]
    offset = judge_images(real.judge, to_bytes(apply_styles(pixels, given, ["slanted"])), asked.labels, asked.strengths)
    plain = apply_styles(pixels, torch.full_like(given, 0.4), ["slanted"])
    shifted = replace(inputs, samples=judge_images(real.judge, to_bytes(plain), asked.labels))
    rows = [
        METRICS["style_fidelity"].measure(replace(given, styled=images)).details["per_style"]["slanted"]
        for given, images in ((replace(inputs, samples=real.others), asked), (shifted, offset))
    ]
    assert rows[1]["slope"] < 0.75 < 0.9 < rows[0]["slope"]
    assert rows[1]["levels"][0]["measured"] > 0.25 > 0.1 > abs(rows[0]["levels"][0]["measured"])
    assert rows[1]["concordance"] < rows[0]["concordance"] - 0.1


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
    assert missing_inputs("recall", few, 500, 0) == "recall needs 250 held-out real images; there are 90"
    with pytest.raises(BadInput, match="unknown metric 'fid'.*frechet_judge"):
        missing_inputs("fid", real, 50, 0)


def test_values_at_different_n_are_not_compared():
    row = {"value": 0.9, "n": 1000, "reference_n": 1000}
    check_comparable("coverage", row, {**row, "value": 0.8})
    with pytest.raises(BadInput, match="coverage of 1000 and of 500 samples do not compare"):
        check_comparable("coverage", row, {**row, "n": 500})
    check_comparable("class_accuracy", row, {**row, "n": 500})


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
    for name in ("class_accuracy", "frechet_judge", "near_black", "memorisation"):
        result, own = METRICS[name].measure(given), METRICS[name].measure(held_out)
        assert result.value == pytest.approx(own.value, rel=1e-6, abs=1e-9), name
        assert result.real == pytest.approx(own.real, rel=1e-6, abs=1e-9), name
        low, high = result.ci95  # as wide again: both sides are drawn
        assert abs(result.value - result.real) < high - low, name


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
    with pytest.raises(BadInput, match="metrics.json is a report of version 3; this hfdiff reads 1 and 2"):
        read_report({"version": 3, "metrics": {}})
    for damaged in ({"protocol": {}}, {"metrics": None}, {"version": 2, "metrics": {"any": 1}}):
        assert read_report(damaged) == damaged


def test_the_interval_of_a_distance_is_that_of_its_logarithm():
    low, high = around_distance(2.0, 0.2, freedom=9)
    assert low * high == pytest.approx(4)
    assert high == pytest.approx(2 * math.exp(0.2262))
    assert around_distance(-1e-9, 0.2, freedom=9)[0] == 0


@pytest.mark.parametrize(("freedom", "quantile"), [(9, 2.262), (11, 2.201), (15, 2.131), (30, 2.042), (60, 2.000)])
def test_students_quantiles_are_those_of_the_tables(freedom, quantile):
    assert student_t(freedom) == pytest.approx(quantile, rel=0.01)
