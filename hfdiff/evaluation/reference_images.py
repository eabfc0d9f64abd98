"""Real images that samples are held against, as a judge and a CLIP model see them."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.data.config import ReadOptions
from hfdiff.data.loading import load_training_data, open_dataset
from hfdiff.data.table import ImageTable, alike
from hfdiff.evaluation.clip import image_features
from hfdiff.evaluation.judge import Judge, JudgeOutput, predict, unseen
from hfdiff.evaluation.statistics import share_true
from hfdiff.pipelines import ClassStylePipeline, Scorer
from hfdiff.training.run_folder import run_config

MOST_REFERENCE = 10_000  # images, beyond which a distance moves little and the judge reads for minutes


def reference_images(images: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """What a score of images is to be read beside: these real ones (N, C, H, W) in [0, 1], blurred, and noise."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
    return {"real": images, "blurred": gaussian_blur2d(images, (9, 9), (1.5, 1.5)), "noise": noise}


@dataclass(frozen=True)
class JudgedImages:
    """Images, what they should show, and what the judge says of them."""

    pixels: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    output: JudgeOutput
    strengths: Tensor  # (N, S) float32 in [0, 1], asked for, in the order of the judge's styles
    clip: Tensor | None = None  # (N, D) float32, unit vectors of a CLIP model

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> "JudgedImages":
        output = JudgeOutput(*(value[rows] for value in vars(self.output).values()))
        clip = None if self.clip is None else self.clip[rows]
        return JudgedImages(self.pixels[rows], self.labels[rows], output, self.strengths[rows], clip)


@dataclass(frozen=True)
class ClipReference:
    """What a CLIP model says of real images that it never saw: unit vectors, float32."""

    scorer: Scorer
    reference: Tensor  # (M, D), of held-out images
    others: Tensor  # (N, D), of training images: they stand for samples
    table: ImageTable  # the images of the reference

    @classmethod
    def of(cls, scorer: Scorer, training: ImageTable, held_out: ImageTable, seed: int) -> "ClipReference":
        config = scorer.model.config
        tables = [in_random_order(unseen(config, table), seed) for table in (held_out, training)]
        reference, others = (image_features(scorer, table.pixels) for table in tables)
        return cls(scorer, reference, others, tables[0])


def in_random_order(table: ImageTable, seed: int) -> ImageTable:
    return table.part(torch.randperm(len(table), generator=torch.Generator().manual_seed(seed)))


