"""The process and its reverse: strips, curves and bars; nothing depends on colour."""

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hfdiff.data.table import to_unit_range
from hfdiff.evaluation.trajectory import Forward, Histogram, Recognised, Reverse, recognised_share
from hfdiff.figures.curves import legend_below
from hfdiff.figures.grids import headed, labelled_grid

LOG_SNR_LIMIT = 12.0
LOG_SNR = f"log-SNR  ln(α²/σ²), cut at ±{LOG_SNR_LIMIT:g}"


def forward_strip(forward: Forward, class_names: Sequence[str]) -> Figure:
    """A row for each class, from clean to noise; above each column the share of the time, and the log-SNR."""
    columns = list(range(0, len(forward.places), 2))
    names = [f"{forward.places[i]:.0%}\n{_log_snr_label(forward.log_snr[i])}" for i in columns]
    images = to_unit_range(forward.images[:, columns].flatten(0, 1))
    figure = labelled_grid(images, [class_names[i] for i in forward.class_ids], names)
    return headed(figure, "share of the process's time, and below it the log-SNR ln(α²/σ²)")


def forward_curve(forward: Forward) -> Figure:
    """The judge's accuracy on noised images over the process's time and over log-SNR."""
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
    legend_below(figure, over_time)
    return figure


def reverse_strip(reverse: Reverse, class_names: Sequence[str], class_ids: Sequence[int]) -> Figure:
    """Two rows for each class, x_t and the predicted clean image, at eleven points from noise to the end."""
    last = len(reverse.shares) - 1
    points = sorted({round(last * i / 10) for i in range(11)})
    rows = [reverse.class_ids.index(i) for i in class_ids]
    pairs = torch.stack([reverse.noisy[rows], reverse.clean[rows]], dim=1)[:, :, points]
    names = [f"{class_names[i]}: {what}" for i in class_ids for what in ("x_t", "predicted")]
    columns = [f"{reverse.shares[i]:.0%}\n{_log_snr_label(reverse.log_snr[i])}" for i in points]
    figure = labelled_grid(to_unit_range(pairs.flatten(0, 2)), names, columns)
    return headed(figure, "share of the reverse process, and below it the log-SNR ln(α²/σ²)")


def recognition_figure(
    reverse: Reverse, clean: Sequence[Recognised], noisy: Sequence[Recognised], title: str
) -> Figure:
    """The share of images recognised over the reverse process, and when each class is, the earliest on top.

    `clean` and `noisy`: what the judge says of the predicted clean image and of x_t, class by class, then of all.
    """
    order = sorted(range(len(clean) - 1), key=lambda i: (clean[i].shares[1], sum(clean[i].shares)), reverse=True)
    figure = Figure(figsize=(10, 4.2 + 0.32 * len(order)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(2, 2, sharey="row", sharex="col", height_ratios=(3, 1.2 + 0.32 * len(order)))
    axes_of = {"shares": (grid[0, 0], grid[1, 0]), "log_snr": (grid[0, 1], grid[1, 1])}
    for key, (curve, dots) in axes_of.items():
        x = _clipped(getattr(reverse, key))
        curve.plot(x, recognised_share(reverse, reverse.clean_verdicts), "k-", label="predicted clean image")
        curve.plot(x, recognised_share(reverse, reverse.noisy_verdicts), "k--", label="x_t itself")
        curve.set_xlim(*_margins(x))
        _whiskers(dots, [clean[i] for i in order], key, 0.12, "o", filled=True)
        _whiskers(dots, [noisy[i] for i in order], key, -0.18, "s", filled=False)
    grid[0, 0].axvspan(0.3, 0.4, facecolor="none", edgecolor="0.7", hatch="///", label="30–40%: what people report")
    grid[0, 0].set(ylabel="share of images recognised for good", ylim=(0, 1.02))
    legend_below(figure, grid[0, 0])
    names = [f"{clean[i].name}{f' ({clean[i].never:.0%} never)' if clean[i].never else ''}" for i in order]
    grid[1, 0].set_yticks(range(len(order)), names)
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


def _margins(x: Tensor) -> tuple[float, float]:
    gap = 0.04 * (x[-1] - x[0]).item()
    return x[0].item() - gap, x[-1].item() + gap
