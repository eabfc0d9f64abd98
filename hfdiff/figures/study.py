"""The figure of a study: each variant's distance, seed by seed or as an interval, beside the base's."""

from collections.abc import Sequence

from matplotlib.figure import Figure


def distances(rows: Sequence[tuple[str, float, float | None]], real: float, label: str) -> Figure:
    """`rows`: a name, a mean and half of its interval, the base first; `real`: the same of real images."""
    figure = Figure(figsize=(7, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (_, mean, half) in enumerate(rows):
        axes.errorbar(mean, place, xerr=half, fmt="sk" if place == 0 else "ok", markersize=4, capsize=3)
    axes.axvline(rows[0][1], color="0.7", linestyle="--", linewidth=1)
    axes.axvline(real, color="0.4", linestyle=":", linewidth=1)
    axes.text(real, len(rows) - 0.4, " real images", fontsize="small", va="center")
    axes.set(yticks=range(len(rows)), yticklabels=[name for name, _, _ in rows], ylim=(len(rows) - 0.2, -0.6))
    axes.set(xlabel=label, xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    return figure
