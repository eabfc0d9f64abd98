"""What do styles cost? A model with styles beside one of the same budget that learns classes alone: the same metrics of
their plain samples, with the same noise.

for each: accelerate launch train_scripts/train.py --config train_scripts/configs/demo.yaml --max_train_images 20000 \
    --max_minutes 60 --output_dir runs/demo   (and with --styles --output_dir runs/classes)
python benchmarks/style_cost.py runs/demo runs/classes --reference ../data/fashion_mnist
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro

from hfdiff.core.config import command_line
from hfdiff.core.errors import BadInput, run_program
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.evaluation.judge_training import judge_for
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.metrics import METRICS, missing_inputs
from hfdiff.evaluation.protocol import Protocol, draw_samples
from hfdiff.evaluation.reference_images import ReferenceSet, check_judge, check_model_fits
from hfdiff.models.loading import load_pipeline
from hfdiff.training.run_folder import run_of


@dataclass(frozen=True)
class Arguments:
    styled: Annotated[str, tyro.conf.Positional]
    """A model that was trained with styles."""
    classes: Annotated[str, tyro.conf.Positional]
    """A model of the same budget that was trained without."""
    dataset: str = "fashion_mnist_12k"
    """The real training images."""
    reference: str = "fashion_mnist_12k"
    """Real images: the test split of this dataset, or its validation split."""
    num_images: int = 1000
    seed: int = 0


def main(argv: Sequence[str]) -> int:
    given = command_line(Arguments, argv, __doc__ or "")
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    pipelines = [load_pipeline(model).to(device) for model in (given.styled, given.classes)]
    training, validation = load_training_data(given.dataset)
    judge = judge_for(training, validation, device=device)
    held_out = load_test_data(given.reference)
    check_judge(judge, held_out)
    real = ReferenceSet.of(judge, training, held_out)
    drawn = []
    for pipeline in pipelines:
        check_model_fits(pipeline, held_out)
        pipeline.set_progress_bar_config(disable=True)
        drawn.append(draw_samples(pipeline, real, Protocol(given.num_images, 0, given.seed, {})).samples)
    seen = " and ".join(f"{images_seen(model):,}" for model in (given.styled, given.classes))
    print(
        f"n = {given.num_images} plain samples of each, seed {given.seed}, the pipeline's defaults; one training each,"
    )
    print(f"on {seen} images; intervals over the samples\n")
    print("| metric | with styles | 95% | classes alone | 95% | real |\n|---|---|---|---|---|---|")
    for name, row in METRICS.items():
        if row.default and not row.styled and not missing_inputs(name, real, given.num_images, 0):
            results = [row.measure(MetricInputs(real, samples)) for samples in drawn]
            cells = [f"{r.value:.3f} | {r.ci95[0]:.3f} to {r.ci95[1]:.3f}" for r in results if r.ci95]
            print(f"| {name} | {' | '.join(cells)} | {results[0].real:.3f} |", flush=True)
    return 0


def images_seen(model: str) -> int:
    """The length of a run, by its own log."""
    run = run_of(model)
    if run is None:
        raise BadInput(f"{model} is no run's folder; valid: two runs, whose lengths can be compared")
    return json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])["images"]


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
