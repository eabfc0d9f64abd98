"""Curves over a run; they differ by line and marker, and nothing depends on colour."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from hfdiff.figures.grids import LITERAL


def loss_curves(metrics: Path) -> Figure:
    """Training and validation loss and the learning rate over the images seen, from a run's metrics.jsonl."""
    points = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([p["images"] for p in points], [p["loss"] for p in points], color="0.6", label="training loss")
    validated = [p for p in points if p["val_loss"] is not None]
    axes.plot(
        [p["images"] for p in validated],
        [p["val_loss"] for p in validated],
        "o-k",
        markersize=4,
        label="validation loss (EMA weights)",
    )
    axes.set(xlabel="training images seen", ylabel="loss", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(1.5, 2, 3, 5, 7)))
    axes.yaxis.set_minor_formatter("{x:g}")
    rate = axes.twinx()
    rate.plot([p["images"] for p in points], [p["lr"] for p in points], ":", color="tab:blue", label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    legend_below(figure)
    return figure


def quality_points(metrics: Path) -> list[dict[str, float]]:
    """The log points of a run where the quality of samples was measured."""
    points = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
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
    legend_below(figure)
    return figure


def style_levels(report: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Style -> what was measured at each strength asked for, of the styles of a report that were measured at several;
    none in older reports."""
    styles = report["metrics"].get("style_fidelity", {}).get("per_style", {})
    return [(name, row["levels"]) for name, row in styles.items() if row.get("levels")]


def style_strengths(report: Mapping[str, Any]) -> Figure:
    """Measured over asked strength of samples and of real images, with 95% intervals: a panel for each style."""
    levels = style_levels(report)
    across = len(levels) if len(levels) <= 4 else min(4, -(-len(levels) // 2))
    down = -(-len(levels) // across)
    figure = Figure(figsize=(1 + 1.8 * across, 0.8 + 1.8 * down), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    for i, (axes, (name, rows)) in enumerate(zip(panels, levels)):
        axes.plot([0, 1], [0, 1], ":", color="0.7")
        _with_intervals(axes, rows, "measured", "ci95", "o-", color="black", label="samples")
        _with_intervals(axes, rows, "real", "real_ci95", "s--", color="tab:blue", label="real images")
        axes.set_title(name, fontsize=9, **LITERAL)
        axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), ylabel="" if i % across else "strength measured")
        if i + across >= len(levels):  # nothing below
            axes.set_xlabel("strength asked for")
            axes.tick_params(labelbottom=True)
    for axes in panels[len(levels) :]:
        axes.set_visible(False)
    legend_below(figure, panels[0])
    return figure


def _with_intervals(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, interval: str, fmt: str, **k: Any) -> None:
    """The values of levels over the strengths asked for, each with its 95% interval, where there is one."""
    points = [(row["asked"], row[key], row[interval] or (row[key], row[key])) for row in rows if row[key] is not None]
    lower, upper = [value - low for _, value, (low, _) in points], [high - value for _, value, (_, high) in points]
    asked, values = [point[0] for point in points], [point[1] for point in points]
    axes.errorbar(asked, values, yerr=[lower, upper], fmt=fmt, markersize=4, linewidth=1, capsize=2, **k)


def legend_below(figure: Figure, *axes: Axes) -> None:
    """One legend of these axes (by default all), where it hides nothing."""
    pairs = [pair for a in axes or figure.axes for pair in zip(*a.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*pairs, strict=True), fontsize=8, loc="outside lower center", ncols=len(pairs))
