"""The process and its reverse: strips, curves and bars; nothing depends on colour."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hfdiff.data.table import to_unit_range
from hfdiff.evaluation.trajectory import (
    Forward,
    Histogram,
    Recognised,
    Recognition,
    Reverse,
    linear_betas,
    recognised_share,
    steps_done,
)
from hfdiff.figures.curves import legend_below
from hfdiff.figures.grids import headed, labelled_grid

LOG_SNR_LIMIT = 10.0
LOG_SNR = f"log-SNR  ln(α²/σ²), cut at ±{LOG_SNR_LIMIT:g}"


def forward_strip(forward: Forward, class_names: Sequence[str]) -> Figure:
    """A row for each class, from clean to noise; above each column the share of the time, and the log-SNR."""
    columns = list(range(0, len(forward.places), 2))
    names = [f"{forward.places[i]:.0%}\n{_log_snr_label(forward.log_snr[i])}" for i in columns]
    images = to_unit_range(forward.images[:, columns].flatten(0, 1))
    figure = labelled_grid(images, [class_names[i] for i in forward.class_ids], names)
    return headed(figure, "share of the process's time, and below it the log-SNR ln(α²/σ²)")


def forward_curve(forward: Forward) -> Figure:
    """The accuracy of the judge of noised images, with its 95% interval, over log-SNR; above it the process's time and
    the steps of DDPM's linear betas."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    x = _clipped(forward.log_snr)
    axes.fill_between(x, *forward.intervals.T, color="0.5", alpha=0.2, linewidth=0)
    axes.plot(x, forward.accuracy, "o-k", markersize=4, label="accuracy on x_t")
    axes.axhline(forward.chance, color="0.5", linestyle=":", label="chance")
    if lost := forward.lost:
        axes.axvline(lost.log_snr, color="0.3", linestyle="--", label=f"half-way to chance: {lost.log_snr:.1f}")
    label = f"first class parts, by covariance: {forward.speciation:.1f}"
    axes.axvline(forward.speciation, color="0.3", linestyle="-.", label=label)
    axes.set(xlabel=f"{LOG_SNR} (clean to noise)", ylabel="share of classes named", ylim=(0, 1))
    axes.set_xlim(LOG_SNR_LIMIT + 0.4, -LOG_SNR_LIMIT - 0.4)
    levels = torch.linspace(-LOG_SNR_LIMIT, LOG_SNR_LIMIT, 401)
    noised = 1 - steps_done(linear_betas(), levels).flip(0)
    _share_axis(axes, 1.0, x, forward.places, "share of the process's time")
    _share_axis(axes, 1.15, levels.flip(0), noised, "share of the 1,000 steps of DDPM's linear betas")
    legend_below(figure, axes)
    return figure


def reverse_strip(reverse: Reverse, class_names: Sequence[str], class_ids: Sequence[int]) -> Figure:
    """Two rows for each class, x_t and the clean image predicted from it without the class, at eleven points from noise
    to the end."""
    last = len(reverse.shares) - 1
    points = sorted({round(last * i / 10) for i in range(11)})
    rows = [reverse.class_ids.index(i) for i in class_ids]
    pairs = torch.stack([reverse.noisy[rows], reverse.clean[rows]], dim=1)[:, :, points]
    names = [f"{class_names[i]}: {what}" for i in class_ids for what in ("x_t", "predicted")]
    columns = [f"{reverse.shares[i]:.0%}\n{_log_snr_label(reverse.log_snr[i])}" for i in points]
    figure = labelled_grid(to_unit_range(pairs.flatten(0, 2)), names, columns)
    return headed(figure, "share of the reverse process, and below it the log-SNR ln(α²/σ²)")


