"""How good are samples? A table of metrics, each with its n, its interval, and the same metric of real images.

`ReferenceSet` holds what samples are compared with; an entry in `METRICS` measures. A metric's
`real` is what other real images reach in place of samples. Intervals are over the samples: real images count as fixed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.core.names import unknown
from hfdiff.data.table import to_bytes, to_unit_range
from hfdiff.evaluation.clip import caption, image_features
from hfdiff.evaluation.distances import Kernels, at_infinite_n, frechet_to
from hfdiff.evaluation.features import EXTRACTORS, FIXED_NUMBERS, shuffled_samples
from hfdiff.evaluation.memorisation import memorisation
from hfdiff.evaluation.metric import Metric, MetricInputs, Result
from hfdiff.evaluation.neighbours import Neighbourhood
from hfdiff.evaluation.preferences import near_black_counts
from hfdiff.evaluation.reference_images import (
    ClipReference,
    ReferenceSet,
    class_accuracy,
    reference_images,
)
from hfdiff.evaluation.statistics import SPLITS, around, around_distance, mean_interval, share_true, split_error, wilson
from hfdiff.evaluation.style_metrics import style_fidelity
from hfdiff.evaluation.vendi import PER_CLASS, SPARE, common_numbers, kernel_widths, number_per_class, variety

BESIDE = 1000  # held-out real images that are damaged, beside which a score is read
LEAST_INFINITE = 2000  # samples; of fewer, the extrapolation to infinite n errs by as much as what it takes away
INFINITE_ERROR = 1.2  # of the extrapolation, over that of the value: measured, see docs/metrics.md
ERROR_FREEDOM = 9  # degrees of freedom of a Frechet distance's error, which varies by 0.21 to 0.23 over draws: measured
ROWS_PER_FEATURE = 8  # of them: covariances of the smallest parts must have full rank
WIDE, WIDE_SPLITS = 512, 2  # features, from which on a Frechet distance takes seconds, and is split less often
LEAST = min(FIXED_NUMBERS)


def _class_accuracy(inputs: MetricInputs) -> Result:
    samples, names = inputs.samples, inputs.real.judge.class_names
    hits = samples.output.classes == samples.labels
    confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
    confusion.index_put_((samples.labels, samples.output.classes), torch.ones_like(samples.labels), accumulate=True)
    return Result(
        value=share_true(hits),
        n=len(hits),
        real=class_accuracy(inputs.real.reference),
        real_n=len(inputs.real.reference),
        ci95=wilson(hits),
        extractor="judge",
        details={
            "per_class": {
                name: share_true(hits[samples.labels == i])
                for i, name in enumerate(names)
                if (samples.labels == i).any()
            },
            "confusion": confusion.tolist(),  # row: the class asked for; column: the class that the judge names
        },
    )


def _frechet(extractor: str, inputs: MetricInputs) -> Result:
    f = EXTRACTORS[extractor](inputs)
    distance, n = frechet_to(f.reference), len(f.samples)
    splits = SPLITS if f.samples.shape[1] < WIDE else WIDE_SPLITS
    value, error = distance(f.samples), split_error(lambda rows, _: distance(f.samples[rows]), n, splits)
    details: dict[str, Any] = {"reference_n": len(f.reference)}
    if n >= max(LEAST_INFINITE, ROWS_PER_FEATURE * f.samples.shape[1]):
        infinite = at_infinite_n(distance, f.samples)
        details |= {"infinite": infinite, "infinite_ci95": list(around(infinite, INFINITE_ERROR * error))}
        details["real_infinite"] = at_infinite_n(distance, f.others)
    interval = around_distance(value, error, ERROR_FREEDOM)
    return Result(value, n, distance(f.others), interval, extractor, details=details)


def _kernel(extractor: str, inputs: MetricInputs) -> Result:
    f = EXTRACTORS[extractor](inputs).at_fixed_number()
    n = len(f.samples)
    every = torch.arange(n)
    kernels, others = Kernels.of(f.samples, f.reference), Kernels.of(f.others, f.reference)
    value = kernels.distance(every, every)
    interval = around(value, split_error(kernels.distance, n))
    return Result(value, n, others.distance(every, every), interval, extractor, details={"reference_n": n})


def _clip_score(inputs: MetricInputs) -> Result:
    """Mean cosine with the prompt of what each sample should show (Hessel et al. 2021, Equation 1, unscaled)."""
    clip_reference, samples, judge = inputs.real.clip_reference, inputs.samples, inputs.real.judge
    assert clip_reference is not None
    assert samples.clip is not None
    cosines = _cosines(clip_reference, samples.clip, samples.labels, samples.strengths, judge.style_names)
    table = clip_reference.table
    asked = (table.labels, table.style_weights, table.style_names)
    reference = _cosines(clip_reference, clip_reference.reference, *asked)
    few, names = table.part(slice(0, BESIDE)), table.style_names
    beside = {
        name: _cosines(
            clip_reference,
            image_features(clip_reference.scorer, to_bytes(images)),
            few.labels,
            few.style_weights,
            names,
        )
        for name, images in reference_images(to_unit_range(few.pixels)).items()
        if name != "real"
    }
    value = cosines.mean().item()
    details = {"beside": {name: values.mean().item() for name, values in beside.items()} | {"n": len(few)}}
    interval = mean_interval(cosines)
    return Result(value, len(cosines), reference.mean().item(), interval, "clip", len(reference), details)


def _cosines(
    clip_reference: ClipReference, features: Tensor, labels: Tensor, strengths: Tensor, styles: Sequence[str]
) -> Tensor:
    """Of unit vectors (N, D) and the prompts of classes (N,) in styles (N, S): (N,) float64."""
    given = [{name: v for name, v in zip(styles, row) if v > 0} for row in strengths.tolist()]
    texts = [caption(clip_reference.table.class_names[label], own) for label, own in zip(labels.tolist(), given)]
    return (features * clip_reference.scorer.texts(texts).cpu()).sum(dim=1).double()


def _neighbourhoods(inputs: MetricInputs) -> tuple[Neighbourhood, Neighbourhood]:
    """Of the samples, and of the real images in their place, both in the judge's features at the fixed number."""

    def compute() -> tuple[Neighbourhood, Neighbourhood]:
        f = EXTRACTORS["judge"](inputs).at_fixed_number()
        return Neighbourhood.of(f.samples, f.reference), Neighbourhood.of(f.others, f.reference)

    return inputs.kept("neighbourhoods", compute)


