"""Are generated images of use as training data? Two experiments, both tested on real images.

score: the classification accuracy score (Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887), of a classifier
trained on generated images alone, beside one trained on as many real ones.
rare_class: one class is cut down and filled up again, with copies of what is left, with augmented copies, or with
generated images. The model must not have seen what was cut away, so it is trained on what write_cut_data writes.
Every classifier is a judge without styles: all of its images are mirrored and shifted while it trains.

python benchmarks/augmentation.py score runs/demo --reference ../data/fashion_mnist
python benchmarks/augmentation.py write_cut_data runs/less
accelerate launch train_scripts/train.py --config train_scripts/configs/demo.yaml \
    --dataset runs/less --output_dir runs/cut
python benchmarks/augmentation.py rare_class runs/cut --reference ../data/fashion_mnist
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Literal

import datasets
import torch
import tyro
from PIL import Image
from torch import Tensor

from hfdiff.core.config import command_line, read_yaml
from hfdiff.core.errors import BadInput, check_range, run_program
from hfdiff.core.files import folder_to_write
from hfdiff.core.names import unknown
from hfdiff.data.augmentation import NUM_DRAWS, augment
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.data.table import ImageTable, to_bytes, to_unit_range
from hfdiff.evaluation.judge import Judge, predict
from hfdiff.evaluation.judge_training import train_judge
from hfdiff.evaluation.statistics import student_t
from hfdiff.models.loading import load_pipeline
from hfdiff.models.sampling import sample_tensors
from hfdiff.pipelines import ClassStylePipeline, find_name
from hfdiff.training.checkpoint import newest_checkpoint
from hfdiff.training.run_folder import RunFolder

AUGMENT_PROBABILITY = 0.5  # of each change of an augmented copy
COPIES = "copies (oversampling)"
DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@dataclass(frozen=True)
class Arguments:
    task: Annotated[Literal["score", "write_cut_data", "rare_class"], tyro.conf.Positional]
    folder: Annotated[str, tyro.conf.Positional]
    """The model: a pipeline's folder, a run's folder, or a Hub id. For write_cut_data the folder to write."""
    dataset: str = "fashion_mnist_12k"
    """Real training images, nothing cut away."""
    reference: str = "fashion_mnist_12k"
    """Real images to test on: the test split of this dataset, or its validation split."""
    rare_class: str = "Shirt"
    """The class that is cut; Shirt is the one of Fashion-MNIST that classifiers find hardest."""
    share: float = 0.05
    """What is left of the rare class."""
    num_images: int = 2000
    """Training images of each classifier of the score."""
    guidance_scale: float = 1.5
    widths: tuple[int, int, int] = (16, 32, 64)
    epochs: int = 10
    seeds: int = 5


def half_width(values: Sequence[float]) -> float:
    """Of the 95% interval of a mean: t_{0.975, n-1} s / sqrt(n)."""
    return student_t(len(values) - 1) * stdev(values) / len(values) ** 0.5


def shown(values: Sequence[float]) -> str:
    return f"{fmean(values):.4f} +- {half_width(values):.4f}"


def cut(table: ImageTable, rare_class: str, share: float) -> Tensor:
    """Which images stay (N,) bool: this share of a class, the same ones in every run, and all of the others."""
    names = list(table.class_names)
    name = find_name(rare_class, names)
    if name is None:
        raise unknown("rare_class", rare_class, names)
    rows = (table.labels == names.index(name)).nonzero().squeeze(1)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    removed = rows[round(share * len(rows)) :]
    if not 0 < len(removed) < len(rows):
        raise BadInput(f"share {share} of {len(rows)} images; valid: what keeps some and removes some")
    return torch.ones(len(table), dtype=torch.bool).index_fill(0, removed, False)


def additions(kept: ImageTable, removed: ImageTable, generator: torch.Generator) -> dict[str, ImageTable]:
    """What balances the rare class, in each way that needs no model; as many images each, for as many steps."""
    rare, counts = int(removed.labels[0]), kept.class_counts()
    turn = torch.arange(max(counts) - counts[rare])
    left = kept.part(kept.labels == rare)
    copies = left.part(turn % len(left))
    draw = torch.rand((len(turn), NUM_DRAWS), generator=generator)
    augmented, _ = augment(to_unit_range(copies.pixels), draw, AUGMENT_PROBABILITY)
    return {
        "nothing: copies of all classes": kept.part(torch.randint(len(kept), turn.shape, generator=generator)),
        COPIES: copies,
        "augmented copies": replace(copies, pixels=to_bytes(augmented)),
        "the real images cut away": removed.part(turn % len(removed)),
    }


def join(a: ImageTable, b: ImageTable) -> ImageTable:
    pixels, labels = torch.cat([a.pixels, b.pixels]), torch.cat([a.labels, b.labels])
    return replace(a, pixels=pixels, labels=labels, style_weights=torch.cat([a.style_weights, b.style_weights]))


def name_of_generated(model: str, kept: ImageTable, whole: ImageTable) -> str:
    """Says what the model was trained on, as the newest checkpoint of its run has it."""
    run = RunFolder(Path(model))
    saved = newest_checkpoint(run, warn=print) if run.config.is_file() else None
    if saved is None or read_yaml(run.config).get("init_from"):
        return "generated (not known what the model saw)"
    known = {kept.fingerprint: "the cut data alone", whole.fingerprint: "all images"}
    return f"generated (model saw {known.get(saved.numbers['data'], 'other data')})"


def load(given: Arguments) -> tuple[ClassStylePipeline, ImageTable, ImageTable]:
    """The model, the training images and the test images."""
    check_range("seeds", given.seeds, 2, 1000)
    pipeline, table = load_pipeline(given.folder), load_training_data(given.dataset)[0]
    test = load_test_data(given.reference)
    if not pipeline.class_names == list(table.class_names) == list(test.class_names):
        raise BadInput(f"the model, {given.dataset} and {given.reference} name different classes")
    pipeline.to(DEVICE)
    pipeline.set_progress_bar_config(disable=True)
    print(f"{given}\n{len(test)} test images; 95% intervals over the seeds of training and drawing, with one model\n")
    return pipeline, table, test


def generated(pipeline: ClassStylePipeline, like: ImageTable, seed: int, given: Arguments) -> ImageTable:
    """Plain images of the classes of a table, in its order."""
    drawn = sample_tensors(
        pipeline,
        class_labels=like.labels.tolist(),
        guidance_scale=given.guidance_scale,
        style_guidance_scale=given.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
    )
    return replace(like, pixels=to_bytes(drawn.images))


def named_right(table: ImageTable, test: ImageTable, seed: int, given: Arguments) -> Tensor:
    """Which test images a classifier trained on the table names right: (len(test),) float64."""
    torch.manual_seed(seed)
    judge = Judge(table.channels, list(table.class_names), widths=given.widths, size=table.size).to(DEVICE)
    list(train_judge(judge, table, test.part(slice(0, 1)), epochs=given.epochs, seed=seed))
    return (predict(judge, test.pixels).classes == test.labels).double()


def score(given: Arguments) -> None:
    """The classification accuracy score."""
    pipeline, table, test = load(given)
    if not 2 <= given.num_images <= len(table):
        raise BadInput(f"num_images is {given.num_images}; valid: 2 to {len(table)}, the number of real ones")
    right: dict[str, list[float]] = {"generated images": [], "real images": []}
    for seed in range(given.seeds):
        generator = torch.Generator().manual_seed(seed)
        real = table.part(torch.randperm(len(table), generator=generator)[: given.num_images])
        in_turn = replace(real, labels=torch.arange(len(real)) % len(table.class_names))
        for name, images in zip(right, (generated(pipeline, in_turn, seed, given), real)):
            right[name].append(named_right(images, test, seed, given).mean().item())
    print(f"| trained on {given.num_images} | accuracy |\n|---|---|")
    print("\n".join(f"| {name} | {shown(values)} |" for name, values in right.items()))


def rare_class(given: Arguments) -> None:
    """Balance the rare class in each way; differences are taken seed by seed, a star marks those beyond noise."""
    pipeline, table, test = load(given)
    keep = cut(table, given.rare_class, given.share)
    kept, removed = table.part(keep), table.part(~keep)
    name = name_of_generated(given.folder, kept, table)
    right: dict[str, list[list[float]]] = {}  # by way: of the rare class and of all, for each seed
    for seed in range(given.seeds):
        added = additions(kept, removed, torch.Generator().manual_seed(seed))
        added[name] = generated(pipeline, added[COPIES], seed, given)
        for way, images in added.items():
            hits = named_right(join(kept, images), test, seed, given)
            of_rare, of_all = right.setdefault(way, [[], []])
            of_rare.append(hits[test.labels == removed.labels[0]].mean().item())
            of_all.append(hits.mean().item())
    print(f"{len(removed)} of class {given.rare_class} cut away, {len(added[COPIES])} images added; accuracies\n")
    print("| added | rare class | all | rare class, generated - this | all, generated - this |\n|---|---|---|---|---|")
    for way, columns in right.items():
        differences = [[a - b for a, b in zip(*pair)] for pair in zip(right[name], columns)]
        marked = [shown(d) + " *" * (abs(fmean(d)) > half_width(d)) for d in differences]
        print(f"| {' | '.join([way, *map(shown, columns), *marked])} |")


def write_cut_data(given: Arguments) -> None:
    """Parquet files of both splits, cut alike, for `train.py --dataset FOLDER`."""
    folder = folder_to_write(given.folder)
    if folder.exists():
        raise BadInput(f"{folder} exists; give a new folder")
    kept = [table.part(cut(table, given.rare_class, given.share)) for table in load_training_data(given.dataset)]
    folder.mkdir(parents=True)
    for name, table in zip(("train", "validation"), kept):
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(table.class_names))}
        images = [Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()) for image in table.pixels]
        columns = {"image": images, "label": table.labels.tolist()}
        datasets.Dataset.from_dict(columns, datasets.Features(kinds)).to_parquet(folder / f"{name}.parquet")
        print(f"{folder}: {name} {table.class_counts()}")


def main(argv: Sequence[str]) -> int:
    given = command_line(Arguments, argv, __doc__ or "")
    tasks = {"score": score, "write_cut_data": write_cut_data, "rare_class": rare_class}
    tasks[given.task](given)
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
