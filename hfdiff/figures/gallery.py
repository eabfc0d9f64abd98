"""`hfdiff show`: a model explained in figures, each with a text for those who cannot see it, and its numbers."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from hfdiff.core.errors import first_line
from hfdiff.core.files import write_file
from hfdiff.data.styles import LEVELS
from hfdiff.data.table import ImageTable, to_bytes, to_unit_range
from hfdiff.evaluation.judge import Judge, predict, right_scores
from hfdiff.evaluation.memorisation import nearest
from hfdiff.evaluation.trajectory import (
    Recognised,
    Recognition,
    Reverse,
    detail,
    measure_forward,
    measure_reverse,
    recognised_share,
    recognition_of,
    score_histogram,
)
from hfdiff.figures.curves import loss_curves, quality_curves, quality_points
from hfdiff.figures.evolution import evolution as animate
from hfdiff.figures.grids import class_style_grid, labelled_grid, save_figure, style_sweep
from hfdiff.figures.trajectory import forward_curve, forward_strip, histogram_figure, recognition_figure, reverse_strip
from hfdiff.models.objectives import OBJECTIVES
from hfdiff.models.samplers import process_of, sampler_of
from hfdiff.models.sampling import generators, sample_tensors
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
    noised_judge: Judge
    real: ImageTable  # images that neither judge was trained on
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
    def reverses(self) -> list[tuple[str, Reverse]]:
        """The reverse process with its guidance, and where there is any, first without, each with its name."""
        scales = guidance_of(self.pipeline, self.guidance)
        guided = {"autoguidance_scale": 1.0} | self.guidance | scales
        plain = guided | dict.fromkeys((*scales, "autoguidance_scale"), 1.0)
        return [(named(given), self._reverse(given)) for given in ([plain, guided] if guided != plain else [guided])]

    def _reverse(self, guidance: dict[str, Any]) -> Reverse:
        return measure_reverse(
            self.pipeline,
            self.judge,
            self.noised_judge,
            self.class_ids,
            num_images=self.num_images,
            num_inference_steps=self.num_inference_steps,
            seed=self.seed,
            **guidance,
        )

    @property
    def reverse(self) -> Reverse:
        """With guidance, as images are drawn."""
        return self.reverses[-1][1]


def named(guidance: dict[str, Any]) -> str:
    scale, of_styles, auto = (guidance.get(f"{kind}guidance_scale", 1.0) for kind in ("", "style_", "auto"))
    if scale == of_styles == auto == 1:
        return "without guidance"
    said = [f"guidance {scale:g}", *([f"of styles {of_styles:g}"] if of_styles != scale else [])]
    return ", ".join([*said, *([f"autoguidance {auto:g}"] if auto != 1 else [])])


def guidance_of(pipeline: ClassStylePipeline, given: dict[str, Any]) -> dict[str, float]:
    """The scales in force: those given, else the pipeline's own."""
    settings = pipeline.settings(**given)
    return {key: settings[key] for key in ("guidance_scale", "style_guidance_scale")}