def _precision(inputs: MetricInputs) -> Result:
    hits, others = (near.precise() for near in _neighbourhoods(inputs))
    n = len(hits)
    return Result(share_true(hits), n, share_true(others), wilson(hits), "judge", details={"reference_n": n})


def _density(inputs: MetricInputs) -> Result:
    counts, others = (near.densities() for near in _neighbourhoods(inputs))
    value, real, n = counts.mean().item(), others.mean().item(), len(counts)
    return Result(value, n, real, mean_interval(counts), "judge", details={"reference_n": n})


def _share_of_reference(found: Callable[[Neighbourhood], Tensor], inputs: MetricInputs) -> Result:
    """The share of reference images that are found among the samples: of all, of each class."""
    near, near_others = _neighbourhoods(inputs)
    hits, others = found(near), found(near_others)
    n, value = len(hits), share_true(hits)
    error = split_error(lambda *rows: share_true(found(near.part(*rows))), n)
    per_class, real_per_class = (_per_class(values, inputs.real) for values in (hits, others))
    worst = min(per_class, key=per_class.__getitem__)
    details = {
        "reference_n": n,
        "per_class": per_class,
        "real_per_class": real_per_class,
        "worst_class": {"name": worst, "value": per_class[worst], "real": real_per_class[worst]},
    }
    return Result(value, n, share_true(others), around(value, error, 0, 1), "judge", details=details)


def _per_class(hits: Tensor, real: ReferenceSet) -> dict[str, float]:
    """Class -> share of true values in hits (m,) bool, of the reference's first images."""
    labels = real.reference.labels[: len(hits)]
    return {real.judge.class_names[i]: share_true(hits[labels == i]) for i in labels.unique().tolist()}


def _vendi(inputs: MetricInputs) -> Result:
    samples, real = shuffled_samples(inputs), inputs.real
    n, names = min(len(samples), len(real.others)), real.judge.class_names
    number = number_per_class(n, num_classes=len(names))
    widths = kernel_widths(real.others.output.features[:n], real.others.labels[:n])
    numbers = common_numbers(number, samples.labels[:n], real.others.labels[:n])
    own, others = (
        variety(images.output.features[:n], images.labels[:n], widths, numbers) for images in (samples, real.others)
    )
    details = {
        "n_per_class": number,
        "per_class": {names[i]: score for i, score in own.per_class.items()},
        "real_per_class": {names[i]: score for i, score in others.per_class.items()},
    }
    counted = sum(numbers[label] for label in widths)
    return Result(own.value, counted, others.value, own.ci95, "judge", details=details)


