"""Grids. Images come in as (N, C, H, W) float32 in [0, 1]."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from hfdiff.core.files import write_file
from hfdiff.data.styles import LEVELS
from hfdiff.models.sampling import sample_tensors
from hfdiff.pipelines import PLAIN, ClassStylePipeline

LITERAL = {"parse_math": False, "usetex": False}  # names come from data: no sign in them begins a formula


def save_figure(target: Path, figure: Figure, dpi: int = 150) -> None:
    """Write the figure as PNG, complete or not at all; all its texts are drawn as they stand."""
    png = io.BytesIO()
    for text in figure.findobj(Text):
        text.set(**LITERAL)
    with warnings.catch_warnings(), rc_context({f"text.{key}": value for key, value in LITERAL.items()}):
        warnings.filterwarnings("ignore", "Glyph")  # a name in letters that the font lacks
        figure.savefig(png, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    write_file(target, png.getvalue())


def labelled_grid(images: Tensor, rows: Sequence[str], columns: Sequence[str], per_cell: int = 1) -> Figure:
    """One block of `per_cell` images for each (row, column), given row by row, cell by cell."""
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
    axes.set_yticks([r * (height + gap) + height / 2 for r in range(len(rows))], rows, fontsize=9)
    axes.set_xticks([(c + 0.5) * (per_cell * width + gap) - gap / 2 for c in range(len(columns))], columns, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


@dataclass(frozen=True)
class Grid:
    """Images of every (row, column), row by row, with what each shows."""

    images: Tensor  # (rows * columns * per_cell, C, H, W) float32 in [0, 1]
    rows: list[str]
    columns: list[str]
    per_cell: int
    class_labels: list[int | None]  # of each image
    styles: list[dict[str, float]]  # of each image
    heading: str = ""

    def figure(self) -> Figure:
        return headed(labelled_grid(self.images, self.rows, self.columns, self.per_cell), self.heading)


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
    """Every style at five strengths, for these classes; all images of a class begin with the same noise."""
    pairs = [(i, style) for i in class_ids for style in pipeline.style_names]
    out = sample_tensors(
        pipeline,
        class_labels=[i for i, _ in pairs for _ in LEVELS],
        styles=[{style: strength} for _, style in pairs for strength in LEVELS],
        generator=[torch.Generator().manual_seed(seed + i) for i, _ in pairs for _ in LEVELS],
        **arguments,
    )
    rows = [f"{pipeline.class_names[i]}, {style}" for i, style in pairs]
    return Grid(
        out.images,
        rows,
        [f"{strength:g}" for strength in LEVELS],
        1,
        out.class_labels,
        out.styles,
        "strength of the style",
    )


def overview(pipeline: ClassStylePipeline, seed: int, **arguments: Any) -> Grid:
    """What training draws: ten classes at most, plain and in every style."""
    return class_style_grid(pipeline, range(min(10, len(pipeline.class_names))), seed=seed, **arguments)


def headed(figure: Figure, text: str) -> Figure:
    figure.axes[0].set_title(text, fontsize=9)
    return figure
