"""Which metric sees which damage? Real images in place of samples, damaged step by step: the table of docs/metrics.md.

python benchmarks/damages.py --dataset ../data/fashion_mnist
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from hfdiff.core.config import command_line
from hfdiff.core.errors import run_program
from hfdiff.data.loading import load_test_data
from hfdiff.data.table import ImageTable, to_bytes, to_unit_range
from hfdiff.evaluation.clip import load_clip
from hfdiff.evaluation.judge import Judge, load_judge
from hfdiff.evaluation.metric import MetricInputs, Result
from hfdiff.evaluation.metrics import METRICS
from hfdiff.evaluation.reference_images import JudgedImages, ReferenceSet, judge_images
from hfdiff.pipelines import Scorer


@dataclass(frozen=True)
class Arguments:
    dataset: str = "fashion_mnist"
    """Its test images, which neither model saw."""
    models: str = "fashion_mnist_12k"
    """The dataset whose embedded judge and CLIP model look at them."""
    num_images: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Bench:
    """Real images that stand for samples, twice as many as a damaged set has, and what judges them."""

    real: ReferenceSet
    pool: JudgedImages  # (2 n)
    seed: int = 0

    @classmethod
    def of(cls, table: ImageTable, judge: Judge, scorer: Scorer, n: int, seed: int = 0) -> "Bench":
        """From test images that neither model saw: 2 n for the pool, n as other real images, the rest as reference."""
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
        pool, others, reference = (table.part(rows) for rows in order.tensor_split([2 * n, 3 * n]))
        real = ReferenceSet.of(judge, others, reference, seed, scorer=scorer)
        return cls(real, judge_images(judge, pool.pixels, pool.labels, scorer=scorer), seed)

    @property
    def n(self) -> int:
        return len(self.pool) // 2

    def measured(self, samples: JudgedImages, names: Sequence[str]) -> dict[str, Result]:
        inputs = MetricInputs(self.real, samples, seed=self.seed)
        return {name: METRICS[name].measure(inputs) for name in names}

    def seen(self, pixels: Tensor, labels: Tensor) -> JudgedImages:
        """Pixels (N, C, H, W) float32 in [0, 1], as the models see them."""
        assert self.real.clip_reference is not None
        return judge_images(self.real.judge, to_bytes(pixels), labels, scorer=self.real.clip_reference.scorer)


def repeated(times: int, bench: Bench) -> JudgedImages:
    return bench.pool[torch.arange(bench.n) % (bench.n // times)]


def without_classes(count: int, bench: Bench) -> JudgedImages:
    """Other classes are drawn where the last ones were asked for."""
    images, kept = bench.pool[: bench.n], bench.pool[bench.n :]
    first_lost = len(bench.real.judge.class_names) - count
    lost = (images.labels >= first_lost).nonzero()[:, 0]
    rows = torch.arange(bench.n)
    shown = (kept.labels < first_lost).nonzero()[:, 0]
    rows[lost] = bench.n + shown[: len(lost)]
    return replace(bench.pool[rows], labels=images.labels)


def typical_half(bench: Bench) -> JudgedImages:
    """Of each class the half that is nearest to its mean in the judge's features."""
    features, labels = bench.pool.output.features, bench.pool.labels
    rows = []
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        distance = (features[own] - features[own].mean(dim=0)).norm(dim=1)
        rows.append(own[distance.argsort()[: (len(own) + 1) // 2]])
    return bench.pool[torch.cat(rows)[: bench.n]]


def class_means(bench: Bench) -> JudgedImages:
    """The mean image of the class in place of each image."""
    labels = bench.pool.labels
    pixels = to_unit_range(bench.pool.pixels)
    means = torch.stack([pixels[labels == label].mean(dim=0) for label in labels.unique()])
    return bench.seen(means, labels.unique())[torch.searchsorted(labels.unique(), labels[: bench.n])]


def changed(change: Callable[[Tensor], Tensor], bench: Bench) -> JudgedImages:
    return bench.seen(change(to_unit_range(bench.pool.pixels[: bench.n])), bench.pool.labels[: bench.n])


def contrast(factor: float, images: Tensor) -> Tensor:
    """Towards the mean of each image."""
    return images.mean(dim=(1, 2, 3), keepdim=True).lerp(images, factor)


def blurred(sigma: float, images: Tensor) -> Tensor:
    return gaussian_blur2d(images, (9, 9), (sigma, sigma))


def dusted(images: Tensor) -> Tensor:
    """1 to 7 of 255 on a fifth of the values under 16: nobody sees it."""
    generator = torch.Generator().manual_seed(0)
    chosen = (images < 16 / 255) & (torch.rand(images.shape, generator=generator) < 0.2)
    return torch.where(chosen, torch.randint(1, 8, images.shape, generator=generator) / 255, images)


def noised(images: Tensor) -> Tensor:
    """At most 3 of 255 more or less: nobody sees it."""
    noise = torch.randint(-3, 4, images.shape, generator=torch.Generator().manual_seed(0)) / 255
    return (images + noise).clamp(0, 1)


INVISIBLE: Mapping[str, Callable[[Bench], JudgedImages]] = {
    "values 1 to 7 on a fifth of near-black": partial(changed, dusted),
    "noise of ±3 of 255": partial(changed, noised),
}
# Damages of one kind grow from entry to entry.
DAMAGES: Mapping[str, Mapping[str, Callable[[Bench], JudgedImages]]] = {
    "repeats": {f"each image {times} times": partial(repeated, times) for times in (2, 5, 20)},
    "lost classes": {
        "a class lost": partial(without_classes, 1),
        "three classes lost": partial(without_classes, 3),
    },
    "typical": {"the typical half of each class": typical_half, "class means": class_means},
    "contrast": {f"contrast x {factor}": partial(changed, partial(contrast, factor)) for factor in (0.7, 0.4)},
    "blur": {f"blur of {sigma} pixels": partial(changed, partial(blurred, sigma)) for sigma in (0.7, 1.5)},
}


def cell(name: str, result: Result, before: Result) -> str:
    """The value, with an arrow where it left the undamaged set's interval, bold where that calls the damage better."""
    assert before.ci95 is not None
    low, high = before.ci95
    moved = "↑" if result.value > high else "↓" if result.value < low else ""
    praised = {"higher": "↑", "lower": "↓"}.get(METRICS[name].better)
    text = f"{result.value:.3g}{moved}"
    return f"**{text}**" if moved and moved == praised else text


def main(argv: Sequence[str]) -> int:
    given = command_line(Arguments, argv, __doc__ or "")
    judge, scorer = load_judge(given.models), Scorer(*load_clip(dataset=given.models))
    bench = Bench.of(load_test_data(given.dataset), judge, scorer, given.num_images, given.seed)
    # Memorisation is about training images; styles are asked of a model.
    left_out = ("style_fidelity", "memorisation")
    names = [name for name, row in METRICS.items() if row.default and name not in left_out]
    before = bench.measured(bench.pool[: bench.n], names)
    print(f"n = {bench.n}, reference {len(bench.real.reference)}, seed {bench.seed}; arrows: beyond the first 95%\n")
    print("|".join(["", "real images in place of samples", *(f"`{name}`" for name in names), ""]))
    print("|".join(["", "---", *("---" for _ in names), ""]))
    print("|".join(["", "undamaged", *(f"{r.value:.3g}" for r in before.values()), ""]))
    print("|".join(["", "95%", *("{:.3g} to {:.3g}".format(*(r.ci95 or ())) for r in before.values()), ""]))
    for kind in (*DAMAGES.values(), INVISIBLE):
        for what, damage in kind.items():
            after = bench.measured(damage(bench), names)
            print("|".join(["", what, *(cell(name, after[name], before[name]) for name in names), ""]), flush=True)
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