def recognition_figure(runs: Sequence[Recognition], title: str) -> Figure:
    """The share of images recognised over the reverse process, by both judges with their 95% intervals, and when each
    class is, the earliest on top; a column for each of the runs, which have the same classes."""
    order = sorted(range(len(runs[0].state) - 1), key=lambda i: runs[0].state[i].log_snr[1], reverse=True)
    figure = Figure(figsize=(1 + 4.8 * len(runs), 4.8 + 0.34 * len(order)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    heights = (3, 1 + 0.3 * len(order))
    grid = figure.subplots(2, len(runs), sharey="row", sharex="all", squeeze=False, height_ratios=heights)
    for run, curve, dots in zip(runs, *grid, strict=True):
        _curves(curve, run)
        _whiskers(dots, [run.state[i] for i in order], 0.15, "s", filled=True)
        _whiskers(dots, [run.predicted[i] for i in order], -0.17, "o", filled=False)
        dots.set(xlabel=LOG_SNR, xlim=(-LOG_SNR_LIMIT - 0.4, LOG_SNR_LIMIT + 0.4), ylim=(-0.6, len(order) - 0.4))
        for axes in (curve, dots):
            axes.grid(axis="x", color="0.9")
    grid[0, 0].set(ylabel="share of images recognised for good", ylim=(0, 1.02))
    grid[1, 0].set_yticks(range(len(order)), [runs[0].state[i].name for i in order])
    grid[1, 0].set_ylabel("median and its 95% interval")
    legend_below(figure, grid[0, 0])
    return figure


def _curves(axes: Axes, run: Recognition) -> None:
    """Over log-SNR, with the sampler's steps and those of DDPM's linear betas above."""
    x = _clipped(run.reverse.log_snr)
    for reading, line, label in (
        (run.reverse.state, "s-", "x_t itself, by the judge of noised images"),
        (run.reverse.predicted, "o--", "clean image predicted without the class"),
    ):
        share, interval = recognised_share(run.reverse, reading)
        axes.fill_between(x, *interval.T, color="0.5", alpha=0.2, linewidth=0)
        fill = "full" if line == "s-" else "none"
        axes.plot(x, share, line, color="black", markersize=3, fillstyle=fill, linewidth=1, label=label)
    levels = torch.linspace(-LOG_SNR_LIMIT, LOG_SNR_LIMIT, 401)
    linear = steps_done(linear_betas(), levels)
    reported = np.interp((0.3, 0.4), linear, levels)
    axes.axvspan(*reported, facecolor="none", edgecolor="0.6", hatch="///", label="30–40% of linear betas' steps")
    axes.set_title(run.label, fontsize=9)
    _share_axis(axes, 1.0, x, run.reverse.shares, "share of the sampler's steps")
    _share_axis(axes, 1.17, levels, linear, "share of the steps of DDPM's linear betas")


def _share_axis(axes: Axes, place: float, levels: Tensor, shares: Tensor, name: str) -> None:
    """Above the curves, shares of a schedule's steps at their log-SNR."""
    ticks = [tick for tick in (0.1, 0.3, 0.5, 0.7, 0.9) if shares[0] < tick < shares[-1]]
    above = axes.secondary_xaxis(place)
    above.set_xticks(np.interp(ticks, shares, levels).tolist(), [f"{tick:.0%}" for tick in ticks], fontsize=7)
    above.set_xlabel(name, fontsize=8)


def _whiskers(axes: Axes, rows: Sequence[Recognised], offset: float, marker: str, filled: bool) -> None:
    """A median in its interval on a line for each row; what is never recognised has no mark."""
    low, high = _clipped(torch.tensor([row.log_snr_interval for row in rows])).T
    never = torch.tensor([math.isinf(row.shares[1]) for row in rows])
    median = _clipped(torch.tensor([row.log_snr[1] for row in rows])).where(~never, math.nan)
    y = torch.arange(len(rows)) + offset
    axes.hlines(y, low.where(~never, math.nan), high, "black", "-" if filled else "--", linewidth=1)
    style = "full" if filled else "none"
    axes.plot(median, y, marker, color="black", markersize=5, fillstyle=style)


def histogram_figure(histogram: Histogram, title: str) -> Figure:
    """Scores of generated and of real images: hatched bars, and a dashed outline."""
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
    axes.set(xlabel="judge's probability of the right class", ylabel="share of images", xlim=(0, 1))
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, loc="upper left")
    return figure


def _log_snr_label(value: Tensor) -> str:
    """A log-SNR as a short text."""
    if math.isinf(value):
        return "noise" if value < 0 else "clean"
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0.0"


def _clipped(values: Tensor) -> Tensor:
    """Shares as they are, log-SNR within what can be seen: beyond, all is clean or all is noise."""
    return values.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
