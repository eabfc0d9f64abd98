"""How good are samples? A table of metrics, each with its n, its interval, and the same metric of real pictures.

`Real` holds what samples are compared with; a row of `METRICS` measures. A metric's *floor* is what other real pictures
reach in place of samples. Intervals are over the samples: the real pictures count as fixed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from hfdiff.clip import caption, image_features, yardsticks
from hfdiff.core.errors import BadInput, first_line
from hfdiff.core.names import unknown
from hfdiff.data.styles import STYLES, apply_styles
from hfdiff.data.table import ImageTable, to_bytes, to_unit_range
from hfdiff.judge import Judge, Verdict, judged, unseen
from hfdiff.pipelines import Scorer

Z95 = 1.96  # standard errors in half of a 95% interval
GROUPS = 10
T95 = 2.262  # the same for an error estimated from GROUPS values (Student's t, 9 degrees of freedom)
BESIDE = 1000  # held-out real pictures that are damaged, to say what a score is worth
NEIGHBOURS = 3  # of precision and recall (Kynkaanniemi et al. 2019, Section 3)
BLOCK = 500  # pictures whose distances are taken at once
NEAREST = 50  # training pictures that tell how dense the data is around a picture (Carlini et al. 2023, Section 5.1)
CMMD_WIDTH, CMMD_SCALE = 10.0, 1000.0  # of the kernel and of the value (Jayasumana et al. 2024, Section 4)
RARE = 0.01  # share of real pictures that count as copies, by definition of the threshold
FEW_HELD_OUT = 200  # of fewer held-out pictures, that share is no picture


@dataclass(frozen=True)
class Judged:
    """Pictures, what they should show, and what the judge says of them."""

    pixels: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    verdict: Verdict
    strengths: Tensor  # (N, S) float32 in [0, 1], asked for, in the order of the judge's styles
    clip: Tensor | None = None  # (N, D) float32, unit vectors of a CLIP model

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> "Judged":
        verdict = Verdict(*(value[rows] for value in vars(self.verdict).values()))
        clip = None if self.clip is None else self.clip[rows]
        return Judged(self.pixels[rows], self.labels[rows], verdict, self.strengths[rows], clip)


@dataclass(frozen=True)
class Scored:
    """What a CLIP model says of real pictures that it never saw: unit vectors, float32."""

    scorer: Scorer
    reference: Tensor  # (M, D), of held-out pictures
    others: Tensor  # (N, D), of training pictures: they stand for samples
    table: ImageTable  # the pictures of the reference

    @classmethod
    def of(cls, scorer: Scorer, training: ImageTable, held_out: ImageTable, seed: int) -> "Scored":
        config = scorer.model.config
        tables = [in_random_order(unseen(config, table), seed) for table in (held_out, training)]
        reference, others = (image_features(scorer, table.pixels) for table in tables)
        return cls(scorer, reference, others, tables[0])


def in_random_order(table: ImageTable, seed: int) -> ImageTable:
    return table.part(torch.randperm(len(table), generator=torch.Generator().manual_seed(seed)))


@dataclass(frozen=True)
class Real:
    """The real pictures that samples are held against, and the judge of both."""

    judge: Judge
    training: ImageTable
    reference: Judged  # held-out pictures that the judge never saw
    others: Judged  # training pictures that the judge never saw: they stand for samples
    copied: ImageTable  # what the model was trained on
    split: str = "test"  # that the reference comes from
    scored: Scored | None = None  # for the metrics in CLIP's features

    @classmethod
    def of(
        cls,
        judge: Judge,
        training: ImageTable,
        held_out: ImageTable,
        seed: int = 0,
        most: int | None = None,
        copied: ImageTable | None = None,
        scorer: Scorer | None = None,
    ) -> "Real":
        """Let the judge see real pictures that it was not trained on, in random order, at most so many of each kind;
        `copied` is `training` where not given."""
        sides = []
        for table in (unseen(judge, held_out), unseen(judge, training)):
            if not len(table):
                raise BadInput(
                    f"the judge was trained on all {table.split} pictures of {table.name!r}; give one of half of them"
                )
            table = in_random_order(table, seed).part(slice(0, most))
            given = torch.zeros(len(table), len(judge.style_names))
            given[:, [judge.style_names.index(name) for name in table.style_names]] = table.style_weights
            sides.append(judge_pictures(judge, table.pixels, table.labels, given))
        reference, others = sides
        scored = None if scorer is None else Scored.of(scorer, training, held_out, seed)
        return cls(judge, training, reference, others, copied or training, held_out.split, scored)


@dataclass(frozen=True)
class Result:
    """One measured number."""

    value: float
    n: int  # pictures that it comes from
    floor: float | None  # the same of real pictures
    ci95: tuple[float, float] | None
    extractor: str
    floor_n: int | None = None  # pictures that the floor comes from, where those are not n
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the details beside the number."""
        own = {key: value for key, value in vars(self).items() if key != "details"}
        own["floor_n"] = self.n if self.floor_n is None else self.floor_n
        return own | {"ci95": None if self.ci95 is None else list(self.ci95)} | self.details