@dataclass(frozen=True)
class ReferenceSet:
    """The real images that samples are held against, and the judge of both."""

    judge: Judge
    training: ImageTable
    reference: JudgedImages  # held-out images that the judge never saw
    others: JudgedImages  # training images that the judge never saw: they stand for samples
    copied: ImageTable  # what the model was trained on
    split: str = "test"  # that the reference comes from
    clip_reference: ClipReference | None = None  # for the metrics in CLIP's features

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
    ) -> "ReferenceSet":
        """Let the judge see real images that it was not trained on, in random order, at most so many of each kind;
        `copied` is `training` where not given."""
        sides = []
        for table in (unseen(judge, held_out), unseen(judge, training)):
            if not len(table):
                raise BadInput(
                    f"the judge was trained on all {table.split} images of {table.name!r}; give one of half of them"
                )
            table = in_random_order(table, seed).part(slice(0, most))
            given = torch.zeros(len(table), len(judge.style_names))
            given[:, [judge.style_names.index(name) for name in table.style_names]] = table.style_weights
            sides.append(judge_images(judge, table.pixels, table.labels, given))
        reference, others = sides
        clip_reference = None if scorer is None else ClipReference.of(scorer, training, held_out, seed)
        return cls(judge, training, reference, others, copied or training, held_out.split, clip_reference)

    @classmethod
    def apart(cls, judge: Judge, training: ImageTable, seed: int = 0, most: int | None = None) -> "ReferenceSet":
        """Half of the training images that the judge did not see, and the other half to stand for samples: what is
        chosen by these is not chosen by the test images that a report measures, and validation images are too few.

        The models that are compared saw the reference, which favours those that copy; `memorisation` tells.
        """
        images = in_random_order(unseen(judge, training), seed)
        held, others = images.part(slice(0, len(images) // 2)), images.part(slice(len(images) // 2, None))
        return cls.of(judge, others, held, seed, most, copied=training)


def judge_images(
    judge: Judge, pixels: Tensor, labels: Tensor, strengths: Tensor | None = None, scorer: Scorer | None = None
) -> JudgedImages:
    """Let the judge, and a CLIP model, see pixels (N, C, H, W) uint8; strengths (N, S) are 0 where not given."""
    strengths = torch.zeros(len(pixels), len(judge.style_names)) if strengths is None else strengths
    clip = None if scorer is None else image_features(scorer, pixels)
    return JudgedImages(pixels.cpu(), labels.cpu(), predict(judge, pixels), strengths, clip)


def check_judge(judge: Judge, table: ImageTable, style_names: Sequence[str] = ()) -> None:
    """BadInput where the judge knows other classes or images, or does not predict a style of the model; one of noised
    images predicts none."""
    if tuple(judge.class_names) != table.class_names:
        names = [", ".join(names[:12]) for names in (judge.class_names, table.class_names)]
        raise BadInput(f"the judge knows the classes {names[0]}; dataset {table.name!r} has {names[1]}")
    knows, holds = (
        f"{h}x{w} with {c} channels" for c, (h, w) in ((judge.channels, judge.size), (table.channels, table.size))
    )
    if knows != holds:
        raise BadInput(f"the judge knows images of {knows}; dataset {table.name!r} holds {holds}")
    for name in () if judge.noised else (*table.style_names, *style_names):
        if name not in judge.style_names:
            raise BadInput(f"the judge does not predict the style {name!r}; it predicts {', '.join(judge.style_names)}")


def class_accuracy(images: JudgedImages) -> float:
    """The share of images that the judge puts into the class that they should show."""
    return share_true(images.output.classes == images.labels)


@dataclass(frozen=True)
class EvaluationImages:
    """The real images of an evaluation."""

    training: ImageTable
    held_out: ImageTable
    copied: ImageTable  # what the model was trained on, where its run tells and it can be read; else `training`
    resolution: int | None  # that they were resized to


def real_images(model: str, dataset: str | None, resolution: int | None) -> EvaluationImages:
    """The images of a dataset; by default the one that MODEL's run was trained on."""
    config = run_config(model)
    if dataset is None and config is None:
        raise BadInput(f"{model} is no run's folder, which would name its dataset; give --dataset")
    read_options = ReadOptions(resolution)
    if config and dataset in (None, config.dataset):
        dataset = config.dataset
        read_options = replace(config.read_options, resolution=resolution or config.resolution)
    assert dataset is not None
    data = open_dataset(dataset, read_options)
    training, validation = data.training()
    training, held_out = alike(training, data.test() or validation)
    copied = training
    if config and dataset != config.dataset:
        with contextlib.suppress(BadInput):  # its data is gone
            copied = load_training_data(config.dataset, replace(config.read_options, resolution=config.resolution))[0]
    return EvaluationImages(training, held_out, copied, read_options.resolution)


def check_model_fits(pipeline: ClassStylePipeline, table: ImageTable) -> None:
    """BadInput where the model cannot be held against these images."""
    if not pipeline.class_names:
        raise BadInput("the model knows no classes, so nothing can be asked of it; valid: a model trained with classes")
    if tuple(map(str.lower, pipeline.class_names)) != tuple(map(str.lower, table.class_names)):
        names = [", ".join(names[:12]) for names in (pipeline.class_names, table.class_names)]
        if sorted(map(str.lower, pipeline.class_names)) == sorted(map(str.lower, table.class_names)):
            names[1] += ": the same in another order, where class folders or a ClassLabel column can give the model's"
        raise BadInput(f"the model draws the classes {names[0]}; dataset {table.name!r} has {names[1]}")
    config = pipeline.unet.config
    side = config.sample_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    if (config.in_channels, size) != (table.channels, table.size):
        drawn, real = (
            f"{h}x{w} with {c} channels" for c, (h, w) in ((config.in_channels, size), (table.channels, table.size))
        )
        advice = f"; give --resolution {size[0]}" if size[0] == size[1] and size != table.size else ""
        raise BadInput(f"the model draws images of {drawn}, dataset {table.name!r} holds {real}{advice}")