def _near_black(inputs: MetricInputs) -> Result:
    samples, others = (near_black_counts(images.pixels) for images in (inputs.samples, inputs.real.others))
    value, n = _ratio(samples), len(samples)
    # The ratio's error from its residuals (Cochran 1977, Equation 6.13).
    residuals = (samples[:, 0] - value * samples[:, 1]) / samples[:, 1].mean().clamp(min=1e-9)
    interval = around(value, residuals.std().item() / n**0.5, 0, 1)
    return Result(value, n, _ratio(others), interval, "pixels", len(others))


def _ratio(counts: Tensor) -> float:
    """Of the sums of two columns (N, 2); 0 where there is nothing to count."""
    part, whole = counts.sum(dim=0).tolist()
    return part / whole if whole else 0.0


METRICS: Mapping[str, Metric] = {
    "class_accuracy": Metric(
        "share of plain samples that the judge puts into the class asked for", "as real", _class_accuracy, 1
    ),
    "style_fidelity": Metric(
        "do measured strengths follow those asked for?", "higher", style_fidelity, 100, per_style=12, styled=True
    ),
    "frechet_judge": Metric(
        "distance of Gaussians in the judge's features", "lower", partial(_frechet, "judge"), 256, depends_on_n=True
    ),
    "kernel_judge": Metric(
        "kernel distance in the judge's features", "lower", partial(_kernel, "judge"), LEAST, depends_on_n=True
    ),
    "frechet_clip": Metric(
        "distance of Gaussians in CLIP's features",
        "lower",
        partial(_frechet, "clip"),
        256,
        clip=True,
        depends_on_n=True,
    ),
    "cmmd": Metric(
        "kernel distance in CLIP's features", "lower", partial(_kernel, "clip"), LEAST, clip=True, depends_on_n=True
    ),
    "clip_score": Metric("mean cosine with the prompt of what was asked for", "as real", _clip_score, 1, clip=True),
    "frechet_inception": Metric(
        "distance in Inception's features",
        "lower",
        partial(_frechet, "inception"),
        4096,
        default=False,
        depends_on_n=True,
    ),
    "precision": Metric("share of samples that lie among real images", "as real", _precision, LEAST, depends_on_n=True),
    "density": Metric("how densely real images lie around samples", "as real", _density, LEAST, depends_on_n=True),
    "recall": Metric(
        "share of real images that lie among samples",
        "higher",
        partial(_share_of_reference, Neighbourhood.recalled),
        LEAST,
        depends_on_n=True,
    ),
    "coverage": Metric(
        "share of real images that have a sample near to them",
        "higher",
        partial(_share_of_reference, Neighbourhood.covered),
        LEAST,
        depends_on_n=True,
    ),
    "vendi": Metric(
        "number of different images in a class, in effect",
        "as real",
        _vendi,
        100,
        per_class=SPARE * min(PER_CLASS),
        depends_on_n=True,
    ),
    "near_black": Metric(
        "share of dark pixels that are not quite black: noise that nobody sees", "as real", _near_black, 100
    ),
    "memorisation": Metric(
        "share of samples nearer to a training image than 99% of real ones", "lower", memorisation, 200, beside=False
    ),
}


def missing_inputs(name: str, real: ReferenceSet, n: int, num_styled: int) -> str | None:
    """What the metric lacks with so many samples, in words; None where it can be measured."""
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    metric = METRICS[name]
    judge, clip_reference = real.judge, real.clip_reference
    if metric.clip and clip_reference is None:
        return f"{name} needs a CLIP model, and the model has none; give --clip"
    least = max(metric.least, metric.per_class * len(judge.class_names), metric.per_style * len(judge.style_names))
    counts = {"samples in styles": num_styled} if metric.styled else {"samples": n}
    if metric.clip and clip_reference is not None:
        counts["held-out real images that CLIP never saw"] = len(clip_reference.reference)
        counts["other real images that CLIP never saw"] = len(clip_reference.others)
    elif metric.beside:
        counts |= {"held-out real images": len(real.reference), "other real images": len(real.others)}
    what, count = min(counts.items(), key=lambda item: item[1])
    return f"{name} needs {least} {what}; there are {count}" if count < least else None


def check_comparable(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """BadInput where two reports' entries of a metric whose value depends on n, as `Result.as_dict` gives them, come
    from different numbers of samples or of reference images."""
    if not METRICS[name].depends_on_n:
        return
    for key, what in (("n", "samples"), ("reference_n", "reference images")):
        if a.get(key) != b.get(key):
            raise BadInput(
                f"{name} of {a.get(key)} and of {b.get(key)} {what} do not compare, because its value depends on "
                "their number; measure both at the same number"
            )