@dataclass(frozen=True)
class Evidence:
    """All that a metric may look at."""

    real: Real
    samples: Judged  # plain drawings, of the classes of real pictures
    styled: Judged | None = None  # drawings in styles


@dataclass(frozen=True)
class Metric:
    """A row of the table: how it is computed, and how many pictures of each kind it needs."""

    about: str
    better: Literal["higher", "lower", "as real"]
    measure: Callable[[Evidence], Result]
    least: int
    per_class: int = 0  # the same for each class
    per_style: int = 0  # the same for each style that the judge tells
    styled: bool = False  # is it measured on the drawings in styles?
    clip: bool = False  # does it need a CLIP model?
    beside: bool = True  # does it need as many real pictures that the judge never saw?
    default: bool = True


def judge_pictures(
    judge: Judge, pixels: Tensor, labels: Tensor, strengths: Tensor | None = None, scorer: Scorer | None = None
) -> Judged:
    """Let the judge, and a CLIP model, see pixels (N, C, H, W) uint8; strengths (N, S) are 0 where not given."""
    strengths = torch.zeros(len(pixels), len(judge.style_names)) if strengths is None else strengths
    clip = None if scorer is None else image_features(scorer, pixels)
    return Judged(pixels.cpu(), labels.cpu(), judged(judge, pixels), strengths, clip)


def check_judge(judge: Judge, table: ImageTable, style_names: Sequence[str] = ()) -> None:
    """BadInput where the judge knows other classes or pictures, or does not tell a style of the model."""
    if tuple(judge.class_names) != table.class_names:
        names = [", ".join(names[:12]) for names in (judge.class_names, table.class_names)]
        raise BadInput(f"the judge knows the classes {names[0]}; data set {table.name!r} has {names[1]}")
    knows, holds = (
        f"{h}x{w} with {c} channels" for c, (h, w) in ((judge.channels, judge.size), (table.channels, table.size))
    )
    if knows != holds:
        raise BadInput(f"the judge knows pictures of {knows}; data set {table.name!r} holds {holds}")
    for name in (*table.style_names, *style_names):
        if name not in judge.style_names:
            raise BadInput(f"the judge does not tell the style {name!r}; it tells {', '.join(judge.style_names)}")


def lacking(name: str, real: Real, n: int, num_styled: int) -> str | None:
    """What the metric lacks with so many samples, in words; None where it can be measured."""
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    metric = METRICS[name]
    judge, scored = real.judge, real.scored
    if metric.clip and scored is None:
        return f"{name} needs a CLIP model, and the model has none; give --clip"
    least = max(metric.least, metric.per_class * len(judge.class_names), metric.per_style * len(judge.style_names))
    counts = {"samples in styles": num_styled} if metric.styled else {"samples": n}
    if metric.clip and scored is not None:
        counts["held-out real pictures that CLIP never saw"] = len(scored.reference)
        counts["other real pictures that CLIP never saw"] = len(scored.others)
    elif metric.beside:
        counts |= {"held-out real pictures": len(real.reference), "other real pictures": len(real.others)}
    what, count = min(counts.items(), key=lambda item: item[1])
    return f"{name} needs {least} {what}; there are {count}" if count < least else None


def wilson(hits: Tensor) -> tuple[float, float]:
    """95% interval of the share of true values in hits (N,) bool (Wilson 1927)."""
    n, share = len(hits), hits.double().mean().item()
    centre, width = share + Z95**2 / (2 * n), Z95 * (share * (1 - share) / n + Z95**2 / (4 * n**2)) ** 0.5
    scale = 1 + Z95**2 / n
    return (centre - width) / scale, (centre + width) / scale


