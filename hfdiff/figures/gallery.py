"""`hfdiff show`: a model explained in figures, each with a text for those who cannot see it, and its numbers."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image

from hfdiff.core.errors import first_line
from hfdiff.core.files import write_file
from hfdiff.data.table import ImageTable, to_bytes, to_unit_range
from hfdiff.evaluation.judge import Judge, predict, right_scores
from hfdiff.evaluation.memorisation import nearest
from hfdiff.evaluation.trajectory import (
    Recognised,
    Reverse,
    measure_forward,
    measure_reverse,
    recognition,
    score_histogram,
)
from hfdiff.figures.curves import loss_curves, quality_curves, quality_points
from hfdiff.figures.evolution import evolution as animate
from hfdiff.figures.grids import STRENGTHS, class_style_grid, labelled_grid, save_figure, style_sweep
from hfdiff.figures.trajectory import forward_curve, forward_strip, histogram_figure, recognition_figure, reverse_strip
from hfdiff.models.objectives import OBJECTIVES
from hfdiff.models.samplers import process_of, sampler_of
from hfdiff.models.sampling import sample_tensors
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.run_folder import RunFolder

MAX_CLASSES = 10
FEW_CLASSES = 3  # where each class takes several rows
SIDE_BY_SIDE = 8  # samples of a class beside their nearest training images


@dataclass(frozen=True)
class GalleryFigure:
    """One figure."""

    file: str
    content: Figure | bytes
    alt: str
    numbers: dict[str, Any]  # as JSON takes them

    def write(self, folder: Path) -> None:
        if isinstance(self.content, bytes):
            write_file(folder / self.file, self.content)
        else:
            save_figure(folder / self.file, self.content)


@dataclass(frozen=True)
class GalleryInputs:
    """What is shown, and how."""

    pipeline: ClassStylePipeline
    judge: Judge
    real: ImageTable  # images that the judge was not trained on
    training: ImageTable  # what the model was trained on
    run: RunFolder | None
    seed: int
    num_images: int  # of each class, where they are counted
    num_inference_steps: int
    guidance: dict[str, Any]  # arguments of the pipeline
    log: Callable[[str], None] = print

    @property
    def class_names(self) -> list[str]:
        return self.pipeline.class_names

    @property
    def class_ids(self) -> list[int]:
        return list(range(min(MAX_CLASSES, len(self.class_names))))

    @property
    def few_class_ids(self) -> list[int]:
        """Some classes, spread over all."""
        last, few = len(self.class_ids) - 1, min(FEW_CLASSES, len(self.class_ids))
        return [self.class_ids[i * last // max(1, few - 1)] for i in range(few)]

    @property
    def objective(self) -> str:
        prediction_type = process_of(self.pipeline.scheduler).prediction_type
        return next(name for name, row in OBJECTIVES.items() if row.prediction_type == prediction_type)

    @property
    def protocol(self) -> dict[str, Any]:
        """How the images of the reverse process were drawn."""
        return {
            "objective": self.objective,
            "sampler": sampler_of(self.pipeline.scheduler),
            "num_inference_steps": self.num_inference_steps,
            "num_images_per_class": self.num_images,
            "seed": self.seed,
            **guidance_of(self.pipeline, self.guidance),
        }

    @cached_property
    def reverse(self) -> Reverse:
        return measure_reverse(
            self.pipeline,
            self.judge,
            self.class_ids,
            num_images=self.num_images,
            num_inference_steps=self.num_inference_steps,
            seed=self.seed,
            **self.guidance,
        )


def guidance_of(pipeline: ClassStylePipeline, given: dict[str, Any]) -> dict[str, float]:
    """The scales in force: those given, else the pipeline's own."""
    defaults = inspect.signature(type(pipeline).__call__).parameters
    return {key: given.get(key, defaults[key].default) for key in ("guidance_scale", "style_guidance_scale")}


