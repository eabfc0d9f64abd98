"""Real pictures that samples are held against, as a judge and a CLIP model see them."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.data.config import Reading
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.data.table import ImageTable, alike
from hfdiff.evaluation.clip import image_features
from hfdiff.evaluation.judge import Judge, Verdict, judged, unseen
from hfdiff.evaluation.statistics import share_true
from hfdiff.pipelines import ClassStylePipeline, Scorer
from hfdiff.training.run_folder import run_config


def yardsticks(images: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """What a score of pictures is to be read beside: these real ones (N, C, H, W) in [0, 1], blurred, and noise."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
    return {"real": images, "blurred": gaussian_blur2d(images, (9, 9), (1.5, 1.5)), "noise": noise}


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


def right(pictures: Judged) -> float:
    """The share of pictures that the judge puts into the class that they should show."""
    return share_true(pictures.verdict.classes == pictures.labels)


@dataclass(frozen=True)
class Pictures:
    """The real pictures of an evaluation."""

    training: ImageTable
    held_out: ImageTable
    copied: ImageTable  # what the model was trained on, where its run tells and it can be read; else `training`
    resolution: int | None  # that they were resized to


def real_pictures(model: str, dataset: str | None, resolution: int | None) -> Pictures:
    """The pictures of a data set; by default the one that MODEL's run was trained on."""
    config = run_config(model)
    if dataset is None and config is None:
        raise BadInput(f"{model} is no run's folder, which would tell its data set; give --dataset")
    reading = Reading(resolution)
    if config and dataset in (None, config.dataset):
        dataset = config.dataset
        reading = replace(config.reading, resolution=resolution or config.resolution)
    assert dataset is not None
    training, held_out = alike(load_training_data(dataset, reading)[0], load_test_data(dataset, reading))
    copied = training
    if config and dataset != config.dataset:
        with contextlib.suppress(BadInput):  # its data is gone
            copied = load_training_data(config.dataset, replace(config.reading, resolution=config.resolution))[0]
    return Pictures(training, held_out, copied, reading.resolution)


def check_fits(pipeline: ClassStylePipeline, table: ImageTable) -> None:
    """BadInput where the model cannot be held against these pictures."""
    if not pipeline.class_names:
        raise BadInput("the model knows no classes, so nothing can be asked of it; valid: a model trained with classes")
    if tuple(map(str.lower, pipeline.class_names)) != tuple(map(str.lower, table.class_names)):
        names = [", ".join(names[:12]) for names in (pipeline.class_names, table.class_names)]
        if sorted(map(str.lower, pipeline.class_names)) == sorted(map(str.lower, table.class_names)):
            names[1] += ": the same in another order, where class folders or a ClassLabel column can give the model's"
        raise BadInput(f"the model draws the classes {names[0]}; data set {table.name!r} has {names[1]}")
    config = pipeline.unet.config
    side = config.sample_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    if (config.in_channels, size) != (table.channels, table.size):
        drawn, real = (
            f"{h}x{w} with {c} channels" for c, (h, w) in ((config.in_channels, size), (table.channels, table.size))
        )
        advice = f"; give --resolution {size[0]}" if size[0] == size[1] and size != table.size else ""
        raise BadInput(f"the model draws pictures of {drawn}, data set {table.name!r} holds {real}{advice}")