def jackknife(statistic: Callable[[Tensor], float], n: int) -> tuple[float, float]:
    """95% interval of statistic(all rows), from its values with each tenth of the rows left out (Efron & Tibshirani
    1993, Chapter 11). The tenths are drawn at random: rows may come in an order."""
    rows = torch.arange(n)
    tenth = torch.randperm(n, generator=torch.Generator().manual_seed(0)) % GROUPS
    without = torch.tensor([statistic(rows[tenth != i]) for i in range(GROUPS)], dtype=torch.float64)
    error = ((GROUPS - 1) / GROUPS * (without - without.mean()).square().sum()).sqrt().item()
    value = statistic(rows)
    return value - T95 * error, value + T95 * error


def _class_accuracy(evidence: Evidence) -> Result:
    samples, names = evidence.samples, evidence.real.judge.class_names
    hits = samples.verdict.classes == samples.labels
    confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
    confusion.index_put_((samples.labels, samples.verdict.classes), torch.ones_like(samples.labels), accumulate=True)
    return Result(
        value=_share(hits),
        n=len(hits),
        floor=right(evidence.real.reference),
        floor_n=len(evidence.real.reference),
        ci95=wilson(hits),
        extractor="judge",
        details={
            "per_class": {
                name: _share(hits[samples.labels == i]) for i, name in enumerate(names) if (samples.labels == i).any()
            },
            "confusion": confusion.tolist(),  # row: the class asked for; column: the class that the judge names
        },
    )


def right(pictures: Judged) -> float:
    """The share of pictures that the judge puts into the class that they should show."""
    return _share(pictures.verdict.classes == pictures.labels)


class _Given(torch.nn.Identity):
    """Stands for the network of torchmetrics' distance: the features are computed already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of Gaussians fitted to features (N, F) and (M, F), in float64 (Heusel et al. 2017)."""
    distance = FrechetInceptionDistance(feature=_Given(a.shape[1]), sync_on_compute=False).set_dtype(torch.float64)
    distance.update(a.double(), real=False)
    distance.update(b.double(), real=True)
    return distance.compute().item()