def show(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    """Every figure that applies; what does not is said in one line."""
    for draw in (forward, reverse, scores, grid, sweep, near_duplicates, losses, evolution):
        for shown in draw(inputs):
            yield replace(shown, numbers=numbers(shown.numbers))


def forward(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    scheduler = inputs.pipeline.scheduler
    found = measure_forward(scheduler, inputs.noised_judge, inputs.real, inputs.class_ids, seed=inputs.seed)
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
        low, high = found.lost.linear_beta_interval
        lost = (
            f"it falls half-way to chance at a log-SNR of {found.lost.log_snr:.1f}, which is {found.lost.place:.0%} of "
            f"the process's time and step {found.lost.linear_beta_step:.0f} ({low:.0f} to {high:.0f}) of the 1,000 of "
            "DDPM's linear betas"
        )
    inputs.log(f"structure lost: of the judge's accuracy on {found.num_images} noised images, {lost}")
    yield GalleryFigure(
        "forward_judge.png",
        forward_curve(found),
        f"Curve of the accuracy of the judge of noised images on {found.num_images} real images, from "
        f"{found.accuracy[0]:.0%} on clean ones to {found.accuracy[-1]:.0%} at the end; {lost}.",
        settings
        | {"accuracy": found.accuracy.tolist(), "intervals": found.intervals.tolist(), "chance": found.chance}
        | {"lost": None if found.lost is None else asdict(found.lost), "speciation": found.speciation},
    )


def reverse(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    found, names = inputs.reverse, inputs.class_names
    few = inputs.few_class_ids
    yield GalleryFigure(
        "reverse.png",
        reverse_strip(found, names, few),
        f"A {listed([names[i] for i in few])} out of noise, left to right: above the noisy image x_t, below it the "
        "clean image that the model predicts from it without the class, first blurred, then sharp.",
        inputs.protocol | {"log_snr": found.log_snr.tolist()},
    )
    runs = [recognition_of(label, reverse, names) for label, reverse in inputs.reverses]
    for run in runs:
        inputs.log(f"recognised for good, {run.label}\n{recognition_table(run)}\n{of_noise(run, names)}")
    textured = detail(inputs.real)[found.class_ids]
    yield GalleryFigure(
        "recognition.png",
        recognition_figure(runs, f"{protocol_title(inputs, guided=False)}; {of_noise(runs[-1], names)}"),
        "When two judges first name the class asked for and keep to it. "
        + " ".join(recognised_in_words(run) for run in runs),
        inputs.protocol
        | {"detail": dict(zip([names[i] for i in found.class_ids], textured.tolist(), strict=True))}
        | {run.label: recognition_numbers(run, names, textured) for run in runs},
    )


def recognised_in_words(run: Recognition) -> str:
    """The medians of a run, log-SNR first."""
    state, predicted = run.state[-1], run.predicted[-1]
    if math.isinf(state.shares[1]):
        middle = "more than half are never recognised"
    else:
        middle = (
            f"the median is a log-SNR of {level(state.log_snr[1])} ({percent(state.shares[1])} of the sampler's steps, "
            f"{percent(state.linear_beta_shares[1])} of those of DDPM's linear betas), {extremes(run.state)}"
        )
    end = (
        "never"
        if math.isinf(predicted.shares[1])
        else f"{level(predicted.log_snr[1])} ({percent(predicted.shares[1])})"
    )
    return (
        f"{run.label[0].upper()}{run.label[1:]}, in the noisy image x_t {middle}; in the clean image predicted without "
        f"the class {end}. Never recognised: {predicted.never:.0%} of {predicted.num_images}."
    )


def recognition_numbers(run: Recognition, names: Sequence[str], textured: Tensor) -> dict[str, Any]:
    """Of both judges; is what is textured recognised later?"""
    reverse = run.reverse
    found: dict[str, Any] = {"log_snr": reverse.log_snr.tolist()}
    for name, reading, rows in (
        ("x_t", reverse.state, run.state),
        ("predicted_without_class", reverse.predicted, run.predicted),
    ):
        share, intervals = recognised_share(reverse, reading)
        found[name] = {
            "classes": [asdict(row) for row in rows],
            "said_of_noise": names[reading.said_of_noise],
            "recognised": share.tolist(),
            "intervals": intervals.tolist(),
            "mean_probability": reading.scores.mean(dim=0, dtype=torch.float64).tolist(),
            "rank_correlation_with_detail": rank_correlation([row.log_snr[1] for row in rows[:-1]], textured),
        }
    return found


def rank_correlation(levels: Sequence[float], textured: Tensor) -> float | None:
    """Spearman's, of the classes' log-SNR and their detail; None where either does not vary."""
    found = torch.tensor(levels, dtype=torch.float64).clamp(-1e6, 1e6)
    if min(len(found.unique()), len(textured.unique())) < 2:
        return None
    return spearman_corrcoef(found, textured).item()


def scores(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    real = right_scores(predict(inputs.judge, inputs.real.pixels), inputs.real.labels)
    generated = inputs.reverse.predicted.scores[:, -1]
    found = score_histogram(generated, real)
    means = {"generated": generated.mean().item(), "real": real.mean().item()}
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
        {"seed": inputs.seed, "strengths": list(LEVELS)} | guidance_of(inputs.pipeline, inputs.guidance),
    )


def near_duplicates(inputs: GalleryInputs) -> Iterator[GalleryFigure]:
    ids, count = inputs.few_class_ids, SIDE_BY_SIDE
    drawn = generators(range(len(ids) * count), inputs.seed, "nearest")
    arguments = {"num_images_per_label": count, "generator": drawn, **inputs.guidance}
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


def recognition_table(run: Recognition) -> str:
    """When each class is recognised: the median log-SNR and its 95% interval, then shares of steps."""
    wide = max(len(row.name) for row in run.state)
    head = f"{'':<{wide}}  x_t: log-SNR     95%       steps  linear betas  never   predicted: log-SNR  steps  never"
    lines = [
        f"{x.name:<{wide}}  {level(x.log_snr[1]):>12}  {between(x.log_snr_interval):>12}  {percent(x.shares[1]):>5}"
        f"  {percent(x.linear_beta_shares[1]):>12}  {x.never:>5.0%}   {level(p.log_snr[1]):>18}"
        f"  {percent(p.shares[1]):>5}  {p.never:>5.0%}"
        for x, p in zip(run.state, run.predicted, strict=True)
    ]
    return "\n".join([head, *lines])


def between(ends: tuple[float, float]) -> str:
    return f"{level(ends[0])} to {level(ends[1])}"


def level(log_snr: float) -> str:
    if math.isinf(log_snr):
        return "noise" if log_snr < 0 else "clean"
    return f"{log_snr:.1f}"


def of_noise(run: Recognition, names: Sequence[str]) -> str:
    """What both judges see in pure noise: of that class, the start tells nothing."""
    state, predicted = (names[reading.said_of_noise] for reading in (run.reverse.state, run.reverse.predicted))
    return f"of pure noise the judges say {state} and {predicted}"


def protocol_title(inputs: GalleryInputs, guided: bool = True) -> str:
    p = inputs.protocol
    guidance = f"guidance {p['guidance_scale']:g}, " if guided else ""
    return (
        f"{p['objective']}, {p['sampler']} with {p['num_inference_steps']} steps, {guidance}"
        f"n = {p['num_images_per_class']} for each class, seed {p['seed']}"
    )


def extremes(rows: list[Recognised]) -> str:
    """The earliest and the latest class in words."""
    ordered = sorted(rows[:-1], key=lambda row: row.log_snr[1])
    first, last = ordered[0], ordered[-1]
    return f"from {level(first.log_snr[1])} ({first.name}) to {level(last.log_snr[1])} ({last.name})"


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