def show(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    """Every figure that applies; what does not is said in one line."""
    for draw in (forward, reverse, scores, grid, sweep, near_duplicates, losses, evolution):
        for shown in draw(inputs):
            yield replace(shown, numbers=numbers(shown.numbers))


def forward(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    scheduler = inputs.pipeline.scheduler
    found = measure_forward(scheduler, inputs.judge, inputs.real, inputs.class_ids, seed=inputs.seed)
    names = [inputs.class_names[i] for i in found.class_ids]
    settings = {"objective": inputs.objective, "num_images": found.num_images, "seed": inputs.seed}
    yield GalleryFigure(
        "forward.png",
        forward_strip(found, inputs.class_names),
        f"One real image each of {listed(names)}, left to right ever noisier, until only noise is left.",
        settings | {"places": found.places.tolist(), "log_snr": found.log_snr.tolist()},
    )
    lost = "it never falls half-way to chance"
    if found.lost:
        lost = (
            f"it falls half-way to chance at {found.lost.place:.0%} of the process's time, "
            f"at a log-SNR of {found.lost.log_snr:.1f}"
        )
    yield GalleryFigure(
        "forward_judge.png",
        forward_curve(found),
        f"Curve of the judge's accuracy on {found.num_images} noised real images, from {found.accuracy[0]:.0%} on "
        f"clean ones to {found.accuracy[-1]:.0%} at the end; {lost}.",
        settings
        | {"accuracy": found.accuracy.tolist(), "chance": found.chance}
        | {"lost": None if found.lost is None else asdict(found.lost)},
    )


def reverse(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    found, names = inputs.reverse, inputs.class_names
    few = inputs.few_class_ids
    yield GalleryFigure(
        "reverse.png",
        reverse_strip(found, names, few),
        f"A {listed([names[i] for i in few])} out of noise, left to right: above the noisy image x_t, below it the "
        "clean image that the model predicts from it, first blurred, then sharp.",
        inputs.protocol | {"log_snr": found.log_snr.tolist()},
    )
    clean = recognition(found, found.clean_verdicts, names)
    noisy = recognition(found, found.noisy_verdicts, names)
    of_noise = f"of pure noise the judge says {names[found.said_of_noise]}"
    inputs.log(f"{recognition_table(clean, noisy)}\n{of_noise}: for that class, x_t tells nothing")
    yield GalleryFigure(
        "recognition.png",
        recognition_figure(found, clean, noisy, f"{protocol_title(inputs)}; {of_noise}"),
        "When the judge first names the class asked for and keeps to it. In the predicted clean image the median is "
        f"{percent(clean[-1].shares[1])} of the reverse process, {extremes(clean)}; in the noisy image itself "
        f"{percent(noisy[-1].shares[1])}. Never recognised: {clean[-1].never:.0%} of the images.",
        inputs.protocol
        | {"predicted_clean": [asdict(row) for row in clean]}
        | {"noisy": [asdict(row) for row in noisy], "said_of_noise": names[found.said_of_noise]},
    )


def scores(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    real = right_scores(predict(inputs.judge, inputs.real.pixels), inputs.real.labels)
    found = score_histogram(inputs.reverse.scores, real)
    means = {"generated": inputs.reverse.scores.mean().item(), "real": real.mean().item()}
    yield GalleryFigure(
        "judge_scores.png",
        histogram_figure(found, protocol_title(inputs)),
        f"Histogram of the judge's probability of the right class: on average {means['generated']:.2f} for "
        f"{found.num_generated} generated images and {means['real']:.2f} for {found.num_real} real ones.",
        inputs.protocol
        | {"edges": found.edges.tolist(), "means": means}
        | {key: getattr(found, key).tolist() for key in ("generated", "real")}
        | {key: getattr(found, key) for key in ("num_generated", "num_real")},
    )


def grid(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    yield classes_and_styles(inputs.pipeline, inputs.class_ids, inputs.seed, **inputs.guidance)


def classes_and_styles(
    pipeline: ClassStylePipeline, class_ids: Sequence[int], seed: int, **guidance: Any
) -> GalleryFigure:
    drawn = class_style_grid(pipeline, class_ids, seed=seed, **guidance)
    return GalleryFigure(
        "classes_and_styles.png",
        drawn.figure(),
        f"Grid of generated images. Rows: {listed(drawn.rows)}. Columns: {listed(drawn.columns)}; along a row only "
        "the style differs.",
        {"seed": seed, **guidance_of(pipeline, guidance)},
    )


def sweep(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    if not inputs.pipeline.style_names:
        return inputs.log("style_strengths.png left out: the model has no styles")
    drawn = style_sweep(inputs.pipeline, inputs.few_class_ids, seed=inputs.seed, **inputs.guidance)
    yield GalleryFigure(
        "style_strengths.png",
        drawn.figure(),
        f"Generated images whose style grows from strength 0 at the left to 1 at the right. Rows: "
        f"{'; '.join(drawn.rows)}.",
        {"seed": inputs.seed, "strengths": list(STRENGTHS)} | guidance_of(inputs.pipeline, inputs.guidance),
    )


def near_duplicates(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    ids, count = inputs.few_class_ids, SIDE_BY_SIDE
    generators = [torch.Generator().manual_seed(inputs.seed + i) for i in range(len(ids) * count)]
    arguments = {"num_images_per_label": count, "generator": generators, **inputs.guidance}
    images = sample_tensors(inputs.pipeline, ids, **arguments).images
    found, training = nearest(to_bytes(images), inputs.training.pixels), inputs.training
    blocks = torch.stack([images, to_unit_range(training.pixels[found.rows])]).unflatten(1, (len(ids), count))
    rows = [text for i in ids for text in (inputs.class_names[i], "nearest in training")]
    yield GalleryFigure(
        "nearest.png",
        labelled_grid(blocks.transpose(0, 1).flatten(0, 2), rows, [""], count),
        f"Rows in pairs: generated images, {listed([inputs.class_names[i] for i in ids])}, and below each the "
        f"nearest of {len(training):,} training images, shifted, mirrored, brighter or not. A near-duplicate would "
        "stand out.",
        {"seed": inputs.seed, "closeness": found.closeness.tolist()} | guidance_of(inputs.pipeline, inputs.guidance),
    )


def losses(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    if inputs.run is None:
        return inputs.log("losses.png left out: no run's metrics.jsonl beside the model")
    yield from curves(inputs.run.metrics, inputs.log)


def curves(metrics: Path, log: Callable[[str], None]) -> Iterator[GalleryFigure]:
    """The curves of a run's metrics.jsonl."""
    if not metrics.is_file():
        return log("losses.png left out: no run's metrics.jsonl beside the model")
    try:
        losses, points = loss_curves(metrics), quality_points(metrics)
        quality = quality_curves(points) if len(points) > 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        return log(f"losses.png left out: {metrics} is damaged")
    yield GalleryFigure(
        "losses.png",
        losses,
        "Training and validation loss, and the learning rate, over the training images seen.",
        {},
    )
    if quality:
        yield GalleryFigure(
            "quality.png",
            quality,
            f"Class accuracy of {points[-1]['quality_n']:,} samples over the training images seen, in the end "
            f"{points[-1]['class_accuracy']:.2f}, and their Frechet distance against the validation loss.",
            {"points": points},
        )


def evolution(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    files = samples_of(inputs.run) if inputs.run else []
    if len(files) < 2:
        return inputs.log(f"evolution.webp left out: it needs two images of a run on its way, here are {len(files)}")
    try:
        animation = animate(files)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's, of damaged files
        return inputs.log(f"evolution.webp left out: {first_line(error)}")
    yield GalleryFigure(
        "evolution.webp",
        animation,
        f"Animation of {len(files)} grids of classes and styles, drawn from the same noise during training.",
        {"images_seen": [int(file.stem.partition("-")[2]) for file in files]},
    )


def samples_of(run: RunFolder) -> list[Path]:
    """What a run drew on its way, the oldest first."""
    files = sorted(run.samples.glob("images-*.png"))
    return [file for file in files if file.stem.partition("-")[2].isdecimal()]


def recognition_table(clean: list[Recognised], noisy: list[Recognised]) -> str:
    """When the judge recognises each class: quartiles of the share of the reverse process, and log-SNR."""
    wide = max(len(row.name) for row in clean)
    head = f"{'recognised at':<{wide}}    25%  median    75%  log-SNR   never   x_t: median   never"
    lines = [
        f"{c.name:<{wide}}  {percent(c.shares[0]):>5}  {percent(c.shares[1]):>6}  {percent(c.shares[2]):>5}"
        f"  {c.log_snr[1]:>7.1f}  {c.never:>6.0%}   {percent(x.shares[1]):>11}  {x.never:>6.0%}"
        for c, x in zip(clean, noisy, strict=True)
    ]
    return "\n".join([head, *lines])


def protocol_title(inputs: GalleryInputs) -> str:
    p = inputs.protocol
    return (
        f"{p['objective']}, {p['sampler']} with {p['num_inference_steps']} steps, guidance {p['guidance_scale']:g}, "
        f"n = {p['num_images_per_class']} for each class, seed {p['seed']}"
    )


def extremes(rows: list[Recognised]) -> str:
    """The earliest and the latest class in words."""
    ordered = sorted(rows[:-1], key=lambda row: row.shares[1])
    first, last = ordered[0], ordered[-1]
    return f"from {percent(first.shares[1])} ({first.name}) to {percent(last.shares[1])} ({last.name})"


def percent(share: float) -> str:
    return "never" if math.isinf(share) else f"{share:.0%}"


def listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def numbers(value: Any) -> Any:
    """For JSON, which knows no infinity; rounded to the measurement's precision."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(item) for item in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else str(value)
    return value
