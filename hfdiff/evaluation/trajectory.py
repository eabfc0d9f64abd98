"""Where noise hides the class of an image, and where the reverse process has decided on it.

Two judges read the same x_t. The judge of noised images, conditioned on the log-SNR, reads x_t itself; the judge of
clean images reads the one that the model predicts from x_t without the class. Neither reads what the model is
conditioned on: a prediction with the class would show it at pure noise.

Log-SNR is ln(alpha^2 / sigma^2): it compares objectives, whose time axes and samplers' steps differ. Noised images
are shown and judged as x_t / sqrt(alpha^2 + sigma^2), so that one log-SNR looks the same for every objective.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from torch import Tensor
from torch.distributions import Binomial

from hfdiff.data.table import ImageTable, to_bytes, to_model_range, to_unit_range
from hfdiff.evaluation.judge import Judge, class_probabilities, predict
from hfdiff.evaluation.statistics import wilson
from hfdiff.models.objectives import betas_of, timestep_at
from hfdiff.models.samplers import NUM_TIMESTEPS, Process, make_scheduler, process_of
from hfdiff.models.sampling import generators, sample_tensors
from hfdiff.pipelines import ClassStylePipeline, noise_levels, predicted_clean

NUM_PLACES = 21
NUM_BINS = 20
NUM_RESAMPLES = 200  # of the bootstrap
Interval = tuple[float, float]  # 95%


def log_snr(scheduler: SchedulerMixin, timesteps: Tensor) -> Tensor:
    """ln(alpha^2 / sigma^2) at timesteps of any shape, float64; infinite without noise or signal."""
    alpha, sigma = noise_levels(scheduler, timesteps)
    return 2 * (alpha / sigma).log()


@cache
def linear_betas() -> SchedulerMixin:
    """The schedule of Ho et al. 2020, Section 4: 1,000 steps whose betas rise linearly from 1e-4 to 0.02."""
    return make_scheduler(Process("discrete", "epsilon", betas_of("linear")), "ddpm")


def steps_done(scheduler: SchedulerMixin, levels: Tensor | Sequence[float]) -> Tensor:
    """The share of the equal steps in time, from noise, that a schedule has done when it comes to these log-SNR:
    float64, from 0 at or before its noise to 1 at or after its clean images.

    The share at which something happens is the schedule's; its log-SNR is not. So what one process finds at a share
    of its steps can be held against what another does.
    """
    places = torch.linspace(1, 0, 10_001, dtype=torch.float64)
    known = log_snr(scheduler, timestep_at(process_of(scheduler), places)).clamp(-1e6, 1e6)
    wanted = torch.as_tensor(levels, dtype=torch.float64).clamp(-1e6, 1e6)
    return torch.from_numpy(np.asarray(np.interp(wanted.numpy(), known.numpy(), 1 - places.numpy())))


def speciation(table: ImageTable) -> float:
    """The log-SNR at which the first of the classes parts from the others, by the images alone: sigma / alpha is the
    square root of the largest eigenvalue of the covariance between the classes (Biroli et al. 2024,
    https://arxiv.org/abs/2402.18491, Section 3)."""
    counts = torch.bincount(table.labels, minlength=len(table.class_names)).double()
    sums = torch.zeros(len(counts), table.pixels[0].numel(), dtype=torch.float64)
    for pixels, labels in zip(table.pixels.split(1000), table.labels.split(1000)):
        sums.index_add_(0, labels, to_model_range(pixels).flatten(1).double())
    means = sums / counts.clamp(1)[:, None]
    between = (counts / counts.sum()).sqrt()[:, None] * (means - sums.sum(dim=0) / counts.sum())
    return -2 * torch.linalg.matrix_norm(between, 2).log().item()


def detail(table: ImageTable) -> Tensor:
    """How textured each class is (K,) float64: the mean step between neighbouring pixels, in [0, 1]; NaN without
    images."""
    each = torch.cat([_steps(to_unit_range(part)) for part in table.pixels.split(1000)]).double()
    return torch.stack([each[table.labels == i].mean() for i in range(len(table.class_names))])


def _steps(images: Tensor) -> Tensor:
    """The mean step between neighbouring pixels of each of images (N, C, H, W): (N,)."""
    down, right = (images.diff(dim=dim).abs().mean(dim=(1, 2, 3)) for dim in (2, 3))
    return (down + right) / 2


@dataclass(frozen=True)
class Lost:
    """Where the accuracy on noised images falls half-way from clean to chance."""

    log_snr: float
    log_snr_interval: Interval
    place: float  # share of the process's time, clean to noise
    place_interval: Interval
    linear_beta_step: float  # of the 1,000 of `linear_betas`, clean to noise
    linear_beta_interval: Interval


@dataclass(frozen=True)
class Forward:
    """Real images at T places of the process."""

    places: Tensor  # (T,) float64: share of the process's time, from 0, clean, to 1, noise
    log_snr: Tensor  # (T,) float64
    accuracy: Tensor  # (T,) float64: share of images whose class the judge of noised images names
    intervals: Tensor  # (T, 2) float64: 95% of each
    num_images: int
    chance: float
    lost: Lost | None  # None where noise never hides the class
    speciation: float  # log-SNR
    class_ids: list[int]
    images: Tensor  # (K, T, C, H, W) uint8, one row for each class id


def measure_forward(
    scheduler: SchedulerMixin,
    noised_judge: Judge,
    table: ImageTable,
    class_ids: Sequence[int],
    *,
    num_images: int = 500,
    seed: int = 0,
) -> Forward:
    """Noise real images of all classes to places evenly spread over the process's time, each along one draw of noise;
    one image of each of `class_ids` is kept."""
    generator = torch.Generator().manual_seed(seed)
    level_of_split = speciation(table)
    table = table.part(torch.randperm(len(table), generator=generator)[:num_images])
    clean = to_model_range(table.pixels)
    noise = torch.randn(clean.shape, generator=generator)
    places = torch.linspace(0, 1, NUM_PLACES, dtype=torch.float64)
    timesteps = timestep_at(process_of(scheduler), places)
    levels = log_snr(scheduler, timesteps)
    first = _first_of_each(table.labels, class_ids)
    right, images = [], []
    for alpha, sigma, level in zip(*noise_levels(scheduler, timesteps), levels.tolist(), strict=True):
        x = ((alpha * clean + sigma * noise) / math.hypot(alpha, sigma)).float()
        right.append(class_probabilities(noised_judge, x, level).argmax(dim=1) == table.labels)
        images.append(_to_uint8(x[list(first.values())]))
    hits, chance = torch.stack(right, dim=1), 1 / len(table.class_names)
    return Forward(
        places=places,
        log_snr=levels,
        accuracy=hits.double().mean(dim=0),
        intervals=torch.tensor([wilson(column) for column in hits.T], dtype=torch.float64),
        num_images=len(table),
        chance=chance,
        lost=_lost(scheduler, places, hits, chance, generator),
        speciation=level_of_split,
        class_ids=list(first),
        images=torch.stack(images, dim=1),
    )


def falls_to(places: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """The first place where the straight lines between `values` fall to `level`; None where they never do."""
    for i in range(1, len(values)):
        if values[i] <= level < values[i - 1]:
            share = (values[i - 1] - level) / (values[i - 1] - values[i])
            return places[i - 1] + share * (places[i] - places[i - 1])
    return None


def _lost(
    scheduler: SchedulerMixin, places: Tensor, hits: Tensor, chance: float, generator: torch.Generator
) -> Lost | None:
    """From what is right (N, T) bool, with the bootstrap over images (Efron & Tibshirani 1993, Section 13.3)."""

    def half_way(rows: Tensor) -> float | None:
        accuracy = hits[rows].double().mean(dim=0).tolist()
        return falls_to(places.tolist(), accuracy, (accuracy[0] + chance) / 2)

    count = len(hits)
    place = half_way(torch.arange(count))
    if place is None:
        return None
    draws = [half_way(torch.randint(count, (count,), generator=generator)) for _ in range(NUM_RESAMPLES)]
    spread = torch.tensor([draw for draw in draws if draw is not None] or [place], dtype=torch.float64)
    low, high = spread.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    at = torch.tensor([place, low, high], dtype=torch.float64)
    levels = log_snr(scheduler, timestep_at(process_of(scheduler), at))
    steps = (NUM_TIMESTEPS * (1 - steps_done(linear_betas(), levels))).tolist()
    level, last, first = levels.tolist()
    return Lost(level, (first, last), place, (low, high), steps[0], (steps[1], steps[2]))


def _first_of_each(labels: Tensor, class_ids: Sequence[int]) -> dict[int, int]:
    """Class id -> row of its first image, for the classes that have one."""
    return {i: labels.tolist().index(i) for i in class_ids if i in labels}


def _to_uint8(images: Tensor) -> Tensor:
    """[-1, 1], cut off there -> uint8."""
    return to_bytes((images.float() / 2 + 0.5).clamp(0, 1))


@dataclass(frozen=True)
class Reading:
    """What a judge says of N images at each of T + 1 points."""

    classes: Tensor  # (N, T + 1) int64
    scores: Tensor  # (N, T + 1) float32: its probability of the class asked for

    @property
    def said_of_noise(self) -> int:
        """The class named most at the start: it is recognised before it is there, so its row tells nothing."""
        return int(self.classes[:, 0].mode().values)


@dataclass(frozen=True)
class Reverse:
    """N images on their way from noise, at each of T evaluations of the network, and as they end: T + 1 points. Each
    begins with a noise of its own, so that all N are independent."""

    class_ids: list[int]
    asked: Tensor  # (N,) int64: the class asked for, class by class
    shares: Tensor  # (T + 1,) float64: evaluations done of all, 0 to 1
    log_snr: Tensor  # (T + 1,) float64, rising; infinite at the end
    state: Reading  # by the judge of noised images, of x_t
    predicted: Reading  # by the judge of clean ones, of the clean image predicted from x_t without the class
    noisy: Tensor  # (K, T + 1, C, H, W) uint8: x_t, the first image of each class id
    clean: Tensor  # (K, T + 1, C, H, W) uint8: predicted from it without the class


@dataclass(frozen=True)
class _Seen:
    """A part of the images at one point."""

    state: Tensor  # (B, K) probabilities
    predicted: Tensor  # (B, K)
    noisy: Tensor  # (B', C, H, W) uint8, of the rows kept
    clean: Tensor


class TrajectoryRecorder:
    """A `callback_on_step_end` by which two judges read every x_t. `kept`: the rows whose images are kept."""

    def __init__(self, judge: Judge, noised_judge: Judge, kept: Sequence[int]):
        self.judge, self.noised_judge, self.kept = judge, noised_judge, kept
        self.levels: list[float] = []  # log-SNR of each evaluation
        self.points: list[list[_Seen]] = []  # of each evaluation, part by part
        self.seen = self.size = 0  # rows of the parts before this one, and in it

    def __call__(self, pipeline: ClassStylePipeline, index: int, t: Tensor, tensors: dict[str, Tensor]) -> None:
        x = tensors["model_input"]
        if index == 0:
            self.seen, self.size = self.seen + self.size, len(x)
        level = log_snr(pipeline.scheduler, t).item()
        if index == len(self.points):
            self.levels.append(level)
            self.points.append([])
        alpha, sigma = noise_levels(pipeline.scheduler, t)
        clean = predicted_without_class(pipeline, x, t)
        rows = [row - self.seen for row in self.kept if 0 <= row - self.seen < len(x)]
        self.points[index].append(self.read((x / math.hypot(alpha, sigma)).float(), _to_uint8(clean), level, rows))

    def read(self, state: Tensor, clean: Tensor, level: float, rows: Sequence[int]) -> _Seen:
        return _Seen(
            class_probabilities(self.noised_judge, state, level),
            predict(self.judge, clean).logits.softmax(dim=1),
            _to_uint8(state[list(rows)]),
            clean[list(rows)],
        )


def predicted_without_class(pipeline: ClassStylePipeline, x: Tensor, t: Tensor) -> Tensor:
    """The clean images that the model predicts from its inputs (B, C, H, W) with class and styles unspecified."""
    prediction = pipeline.unet(x, t, None, None).sample
    return predicted_clean(pipeline.scheduler, x, prediction, t)


def measure_reverse(
    pipeline: ClassStylePipeline,
    judge: Judge,
    noised_judge: Judge,
    class_ids: Sequence[int],
    *,
    num_images: int = 20,
    num_inference_steps: int = 50,
    seed: int = 0,
    **arguments: Any,
) -> Reverse:
    """Draw plain images, `num_images` of each class, and let the judge of clean images and that of noised ones read
    them on their way. It takes one more evaluation of the network for each of the sampler's."""
    kept = range(0, len(class_ids) * num_images, num_images)
    recorder = TrajectoryRecorder(judge, noised_judge, kept)
    out = sample_tensors(
        pipeline,
        list(class_ids),
        num_images_per_label=num_images,
        num_inference_steps=num_inference_steps,
        generator=generators(range(len(class_ids) * num_images), seed, "reverse"),
        callback_on_step_end=recorder,
        **arguments,
    )
    ended = recorder.read(out.images * 2 - 1, to_bytes(out.images), math.inf, kept)
    points = [*recorder.points, [ended]]
    asked = torch.tensor(out.class_labels)
    return Reverse(
        class_ids=list(class_ids),
        asked=asked,
        shares=torch.linspace(0, 1, len(points), dtype=torch.float64),
        log_snr=torch.tensor([*recorder.levels, math.inf], dtype=torch.float64),
        state=_reading([[seen.state for seen in parts] for parts in points], asked),
        predicted=_reading([[seen.predicted for seen in parts] for parts in points], asked),
        noisy=torch.stack([torch.cat([seen.noisy for seen in parts]) for parts in points], dim=1),
        clean=torch.stack([torch.cat([seen.clean for seen in parts]) for parts in points], dim=1),
    )


def _reading(points: list[list[Tensor]], asked: Tensor) -> Reading:
    """From the probabilities (B, K) of each part at each point."""
    whole = [torch.cat(parts) for parts in points]
    classes = torch.stack([said.argmax(dim=1) for said in whole], dim=1)
    return Reading(classes, torch.stack([said.gather(1, asked[:, None])[:, 0] for said in whole], dim=1))


@dataclass(frozen=True)
class Recognised:
    """From when on a judge names the class asked for; quartiles count what is never recognised as infinitely late."""

    name: str
    num_images: int
    log_snr: tuple[float, float, float]  # quartiles
    log_snr_interval: Interval  # of the median
    shares: tuple[float, float, float]  # of the sampler's evaluations, at those points
    shares_interval: Interval
    linear_beta_shares: tuple[float, float, float]  # the same levels as shares of the steps of `linear_betas`
    never: float  # share of images


def recognised_from(classes: Tensor, asked: Tensor) -> Tensor:
    """The first of T points (N, T) from which on the class named is the class asked for (N,); T for never."""
    right = (classes == asked[:, None]).long()
    return classes.shape[1] - right.flip(1).cumprod(dim=1).sum(dim=1)


def recognition(reverse: Reverse, reading: Reading, class_names: Sequence[str]) -> list[Recognised]:
    """When each class is recognised, and then all of them together, in one of the readings of `reverse`."""
    first = recognised_from(reading.classes, reverse.asked)
    rows = [_recognised(class_names[i], first[reverse.asked == i], reverse) for i in reverse.class_ids]
    return [*rows, _recognised("together", first, reverse)]


def _recognised(name: str, first: Tensor, reverse: Reverse) -> Recognised:
    axes = [
        torch.cat([axis, torch.tensor([math.inf], dtype=torch.float64)]) for axis in (reverse.log_snr, reverse.shares)
    ]
    quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    points = first.double().quantile(quarters, interpolation="nearest").long()
    ends = median_interval(first)
    levels, shares = (tuple(axis[points].tolist()) for axis in axes)
    level_ends, share_ends = (tuple(axis[list(ends)].tolist()) for axis in axes)
    never = first == len(reverse.shares)
    equivalent = steps_done(linear_betas(), levels).where(~torch.tensor(shares).isinf(), math.inf)
    return Recognised(
        name=name,
        num_images=len(first),
        log_snr=levels,
        log_snr_interval=level_ends,
        shares=shares,
        shares_interval=share_ends,
        linear_beta_shares=tuple(equivalent.tolist()),
        never=never.double().mean().item(),
    )


def median_interval(values: Tensor) -> tuple[int, int]:
    """95% interval of the median of whole numbers (N,), whatever their distribution: the order statistics between
    which a fair coin's N heads fall (Conover 1999, Section 3.2); of fewer than six, the smallest and the largest."""
    n = len(values)
    below = Binomial(n, torch.tensor(0.5, dtype=torch.float64)).log_prob(torch.arange(n + 1)).exp().cumsum(0)
    k = int((below <= 0.025).sum())  # P(fewer than k of them lie below the median) <= 2.5%
    ordered = values.sort().values
    return int(ordered[max(0, k - 1)]), int(ordered[min(n - 1, n - k)])


@dataclass(frozen=True)
class Recognition:
    """One reverse process, and when each judge recognises each class, and all together, in it."""

    label: str
    reverse: Reverse
    state: list[Recognised]  # by the judge of noised images
    predicted: list[Recognised]  # by the judge of clean ones


def recognition_of(label: str, reverse: Reverse, class_names: Sequence[str]) -> Recognition:
    """By both judges."""
    state, predicted = (recognition(reverse, r, class_names) for r in (reverse.state, reverse.predicted))
    return Recognition(label, reverse, state, predicted)


def recognised_share(reverse: Reverse, reading: Reading) -> tuple[Tensor, Tensor]:
    """The share of images recognised by each point and for good (T + 1,) float64, and its 95% interval (T + 1, 2)."""
    first = recognised_from(reading.classes, reverse.asked)
    hits = first[:, None] <= torch.arange(len(reverse.shares))  # (N, T + 1)
    return hits.double().mean(dim=0), torch.tensor([wilson(column) for column in hits.T], dtype=torch.float64)


@dataclass(frozen=True)
class Histogram:
    """How the judge's probability of the right class is spread: shares of the images in bins of equal width."""

    edges: Tensor  # (NUM_BINS + 1,) from 0 to 1
    generated: Tensor  # (NUM_BINS,) float64, sums to 1
    real: Tensor  # (NUM_BINS,) float64, sums to 1
    num_generated: int
    num_real: int


def score_histogram(generated: Tensor, real: Tensor) -> Histogram:
    """The spread of scores in [0, 1] of generated and of real images."""
    edges = torch.linspace(0, 1, NUM_BINS + 1)
    ours, theirs = (torch.histogram(scores.float(), edges).hist.double() / len(scores) for scores in (generated, real))
    return Histogram(edges, ours, theirs, len(generated), len(real))
