"""Which sampler is best at how many evaluations? For a trained model, class accuracy and Frechet distance by the judge;
and as ground truth, the distance from the exact solution where the model is exact (a mixture of Gaussians).

python benchmarks/samplers.py runs/demo --reference ../data/fashion_mnist --output_dir runs/samplers
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import mixture
import torch
import tyro
from diffusers import SchedulerMixin
from matplotlib.figure import Figure
from opened import opened
from torch import Tensor

from hfdiff.core.config import command_line
from hfdiff.core.errors import run_program
from hfdiff.data.table import to_bytes
from hfdiff.evaluation.distances import frechet
from hfdiff.evaluation.judge import accuracy, predict
from hfdiff.figures.grids import save_figure
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.objectives import OBJECTIVES, make_objective
from hfdiff.models.samplers import Process, make_scheduler, process_of, valid_samplers
from hfdiff.models.sampling import sample_tensors
from hfdiff.pipelines import ClassStylePipeline


@dataclass(frozen=True)
class Arguments:
    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    output_dir: str
    """Where the plot goes."""
    reference: str = "fashion_mnist_12k"
    """Real images: the test split of this dataset, or its validation split."""
    judge: str = "fashion_mnist"
    evaluations: tuple[int, ...] = (5, 10, 20, 40)
    num_images: int = 1000
    guidance_scale: float = 1.5
    seed: int = 0


@dataclass(frozen=True)
class Point:
    """A sampler at a number of evaluations of the model for each image and condition."""

    sampler: str
    evaluations: int
    accuracy: float  # share of the samples in the class asked for
    distance: float  # Frechet, in the judge's features
    error: float  # mean distance of a coordinate from the exact solution, for the mixture; not a number for ddpm
    between: float  # share of the mixture's samples that belong to no component


def main(argv: Sequence[str]) -> int:
    given = command_line(Arguments, argv, __doc__ or "")
    pipeline, judge, real = opened(given.model, given.judge, given.reference)
    features = predict(judge, real.pixels).features
    process = process_of(pipeline.scheduler)
    print(
        f"{process.kind} process, {process.prediction_type}; n = {given.num_images} plain samples, seed {given.seed}, "
        f"guidance {given.guidance_scale}; judge {accuracy(judge, real):.4f} right on {len(real)} real images\n"
    )
    half = torch.randperm(len(features), generator=torch.Generator().manual_seed(given.seed))
    real = frechet(features[half[: given.num_images]], features[half[given.num_images :]])
    print(f"Frechet distance of {given.num_images} of those real images from the others: {real:.2f}\n")
    print("| sampler | evaluations | class accuracy | Frechet distance | error, exact model | between components |")
    print("|---|---|---|---|---|---|")
    points = []
    for sampler in valid_samplers(process):
        for evaluations in given.evaluations:
            # Heun's method takes two evaluations for each step but the last.
            steps = (evaluations + 1) // 2 if sampler == "heun" else evaluations
            pipeline.scheduler = make_scheduler(process, sampler)
            output = predict(judge, draw(pipeline, steps, given))
            right = (output.classes == labels(pipeline, given.num_images)).double().mean().item()
            made = 2 * steps - 1 if sampler == "heun" else steps
            # Its own noise takes ddpm elsewhere than the others, however many steps it makes.
            far, between = error(process, pipeline.scheduler, steps)
            exact = math.nan if sampler == "ddpm" else far
            point = Point(sampler, made, right, frechet(output.features, features), exact, between)
            cells = (sampler, made, f"{right:.3f}", f"{point.distance:.2f}", f"{exact:.1e}", f"{between:.3f}")
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            points.append(point)
    out = Path(given.output_dir) / "samplers.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    save_figure(out, plot(points))
    print(f"\n{out}")
    return 0


def labels(pipeline: ClassStylePipeline, count: int) -> Tensor:
    return torch.arange(count) % len(pipeline.class_names)


def draw(pipeline: ClassStylePipeline, steps: int, given: Arguments) -> Tensor:
    """Plain samples (N, C, H, W) uint8, the classes in turn."""
    images = sample_tensors(
        pipeline,
        class_labels=labels(pipeline, given.num_images).tolist(),
        guidance_scale=given.guidance_scale,
        style_guidance_scale=given.guidance_scale,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(given.seed),
    ).images
    return to_bytes(images)


def error(process: Process, scheduler: SchedulerMixin, steps: int) -> tuple[float, float]:
    """Where the model is exact, and components lie close: the mean distance of a coordinate from the solution with 500
    fourth-order steps, and the share between components."""
    objective = next(name for name, row in OBJECTIVES.items() if row.prediction_type == process.prediction_type)
    target = make_objective(ObjectiveConfig(objective=objective))
    noise = torch.randn((500, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = mixture.sample(target, process, make_scheduler(process, "ipndm"), 500, noise, mixture.CLOSE)
    drawn = mixture.sample(target, process, scheduler, steps, noise, mixture.CLOSE)
    return (drawn - exact).abs().mean().item(), mixture.CLOSE.between(drawn)


def plot(points: Sequence[Point]) -> Figure:
    """The distance of the model's samples, and the error of the exact model, against evaluations."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    marks = "osD^vPX"
    for number, sampler in enumerate(dict.fromkeys(point.sampler for point in points)):
        own = [point for point in points if point.sampler == sampler]
        for axes, name in zip(panels, ("distance", "error")):
            values = [getattr(point, name) for point in own]
            axes.plot([point.evaluations for point in own], values, marker=marks[number % 7], label=sampler)
    for axes, title in zip(panels, ("Frechet distance in the judge's features", "error where the model is exact")):
        axes.set(title=title, xlabel="evaluations", xscale="log", yscale="log")
        ticks = sorted({point.evaluations for point in points if point.sampler != "heun"})  # whose odd ones lie beside
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].legend()
    return figure


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
