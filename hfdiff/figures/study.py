"""The figure of a study: each variant's distance over the base's, with its interval."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure


def distance_ratios(rows: Sequence[tuple[str, float, float | None]], label: str) -> Figure:
    """`rows`: a name, the mean logarithm of the ratio, and half of its interval where there is one; 1 is the base."""
    figure = Figure(figsize=(7, 1.0 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (_, mean, half) in enumerate(rows):
        ends = [] if half is None else [math.exp(mean - half), math.exp(mean + half)]
        axes.plot(ends, [place] * len(ends), "-|k", markersize=8)
        axes.plot(math.exp(mean), place, "ok", markersize=4)
    axes.axvline(1, color="0.5", linestyle="--", linewidth=1)
    axes.set(yticks=range(len(rows)), yticklabels=[name for name, _, _ in rows], ylim=(len(rows) - 0.4, -0.6))
    axes.set(xlabel=label, xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.grid(axis="x", which="both", color="0.9")
    return figure
