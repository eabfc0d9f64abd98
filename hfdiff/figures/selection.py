"""The best and the worst of a selection."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from hfdiff.evaluation.selection import Selection


def selection_figure(rows: Sequence[tuple[str, Tensor, Sequence[str]]]) -> Figure:
    """Rows of images (n, C, H, W) in [0, 1], each with its name and a text under each image."""
    across = max(len(images) for _, images, _ in rows)
    figure = Figure(figsize=(0.85 * across + 1.6, 1.05 * len(rows)))
    axes = figure.subplots(len(rows), across, squeeze=False)
    for places, (name, images, texts) in zip(axes, rows):
        places[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for place in places:
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
        for place, image, text in zip(places, images, texts):
            place.imshow(image.permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            place.set_xlabel(text, fontsize=8, labelpad=2)
    figure.subplots_adjust(hspace=0.3, wspace=0.05)
    return figure


def figure_of_selection(selection: Selection) -> Figure:
    """The best and the worst of each class and style, with their total scores."""
    rows = []
    for cell in selection.cells:
        parts = {"best": slice(cell.top_k)} | ({"worst": slice(-cell.top_k, None)} if cell.all_finished else {})
        for name, part in parts.items():
            texts = [f"{value:.3f}" for value in cell.scores[part, -1].tolist()]
            rows.append((f"{cell.name}, {name}", cell.images[part], texts))
    return selection_figure(rows)
