"""How good are samples? A table of metrics, each with its n, its interval, and the same metric of real images.

`ReferenceSet` holds what samples are compared with; an entry in `METRICS` measures. A metric's
`real` is what other real images reach in place of samples. Intervals are over the samples: real images count as fixed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from hfdiff.core.names import unknown
from hfdiff.data.table import to_bytes, to_unit_range
from hfdiff.evaluation.clip import caption, image_features
from hfdiff.evaluation.distances import (
    cmmd,
    covered,
    frechet,
    inception_features,
    kernel_distances,
    part_size,
    spread,
)
from hfdiff.evaluation.memorisation import memorisation
from hfdiff.evaluation.metric import Metric, MetricInputs, Result
from hfdiff.evaluation.reference_images import (
    ClipReference,
    JudgedImages,
    ReferenceSet,
    class_accuracy,
    reference_images,
)
from hfdiff.evaluation.statistics import GROUPS, T95, Z95, jackknife, share_true, wilson
from hfdiff.evaluation.style_metrics import style_fidelity

BESIDE = 1000  # held-out real images that are damaged, beside which a score is read


@dataclass(frozen=True)
class Features:
    """Features of samples and of real images that stand for samples, as many; and of the reference."""

    samples: Tensor  # (n, F)
    others: Tensor  # (n, F)
    reference: Tensor  # (m, F)


def _seen(extract: Callable[[JudgedImages], Tensor], inputs: MetricInputs) -> Features:
    """`extract` of the samples and of the real images that the judge never saw."""
    samples, real = inputs.samples, inputs.real
    n = min(len(samples), len(real.others))
    return Features(*map(extract, (samples[:n], real.others[:n], real.reference)))


def _by_clip(inputs: MetricInputs) -> Features:
    """With real images of its own: those that the judge never saw are those that it was trained on."""
    clip_reference, samples = inputs.real.clip_reference, inputs.samples.clip
    assert clip_reference is not None  # see `missing_inputs`
    assert samples is not None
    n = min(len(samples), len(clip_reference.others))
    return Features(samples[:n], clip_reference.others[:n], clip_reference.reference)


# Name -> the features that distances are measured in.
EXTRACTORS: Mapping[str, Callable[[MetricInputs], Features]] = {
    "judge": partial(_seen, lambda images: images.output.features),
    "inception": partial(_seen, lambda images: inception_features(images.pixels)),
    "clip": _by_clip,
}


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
    interval = jackknife(lambda rows: frechet(f.samples[rows], f.reference), len(f.samples))
    real = frechet(f.others, f.reference)
    details = {"reference_n": len(f.reference)}
    return Result(frechet(f.samples, f.reference), len(f.samples), real, interval, extractor, details=details)


def _kernel(extractor: str, mmd: Callable[[Tensor, Tensor], Tensor], inputs: MetricInputs) -> Result:
    f = EXTRACTORS[extractor](inputs)
    parts = kernel_distances(mmd, f.samples, f.reference)
    value, error = parts.mean().item(), (parts.std() / len(parts) ** 0.5).item()
    real = kernel_distances(mmd, f.others, f.reference).mean().item()
    interval = (value - T95 * error, value + T95 * error)
    n = GROUPS * part_size(f.samples, f.reference)
    return Result(value, n, real, interval, extractor, details={"reference_n": n})


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
    value, error = cosines.mean().item(), Z95 * cosines.std().item() / len(cosines) ** 0.5
    details = {"beside": {name: values.mean().item() for name, values in beside.items()} | {"n": len(few)}}
    interval = (value - error, value + error)
    return Result(value, len(cosines), reference.mean().item(), interval, "clip", len(reference), details)


def _cosines(
    clip_reference: ClipReference, features: Tensor, labels: Tensor, strengths: Tensor, styles: Sequence[str]
) -> Tensor:
    """Of unit vectors (N, D) and the prompts of classes (N,) in styles (N, S): (N,) float64."""
    given = [{name: v for name, v in zip(styles, row) if v > 0} for row in strengths.tolist()]
    texts = [caption(clip_reference.table.class_names[label], own) for label, own in zip(labels.tolist(), given)]
    return (features * clip_reference.scorer.texts(texts).cpu()).sum(dim=1).double()


def _precision(inputs: MetricInputs) -> Result:
    f = EXTRACTORS["judge"](inputs)
    hits, others = covered(f.samples, f.reference), covered(f.others, f.reference)
    details = {"reference_n": len(f.reference)}
    return Result(share_true(hits), len(hits), share_true(others), wilson(hits), "judge", details=details)


def _recall(inputs: MetricInputs) -> Result:
    f = EXTRACTORS["judge"](inputs)

    def recall(rows: Tensor) -> float:
        return share_true(covered(f.reference, f.samples[rows]))

    n, real = len(f.samples), share_true(covered(f.reference, f.others))
    details = {"reference_n": len(f.reference)}
    return Result(recall(torch.arange(n)), n, real, jackknife(recall, n), "judge", details=details)


def _diversity(inputs: MetricInputs) -> Result:
    n = min(len(inputs.samples), len(inputs.real.others))
    samples, others = inputs.samples[:n], inputs.real.others[:n]

    def of(images: JudgedImages, rows: Tensor) -> float:
        return spread(images.output.features[rows], images.labels[rows])

    value, real = (of(images, torch.arange(n)) for images in (samples, others))
    return Result(value, n, real, jackknife(partial(of, samples), n), "judge")


METRICS: Mapping[str, Metric] = {
    "class_accuracy": Metric(
        "share of plain samples that the judge puts into the class asked for", "higher", _class_accuracy, 1
    ),
    "style_fidelity": Metric(
        "do measured strengths follow those asked for?", "higher", style_fidelity, 100, per_style=12, styled=True
    ),
    "frechet_judge": Metric("distance of Gaussians in the judge's features", "lower", partial(_frechet, "judge"), 256),
    "kernel_judge": Metric(
        "kernel distance in the judge's features", "lower", partial(_kernel, "judge", poly_mmd), 200
    ),
    "frechet_clip": Metric(
        "distance of Gaussians in CLIP's features", "lower", partial(_frechet, "clip"), 256, clip=True
    ),
    "cmmd": Metric("kernel distance in CLIP's features", "lower", partial(_kernel, "clip", cmmd), 200, clip=True),
    "clip_score": Metric("mean cosine with the prompt of what was asked for", "higher", _clip_score, 1, clip=True),
    "frechet_inception": Metric(
        "distance in Inception's features", "lower", partial(_frechet, "inception"), 4096, default=False
    ),
    "precision": Metric("share of samples that lie among real images", "higher", _precision, 100),
    "recall": Metric("share of real images that samples come near to", "higher", _recall, 100),
    "diversity": Metric("distance between two samples of one class", "as real", _diversity, 100, per_class=3),
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
