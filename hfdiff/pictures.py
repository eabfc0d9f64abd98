"""Grids and curves. Pictures come in as (N, C, H, W) float32 in [0, 1].

Curves differ by line and marker, bars by hatching: nothing depends on colour.
"""

import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hfdiff.core.files import write_file
from hfdiff.data.table import to_unit_range
from hfdiff.explain import Forward, Histogram, Recognised, Reverse, recognised_share
from hfdiff.models.sampling import sample_tensors
from hfdiff.pipelines import PLAIN, ClassStylePipeline

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LOG_SNR_LIMIT = 12.0
LOG_SNR = f"log-SNR  ln(α²/σ²), cut at ±{LOG_SNR_LIMIT:g}"


def save_picture(target: Path, figure: Figure, dpi: int = 150) -> None:
    """Write the figure as PNG, complete or not at all."""
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in letters that the font lacks
        figure.savefig(png, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    write_file(target, png.getvalue())


def labelled_grid(images: Tensor, rows: Sequence[str], columns: Sequence[str], per_cell: int = 1) -> Figure:
    """One block of `per_cell` pictures for each (row, column), given row by row, cell by cell."""
    _, channels, height, width = images.shape
    across = len(columns) * per_cell
    sheet = images.reshape(len(rows), across, channels, height, width)
    gap = max(1, width // 14)
    canvas = torch.ones(channels, len(rows) * (height + gap), across * width + len(columns) * gap)
    for r in range(len(rows)):
        for c in range(across):
            top, left = r * (height + gap), c * width + (c // per_cell) * gap
            canvas[:, top : top + height, left : left + width] = sheet[r, c]
    scale = 0.55 / width if per_cell * width > 60 else 0.75 / width
    figure = Figure(figsize=(canvas.shape[2] * scale + 1.2, canvas.shape[1] * scale + 0.4))
    axes = figure.subplots()
    axes.imshow(canvas.permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([r * (height + gap) + height / 2 for r in range(len(rows))], rows, fontsize=9, parse_math=False)
    axes.set_xticks(
        [(c + 0.5) * (per_cell * width + gap) - gap / 2 for c in range(len(columns))],
        columns,
        fontsize=9,
        parse_math=False,
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def loss_curves(metrics: Path) -> Figure:
    """Training and validation loss and the learning rate over the images seen, from a run's metrics.jsonl."""
    points = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([p["images"] for p in points], [p["loss"] for p in points], color="0.6", label="training loss")
    validated = [p for p in points if p["val_loss"] is not None]
    axes.plot(
        [p["images"] for p in validated],
        [p["val_loss"] for p in validated],
        "o-k",
        markersize=4,
        label="validation loss (averaged weights)",
    )
    axes.set(xlabel="training images seen", ylabel="loss", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(1.5, 2, 3, 5, 7)))
    axes.yaxis.set_minor_formatter("{x:g}")
    rate = axes.twinx()
    rate.plot([p["images"] for p in points], [p["lr"] for p in points], ":", color="tab:blue", label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    _legend_below(figure)
    return figure


def quality_points(metrics: Path) -> list[dict[str, float]]:
    """The log points of a run where the quality of samples was measured."""
    points = map(json.loads, metrics.read_text().splitlines())
    return [point for point in points if "class_accuracy" in point]


def quality_curves(points: Sequence[dict[str, float]]) -> Figure:
    """Class accuracy over the images seen; with distances, those too, and whether lower loss means nearer samples."""
    measured = [p for p in points if "frechet_judge" in p]
    figure = Figure(figsize=(10 if measured else 5, 4), layout="constrained")
    over_time, *rest = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    images = [p["images"] for p in points]
    over_time.plot(images, [p["class_accuracy"] for p in points], "o-k", label="class accuracy")
    title = f"{points[-1]['quality_n']:,} samples"
    over_time.set(xlabel="training images seen", ylabel="class accuracy", ylim=(0, 1), title=title)
    over_time.xaxis.set_major_locator(MaxNLocator(5))
    over_time.xaxis.set_major_formatter("{x:,.0f}")
    for against_loss in rest:
        losses, distances = ([p[key] for p in measured] for key in ("val_loss", "frechet_judge"))
        right = over_time.twinx()
        right.plot([p["images"] for p in measured], distances, "s--", color="tab:blue", label="Frechet distance")
        right.set(ylabel="Frechet distance, judge's features", ylim=(0, None))
        against_loss.plot(losses, distances, "s--", color="tab:blue")
        for i in {0, len(measured) - 1}:
            text = f"{measured[i]['images']:,} images"
            against_loss.annotate(
                text, (losses[i], distances[i]), xytext=(0, 8), textcoords="offset points", ha="center"
            )
        against_loss.margins(0.2)
        title = "does lower loss mean nearer samples?"
        against_loss.set(xlabel="validation loss", ylabel="Frechet distance", title=title)
    _legend_below(figure)
    return figure


@dataclass(frozen=True)
class Grid:
    """Pictures of every (row, column), row by row, with what each shows."""

    images: Tensor  # (rows * columns * per_cell, C, H, W) float32 in [0, 1]
    rows: list[str]
    columns: list[str]
    per_cell: int
    class_labels: list[int | None]  # of each picture
    styles: list[dict[str, float]]  # of each picture
    heading: str = ""

    def figure(self) -> Figure:
        return _headed(labelled_grid(self.images, self.rows, self.columns, self.per_cell), self.heading)


def class_style_grid(
    pipeline: ClassStylePipeline,
    class_ids: Sequence[int] | None = None,
    styles: Sequence[str] | None = None,
    *,
    per_cell: int = 1,
    seed: int = 0,
    **arguments: Any,
) -> Grid:
    """Draw every class in every style (by default all classes, plain and each style at full strength).

    Along a row the noise is the same, so that only the style differs.
    """
    ids = list(range(len(pipeline.class_names)) if class_ids is None else class_ids)
    columns = [PLAIN, *pipeline.style_names] if styles is None else list(styles)
    numbers = [row * per_cell + i for row in range(len(ids)) for _ in columns for i in range(per_cell)]
    out = sample_tensors(
        pipeline,
        class_labels=[i for i in ids for _ in columns],
        styles=columns * len(ids),
        num_images_per_label=per_cell,
        generator=[torch.Generator().manual_seed(seed + number) for number in numbers],
        **arguments,
    )
    rows = [pipeline.class_names[i] for i in ids]
    return Grid(out.images, rows, columns, per_cell, out.class_labels, out.styles)


def style_sweep(pipeline: ClassStylePipeline, class_ids: Sequence[int], *, seed: int = 0, **arguments: Any) -> Grid:
    """Every style at five strengths, for these classes; all pictures of a class begin with the same noise."""
    pairs = [(i, style) for i in class_ids for style in pipeline.style_names]
    out = sample_tensors(
        pipeline,
        class_labels=[i for i, _ in pairs for _ in STRENGTHS],
        styles=[{style: strength} for _, style in pairs for strength in STRENGTHS],
        generator=[torch.Generator().manual_seed(seed + i) for i, _ in pairs for _ in STRENGTHS],
        **arguments,
    )
    rows = [f"{pipeline.class_names[i]}, {style}" for i, style in pairs]
    return Grid(
        out.images,
        rows,
        [f"{strength:g}" for strength in STRENGTHS],
        1,
        out.class_labels,
        out.styles,
        "strength of the style",
    )


def overview(pipeline: ClassStylePipeline, seed: int, **arguments: Any) -> Grid:
    """What training draws: ten classes at most, plain and in every style."""
    return class_style_grid(pipeline, range(min(10, len(pipeline.class_names))), seed=seed, **arguments)


def selection_figure(rows: Sequence[tuple[str, Tensor, Sequence[str]]]) -> Figure:
    """Rows of pictures (n, C, H, W) in [0, 1], each with its name and a text under each picture."""
    across = max(len(images) for _, images, _ in rows)
    figure = Figure(figsize=(0.85 * across + 1.6, 1.05 * len(rows)))
    axes = figure.subplots(len(rows), across, squeeze=False)
    for places, (name, images, texts) in zip(axes, rows):
        places[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)
        for place in places:
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
        for place, image, text in zip(places, images, texts):
            place.imshow(image.permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            place.set_xlabel(text, fontsize=8, labelpad=2)
    figure.subplots_adjust(hspace=0.3, wspace=0.05)
    return figure


def forward_strip(forward: Forward, class_names: Sequence[str]) -> Figure:
    """A row for each class, from clean to noise; above each column the share of the time, and the log-SNR."""
    columns = list(range(0, len(forward.places), 2))
    names = [f"{forward.places[i]:.0%}\n{_number(forward.log_snr[i])}" for i in columns]
    images = to_unit_range(forward.images[:, columns].flatten(0, 1))
    figure = labelled_grid(images, [class_names[i] for i in forward.class_ids], names)
    return _headed(figure, "share of the process's time, and below it the log-SNR ln(α²/σ²)")


def forward_curve(forward: Forward) -> Figure:
    """The judge's accuracy on noised pictures over the process's time and over log-SNR."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    over_time, over_snr = figure.subplots(1, 2, sharey=True)
    lost = forward.lost
    for axes, x, place in (
        (over_time, forward.places, lost and lost.place),
        (over_snr, _clipped(forward.log_snr), lost and lost.log_snr),
    ):
        axes.plot(x, forward.accuracy, "o-k", markersize=4, label="judge's accuracy")
        axes.axhline(forward.chance, color="0.5", linestyle=":", label="chance")
        if place is not None:
            axes.axvline(place, color="0.3", linestyle="--", label="half-way to chance")
    over_time.set(xlabel="share of the process's time (clean to noise)", ylabel="share of classes named", ylim=(0, 1))
    over_snr.set(xlabel=f"{LOG_SNR} (clean to noise)")
    over_snr.invert_xaxis()
    if lost is not None:
        over_time.annotate(f" {lost.place:.0%}", (lost.place, 0.93))
        over_snr.annotate(f" {lost.log_snr:.1f}", (lost.log_snr, 0.93))
    _legend_below(figure, over_time)
    return figure


def reverse_strip(reverse: Reverse, class_names: Sequence[str], class_ids: Sequence[int]) -> Figure:
    """Two rows for each class, x_t and the predicted clean picture, at eleven points from noise to the end."""
    last = len(reverse.shares) - 1
    points = sorted({round(last * i / 10) for i in range(11)})
    rows = [reverse.class_ids.index(i) for i in class_ids]
    pairs = torch.stack([reverse.noisy[rows], reverse.clean[rows]], dim=1)[:, :, points]
    names = [f"{class_names[i]}: {what}" for i in class_ids for what in ("x_t", "predicted")]
    columns = [f"{reverse.shares[i]:.0%}\n{_number(reverse.log_snr[i])}" for i in points]
    figure = labelled_grid(to_unit_range(pairs.flatten(0, 2)), names, columns)
    return _headed(figure, "share of the reverse process, and below it the log-SNR ln(α²/σ²)")


def recognition_figure(
    reverse: Reverse, clean: Sequence[Recognised], noisy: Sequence[Recognised], title: str
) -> Figure:
    """The share of pictures recognised over the reverse process, and when each class is, the earliest on top.

    `clean` and `noisy`: what the judge says of the predicted clean picture and of x_t, class by class, then of all.
    """
    order = sorted(range(len(clean) - 1), key=lambda i: (clean[i].shares[1], sum(clean[i].shares)), reverse=True)
    figure = Figure(figsize=(10, 4.2 + 0.32 * len(order)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(2, 2, sharey="row", sharex="col", height_ratios=(3, 1.2 + 0.32 * len(order)))
    axes_of = {"shares": (grid[0, 0], grid[1, 0]), "log_snr": (grid[0, 1], grid[1, 1])}
    for key, (curve, dots) in axes_of.items():
        x = _clipped(getattr(reverse, key))
        curve.plot(x, recognised_share(reverse, reverse.clean_verdicts), "k-", label="predicted clean picture")
        curve.plot(x, recognised_share(reverse, reverse.noisy_verdicts), "k--", label="x_t itself")
        curve.set_xlim(*_margins(x))
        _whiskers(dots, [clean[i] for i in order], key, 0.12, "o", filled=True)
        _whiskers(dots, [noisy[i] for i in order], key, -0.18, "s", filled=False)
    grid[0, 0].axvspan(0.3, 0.4, facecolor="none", edgecolor="0.7", hatch="///", label="30–40%: what people report")
    grid[0, 0].set(ylabel="share of pictures recognised for good", ylim=(0, 1.02))
    _legend_below(figure, grid[0, 0])
    names = [f"{clean[i].name}{f' ({clean[i].never:.0%} never)' if clean[i].never else ''}" for i in order]
    grid[1, 0].set_yticks(range(len(order)), names, parse_math=False)
    grid[1, 0].set_ylim(-0.6, len(order) - 0.4)
    grid[1, 0].set(xlabel="share of the reverse process", ylabel="median and quartiles")
    grid[1, 1].set(xlabel=f"{LOG_SNR} (noise to clean)")
    for axes in grid.flat:
        axes.grid(axis="x", color="0.9")
    return figure


def _whiskers(axes: Axes, rows: Sequence[Recognised], key: str, offset: float, marker: str, filled: bool) -> None:
    """A median between its quartiles on a line for each row; what is never recognised has no mark."""
    never = torch.tensor([row.shares for row in rows]).isinf()
    low, median, high = _clipped(torch.tensor([getattr(row, key) for row in rows])).T
    y = torch.arange(len(rows)) + offset
    end = high.where(~never[:, 2], axes.get_xlim()[1])
    axes.hlines(y, low.where(~never[:, 0], math.nan), end, "black", "-" if filled else "--", linewidth=1)
    style = "full" if filled else "none"
    axes.plot(median.where(~never[:, 1], math.nan), y, marker, color="black", markersize=5, fillstyle=style)


def histogram_figure(histogram: Histogram, title: str) -> Figure:
    """Scores of generated and of real pictures: hatched bars, and a dashed outline."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.stairs(
        histogram.generated, histogram.edges, fill=True, facecolor="0.85", edgecolor="0.3", hatch="///",
        label=f"generated (n = {histogram.num_generated:,})",
    )  # fmt: skip
    axes.stairs(
        histogram.real, histogram.edges, color="black", linestyle="--", linewidth=1.5,
        label=f"real (n = {histogram.num_real:,})",
    )  # fmt: skip
    axes.set(xlabel="judge's probability of the right class", ylabel="share of pictures", xlim=(0, 1))
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, loc="upper left")
    return figure


def evolution(files: Sequence[Path], seconds: float = 0.8) -> bytes:
    """The samples of a run, images-NUMBER.png, as an animated WebP that says after how many images each was drawn."""
    pictures = [Image.open(file).convert("RGB") for file in files]
    width, height = (max(picture.size[i] for picture in pictures) for i in (0, 1))
    bar = max(24, width // 20)
    frames = []
    for file, picture in zip(files, pictures, strict=True):
        frame = Image.new("RGB", (width, height + bar), "white")
        frame.paste(picture, (width - picture.width, bar))
        count = int(file.stem.partition("-")[2])
        text = f"after {count:,} training images"
        ImageDraw.Draw(frame).text((bar // 3, bar // 6), text, "black", ImageFont.load_default(size=bar * 0.65))
        frames.append(frame)
    durations = [round(1000 * seconds)] * (len(frames) - 1) + [round(3000 * seconds)]
    webp = io.BytesIO()
    frames[0].save(webp, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=80)
    return webp.getvalue()


def _legend_below(figure: Figure, *axes: Axes) -> None:
    """One legend of these axes (by default all), where it hides nothing."""
    pairs = [pair for a in axes or figure.axes for pair in zip(*a.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*pairs, strict=True), fontsize=8, loc="outside lower center", ncols=len(pairs))


def _headed(figure: Figure, text: str) -> Figure:
    figure.axes[0].set_title(text, fontsize=9)
    return figure


def _number(value: Tensor) -> str:
    """A log-SNR as a short text."""
    if math.isinf(value):
        return "noise" if value < 0 else "clean"
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0.0"


def _clipped(values: Tensor) -> Tensor:
    """Shares as they are, log-SNR within what can be seen: beyond, all is clean or all is noise."""
    return values.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def _margins(x: Tensor) -> tuple[float, float]:
    gap = 0.04 * (x[-1] - x[0]).item()
    return x[0].item() - gap, x[-1].item() + gap