def kernel_distances(mmd: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy, of ten disjoint parts of features (N, F) and (M, F) each: (10,)
    float64 (Binkowski et al. 2018, Section 4). `mmd`: of one part, `poly_mmd` for the cubic kernel."""
    size = _part(a, b)
    parts = [slice(i * size, (i + 1) * size) for i in range(GROUPS)]
    return torch.stack([mmd(a[part].double(), b[part].double()) for part in parts])


def cmmd(a: Tensor, b: Tensor) -> Tensor:
    """The same of unit vectors (N, D) and (N, D) with the Gaussian kernel of width 10, times 1000 (Jayasumana et al.
    2024, https://arxiv.org/abs/2401.09603, Equation 5)."""
    inside = [torch.exp(-torch.pdist(x).square() / (2 * CMMD_WIDTH**2)).mean() for x in (a, b)]
    across = torch.exp(-torch.cdist(a, b).square() / (2 * CMMD_WIDTH**2)).mean()
    return CMMD_SCALE * (inside[0] + inside[1] - 2 * across)


def _part(a: Tensor, b: Tensor) -> int:
    """Pictures in each part of `kernel_distances`."""
    return min(1000, len(a) // GROUPS, len(b) // GROUPS)


@cache
def inception_network() -> torch.nn.Module:
    """The network of `frechet_inception`; BadInput without its package or its weights."""
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        return NoTrainInceptionV3("inception-v3-compat", ["2048"]).eval()
    except Exception as error:  # a missing package, or no way to its weights
        reason = first_line(error)[:150]
        raise BadInput(
            f"frechet_inception needs pip install 'hfdiff[fid]' and a download of weights: {reason}"
        ) from error


def _inception(pixels: Tensor) -> Tensor:
    """Pixels (N, C, H, W) uint8 -> features (N, 2048) of the network that the published distances are measured in."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    network = inception_network().to(device)
    colour = pixels.expand(-1, 3, -1, -1)
    with torch.no_grad():
        return torch.cat([network(part.to(device)).cpu() for part in colour.split(100)])


@dataclass(frozen=True)
class Features:
    """Features of samples and of real pictures that stand for samples, as many; and of the reference."""

    samples: Tensor  # (n, F)
    others: Tensor  # (n, F)
    reference: Tensor  # (m, F)


def _seen(extract: Callable[[Judged], Tensor], evidence: Evidence) -> Features:
    """`extract` of the samples and of the real pictures that the judge never saw."""
    samples, real = evidence.samples, evidence.real
    n = min(len(samples), len(real.others))
    return Features(*map(extract, (samples[:n], real.others[:n], real.reference)))


def _by_clip(evidence: Evidence) -> Features:
    """With real pictures of its own: those that the judge never saw are those that it was trained on."""
    scored, samples = evidence.real.scored, evidence.samples.clip
    assert scored is not None  # see `lacking`
    assert samples is not None
    n = min(len(samples), len(scored.others))
    return Features(samples[:n], scored.others[:n], scored.reference)


# Name -> the features that distances are measured in.
EXTRACTORS: Mapping[str, Callable[[Evidence], Features]] = {
    "judge": partial(_seen, lambda pictures: pictures.verdict.features),
    "inception": partial(_seen, lambda pictures: _inception(pictures.pixels)),
    "clip": _by_clip,
}


def _frechet(extractor: str, evidence: Evidence) -> Result:
    f = EXTRACTORS[extractor](evidence)
    interval = jackknife(lambda rows: frechet(f.samples[rows], f.reference), len(f.samples))
    floor = frechet(f.others, f.reference)
    details = {"reference_n": len(f.reference)}
    return Result(frechet(f.samples, f.reference), len(f.samples), floor, interval, extractor, details=details)


def _kernel(extractor: str, mmd: Callable[[Tensor, Tensor], Tensor], evidence: Evidence) -> Result:
    f = EXTRACTORS[extractor](evidence)
    parts = kernel_distances(mmd, f.samples, f.reference)
    value, error = parts.mean().item(), (parts.std() / len(parts) ** 0.5).item()
    floor = kernel_distances(mmd, f.others, f.reference).mean().item()
    interval = (value - T95 * error, value + T95 * error)
    n = GROUPS * _part(f.samples, f.reference)
    return Result(value, n, floor, interval, extractor, details={"reference_n": n})


def _clip_score(evidence: Evidence) -> Result:
    """Mean cosine with the prompt of what each sample should show (Hessel et al. 2021, Equation 1, unscaled)."""
    scored, samples, judge = evidence.real.scored, evidence.samples, evidence.real.judge
    assert scored is not None
    assert samples.clip is not None
    cosines = _cosines(scored, samples.clip, samples.labels, samples.strengths, judge.style_names)
    table = scored.table
    asked = (table.labels, table.style_weights, table.style_names)
    reference = _cosines(scored, scored.reference, *asked)
    few, names = table.part(slice(0, BESIDE)), table.style_names
    beside = {
        name: _cosines(scored, image_features(scored.scorer, to_bytes(images)), few.labels, few.style_weights, names)
        for name, images in yardsticks(to_unit_range(few.pixels)).items()
        if name != "real"
    }
    value, error = cosines.mean().item(), Z95 * cosines.std().item() / len(cosines) ** 0.5
    details = {"beside": {name: values.mean().item() for name, values in beside.items()} | {"n": len(few)}}
    interval = (value - error, value + error)
    return Result(value, len(cosines), reference.mean().item(), interval, "clip", len(reference), details)


def _cosines(scored: Scored, features: Tensor, labels: Tensor, strengths: Tensor, styles: Sequence[str]) -> Tensor:
    """Of unit vectors (N, D) and the prompts of classes (N,) in styles (N, S): (N,) float64."""
    given = [{name: v for name, v in zip(styles, row) if v > 0} for row in strengths.tolist()]
    texts = [caption(scored.table.class_names[label], own) for label, own in zip(labels.tolist(), given)]
    return (features * scored.scorer.texts(texts).cpu()).sum(dim=1).double()


def covered(points: Tensor, manifold: Tensor) -> Tensor:
    """Which points (N, F) lie within the distance of a manifold point (M, F) to its third neighbour: (N,) bool
    (Kynkaanniemi et al. 2019, Equation 1)."""
    parts = manifold.split(1000)
    radii = torch.cat([torch.cdist(part, manifold).kthvalue(NEIGHBOURS + 1, dim=1).values for part in parts])
    return torch.cat([(torch.cdist(part, manifold) <= radii).any(dim=1) for part in points.split(1000)])


def _precision(evidence: Evidence) -> Result:
    f = EXTRACTORS["judge"](evidence)
    hits, floor = covered(f.samples, f.reference), covered(f.others, f.reference)
    details = {"reference_n": len(f.reference)}
    return Result(_share(hits), len(hits), _share(floor), wilson(hits), "judge", details=details)


def _recall(evidence: Evidence) -> Result:
    f = EXTRACTORS["judge"](evidence)

    def recall(rows: Tensor) -> float:
        return _share(covered(f.reference, f.samples[rows]))

    n, floor = len(f.samples), _share(covered(f.reference, f.others))
    details = {"reference_n": len(f.reference)}
    return Result(recall(torch.arange(n)), n, floor, jackknife(recall, n), "judge", details=details)


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


@dataclass(frozen=True)
class Nearest:
    """For each of N pictures, the training picture that is nearest to it, as it is or mirrored."""

    closeness: Tensor  # (N,) float32 in [0, 1]: the distance to it, over the mean distance to the 50 nearest
    rows: Tensor  # (N,) int64


def nearest(pixels: Tensor, training: Tensor, left_out: bool = False) -> Nearest:
    """The nearest of training pictures (M, C, H, W) to pixels (N, C, H, W), both uint8.

    Closeness is near 0 for a copy, even of a picture that has many neighbours (Carlini et al. 2023,
    https://arxiv.org/abs/2301.13188, Section 5.1). With `left_out`, each picture is the training picture of its own
    number, and is held against the others.
    """
    known = to_unit_range(training.cpu()).flatten(1)
    parts = []
    for start, part in enumerate(to_unit_range(pixels).split(BLOCK)):
        found = []
        for picture in (part, part.flip(-1)):
            distances = torch.cdist(picture.flatten(1), known)
            if left_out:
                distances.diagonal(start * BLOCK).fill_(torch.inf)
            values, rows = distances.topk(min(NEAREST, len(known) - left_out), dim=1, largest=False)
            found.append((values[:, 0] / values.mean(dim=1).clamp(min=1e-6), rows[:, 0]))
        ratios, rows = (torch.stack(values) for values in zip(*found))
        best = ratios.argmin(dim=0, keepdim=True)
        parts.append((ratios.gather(0, best)[0], rows.gather(0, best)[0]))
    return Nearest(*(torch.cat(values) for values in zip(*parts)))


def _memorisation(evidence: Evidence) -> Result:
    """The share of samples that are nearer to a training picture than 99% of real pictures are: held-out ones, or where
    those are few, the training pictures themselves, each held against the others."""
    training, held_out = evidence.real.copied.pixels, evidence.real.reference.pixels
    few = len(held_out) < FEW_HELD_OUT
    if few:
        training = in_random_order(evidence.real.copied, 0).pixels
    real = nearest(training if few else held_out, training, left_out=few).closeness
    half = len(real) // 2
    threshold = real[:half].quantile(RARE)
    hits = nearest(evidence.samples.pixels, training).closeness < threshold
    floor = _share(real[half:] < threshold)
    details = {
        "searched": evidence.real.copied.name,
        "searched_n": len(training),
        "threshold": threshold.item(),
        "threshold_n": half,
        "threshold_of": "training pictures, each against the others" if few else "held-out real pictures",
    }
    return Result(_share(hits), len(hits), floor, wilson(hits), "pixels", len(real) - half, details)


def spread(features: Tensor, labels: Tensor) -> float:
    """Root mean square distance between two pictures of one class, the mean over classes; features (N, F)."""
    classes = [features[labels == i].double() for i in labels.unique()]
    return torch.stack([(2 * own.var(dim=0).sum()).sqrt() for own in classes if len(own) > 1]).mean().item()


def _diversity(evidence: Evidence) -> Result:
    n = min(len(evidence.samples), len(evidence.real.others))
    samples, others = evidence.samples[:n], evidence.real.others[:n]

    def of(pictures: Judged, rows: Tensor) -> float:
        return spread(pictures.verdict.features[rows], pictures.labels[rows])

    value, floor = (of(pictures, torch.arange(n)) for pictures in (samples, others))
    return Result(value, n, floor, jackknife(partial(of, samples), n), "judge")


def _style_fidelity(evidence: Evidence) -> Result:
    """The mean over styles of Spearman's correlation between strengths asked for and measured."""
    assert evidence.styled is not None
    judge, styled = evidence.real.judge, evidence.styled
    real = _transformed(evidence)
    asked = [i for i in range(len(judge.style_names)) if (styled.strengths[:, i] > 0).sum() >= GROUPS]
    values = {i: _correlation(styled, i) for i in asked}
    floors = {i: _correlation(real, i) for i in asked if judge.style_names[i] in STYLES}

    def mean(rows: Tensor) -> float:
        return _mean([_correlation(styled[rows], i) for i in asked])

    per_style = {
        judge.style_names[i]: {
            "spearman": values[i],
            "floor_spearman": floors.get(i),
            "mean_error": _error(styled, i),
            "floor_mean_error": _error(real, i) if i in floors else None,
            "class_accuracy": right(styled[styled.strengths[:, i] > 0]),
            "floor_class_accuracy": right(real[real.strengths[:, i] > 0]) if i in floors else None,
            "n": int((styled.strengths[:, i] > 0).sum()),
        }
        for i in asked
    }
    details = {
        "per_style": per_style,
        "too_few": [judge.style_names[i] for i in styled.strengths.any(dim=0).nonzero().squeeze(1) if i not in asked],
        "per_class": _per_class(styled, asked, judge),
        "floor_per_class": _per_class(real, asked, judge),
        "pairs": _pairs(styled, asked, judge.style_names),
        "floor_pairs": _pairs(real, asked, judge.style_names),
        "class_accuracy": right(styled),
        "class_accuracy_plain": right(evidence.samples),
    }
    floor = _mean(list(floors.values())) if len(floors) == len(values) else None
    interval = jackknife(mean, len(styled))
    return Result(_mean(list(values.values())), len(styled), floor, interval, "judge", len(real), details)


def _transformed(evidence: Evidence) -> Judged:
    """Real pictures changed by the styles' own transforms, at the strengths that were asked for."""
    assert evidence.styled is not None
    judge, others = evidence.real.judge, evidence.real.others
    n = min(len(evidence.styled), len(others))
    names = [name for name in judge.style_names if name in STYLES]
    columns = [judge.style_names.index(name) for name in names]
    strengths = torch.zeros(n, len(judge.style_names))
    strengths[:, columns] = evidence.styled.strengths[:n, columns]
    pixels = apply_styles(to_unit_range(others.pixels[:n]), strengths[:, columns], names)
    return judge_pictures(judge, to_bytes(pixels), others.labels[:n], strengths)


def _correlation(pictures: Judged, style: int) -> float:
    """Spearman's correlation over the pictures asked for this style; 0 where the judge always says the same."""
    rows = pictures.strengths[:, style] > 0
    value = spearman_corrcoef(pictures.verdict.strengths[rows, style], pictures.strengths[rows, style])
    return value.nan_to_num().item()


def _error(pictures: Judged, style: int) -> float:
    """Mean distance between the strengths asked for and measured."""
    rows = pictures.strengths[:, style] > 0
    return (pictures.verdict.strengths[rows, style] - pictures.strengths[rows, style]).abs().mean().item()


def _per_class(styled: Judged, asked: Sequence[int], judge: Judge) -> dict[str, dict[str, dict[str, float]]]:
    """Class -> style -> mean error of the strength, class accuracy, n."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for label, name in enumerate(judge.class_names):
        table[name] = {}
        for i in asked:
            cell = styled[(styled.labels == label) & (styled.strengths[:, i] > 0)]
            if len(cell):
                numbers = {"mean_error": _error(cell, i), "class_accuracy": right(cell), "n": len(cell)}
                table[name][judge.style_names[i]] = numbers
    return table


def _pairs(styled: Judged, asked: Sequence[int], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Pair of styles -> mean error of both strengths, class accuracy, n."""
    table = {}
    for a, b in ((a, b) for a in asked for b in asked if a < b):
        both = styled[(styled.strengths[:, a] > 0) & (styled.strengths[:, b] > 0)]
        if len(both):
            table[f"{names[a]}+{names[b]}"] = {
                "mean_error": (_error(both, a) + _error(both, b)) / 2,
                "class_accuracy": right(both),
                "n": len(both),
            }
    return table


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


METRICS: Mapping[str, Metric] = {
    "class_accuracy": Metric(
        "share of plain samples that the judge puts into the class asked for", "higher", _class_accuracy, 1
    ),
    "style_fidelity": Metric(
        "do measured strengths follow those asked for?", "higher", _style_fidelity, 100, per_style=12, styled=True
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
    "precision": Metric("share of samples that lie among real pictures", "higher", _precision, 100),
    "recall": Metric("share of real pictures that samples come near to", "higher", _recall, 100),
    "diversity": Metric("distance between two samples of one class", "as real", _diversity, 100, per_class=3),
    "memorisation": Metric(
        "share of samples nearer to a training picture than 99% of real ones", "lower", _memorisation, 200, beside=False
    ),
}
