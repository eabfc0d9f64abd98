"""What a judge sees of the process and of its reverse: where noise hides the class, and where the model has found it.

Log-SNR is ln(alpha^2 / sigma^2): it compares objectives, whose time axes and samplers' steps differ. Noised images
are shown and judged as x_t / sqrt(alpha^2 + sigma^2), so that one log-SNR looks the same for every objective.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from hfdiff.data.table import ImageTable, to_bytes, to_model_range
from hfdiff.evaluation.judge import Judge, predict, right_scores
from hfdiff.models.objectives import timestep_at
from hfdiff.models.samplers import process_of
from hfdiff.models.sampling import sample_tensors
from hfdiff.pipelines import ClassStylePipeline, noise_levels, predicted_clean

NUM_PLACES = 21
NUM_BINS = 20


@dataclass(frozen=True)
class Lost:
    """Where the judge's accuracy on noised images falls half-way from clean to chance."""

    place: float  # share of the process's time, clean to noise
    timestep: float  # as the network takes it
    log_snr: float


@dataclass(frozen=True)
class Forward:
    """Real images at T places of the process."""

    places: Tensor  # (T,) float64: share of the process's time, from 0, clean, to 1, noise
    log_snr: Tensor  # (T,) float64
    accuracy: Tensor  # (T,) float64: share of images whose class the judge names
    num_images: int
    chance: float
    lost: Lost | None  # None where noise never hides the class
    class_ids: list[int]
    images: Tensor  # (K, T, C, H, W) uint8, one row for each class id


@dataclass(frozen=True)
class Reverse:
    """N images on their way from noise, at each of T evaluations of the network, and as they end: T + 1 points."""

    class_ids: list[int]
    asked: Tensor  # (N,) int64: the class asked for, class by class
    shares: Tensor  # (T + 1,) float64: evaluations done of all, 0 to 1
    log_snr: Tensor  # (T + 1,) float64, rising; infinite at the end
    clean_verdicts: Tensor  # (N, T + 1) int64: what the judge says of the predicted clean image
    noisy_verdicts: Tensor  # (N, T + 1) int64: of x_t
    scores: Tensor  # (N,) float32: the judge's probability of the class asked for, at the end
    clean: Tensor  # (K, T + 1, C, H, W) uint8, the first image of each class id
    noisy: Tensor  # (K, T + 1, C, H, W) uint8

    @property
    def said_of_noise(self) -> int:
        """The class that the judge names most at the start: of x_t, it is recognised without being there."""
        return int(self.noisy_verdicts[:, 0].mode().values)


@dataclass(frozen=True)
class Recognised:
    """From when on the judge names the class asked for; quartiles count what is never recognised as infinitely late."""

    name: str
    num_images: int
    shares: tuple[float, float, float]  # quartiles of the share of the reverse process
    log_snr: tuple[float, float, float]  # at those points
    never: float  # share of images


@dataclass(frozen=True)
class Histogram:
    """How the judge's probability of the right class is spread: shares of the images in bins of equal width."""

    edges: Tensor  # (NUM_BINS + 1,) from 0 to 1
    generated: Tensor  # (NUM_BINS,) float64, sums to 1
    real: Tensor  # (NUM_BINS,) float64, sums to 1
    num_generated: int
    num_real: int


def log_snr(scheduler: SchedulerMixin, timesteps: Tensor) -> Tensor:
    """ln(alpha^2 / sigma^2) at timesteps of any shape, float64; infinite without noise or signal."""
    alpha, sigma = noise_levels(scheduler, timesteps)
    return 2 * (alpha / sigma).log()


def measure_forward(
    scheduler: SchedulerMixin,
    judge: Judge,
    table: ImageTable,
    class_ids: Sequence[int],
    *,
    num_images: int = 500,
    seed: int = 0,
) -> Forward:
    """Noise real images of all classes to places evenly spread over the process's time, each along one draw of noise;
    one image of each of `class_ids` is kept."""
    generator = torch.Generator().manual_seed(seed)
    table = table.part(torch.randperm(len(table), generator=generator)[:num_images])
    clean = to_model_range(table.pixels)
    noise = torch.randn(clean.shape, generator=generator)
    places = torch.linspace(0, 1, NUM_PLACES, dtype=torch.float64)
    timesteps = timestep_at(process_of(scheduler), places)
    first = _first_of_each(table.labels, class_ids)
    right, images = [], []
    for alpha, sigma in zip(*noise_levels(scheduler, timesteps)):
        pixels = _shown((alpha * clean + sigma * noise).float(), alpha, sigma)
        right.append((predict(judge, pixels).classes == table.labels).double().mean())
        images.append(pixels[list(first.values())])
    chance = 1 / len(table.class_names)
    accuracy = torch.stack(right)
    place = falls_to(places.tolist(), accuracy.tolist(), (accuracy[0].item() + chance) / 2)
    return Forward(
        places=places,
        log_snr=log_snr(scheduler, timesteps),
        accuracy=accuracy,
        num_images=len(table),
        chance=chance,
        lost=None if place is None else _lost_at(scheduler, place),
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


def _lost_at(scheduler: SchedulerMixin, place: float) -> Lost:
    timestep = timestep_at(process_of(scheduler), torch.tensor(place, dtype=torch.float64))
    return Lost(place, timestep.item(), log_snr(scheduler, timestep).item())


def _first_of_each(labels: Tensor, class_ids: Sequence[int]) -> dict[int, int]:
    """Class id -> row of its first image, for the classes that have one."""
    return {i: labels.tolist().index(i) for i in class_ids if i in labels}


def _shown(x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """x_t (N, C, H, W) -> uint8 at the contrast of the module's formula."""
    return _to_uint8(x / math.hypot(alpha, sigma))


def _to_uint8(images: Tensor) -> Tensor:
    """[-1, 1], cut off there -> uint8."""
    return to_bytes((images.float() / 2 + 0.5).clamp(0, 1))


class TrajectoryRecorder:
    """A `callback_on_step_end` that shows a judge each x_t and each predicted clean image."""

    def __init__(self, judge: Judge, kept: Sequence[int]):
        self.judge, self.kept = judge, kept
        self.timesteps: list[float] = []
        self.clean: list[list[Tensor]] = []  # of each evaluation, part by part: (B, C, H, W) uint8 of the rows kept
        self.noisy: list[list[Tensor]] = []
        self.clean_verdicts: list[list[Tensor]] = []
        self.noisy_verdicts: list[list[Tensor]] = []
        self.seen = self.size = 0  # rows of the parts before this one, and in it

    def __call__(self, pipeline: ClassStylePipeline, index: int, t: Tensor, tensors: dict[str, Tensor]) -> None:
        x, scheduler = tensors["model_input"], pipeline.scheduler
        if index == 0:
            self.seen, self.size = self.seen + self.size, len(x)
        if index == len(self.timesteps):
            self.timesteps.append(float(t))
            for column in (self.clean, self.noisy, self.clean_verdicts, self.noisy_verdicts):
                column.append([])
        alpha, sigma = noise_levels(scheduler, t)
        clean = _to_uint8(predicted_clean(scheduler, x, tensors["prediction"], t))
        noisy = _shown(x, alpha, sigma)
        rows = [row - self.seen for row in self.kept if 0 <= row - self.seen < len(x)]
        for images, kept, verdicts in (
            (clean, self.clean, self.clean_verdicts),
            (noisy, self.noisy, self.noisy_verdicts),
        ):
            kept[index].append(images[rows])
            verdicts[index].append(predict(self.judge, images).classes)


def measure_reverse(
    pipeline: ClassStylePipeline,
    judge: Judge,
    class_ids: Sequence[int],
    *,
    num_images: int = 20,
    num_inference_steps: int = 50,
    seed: int = 0,
    **arguments: Any,
) -> Reverse:
    """Draw plain images, `num_images` of each class; the i-th of every class begins with the same noise."""
    recorder = TrajectoryRecorder(judge, kept=range(0, len(class_ids) * num_images, num_images))
    out = sample_tensors(
        pipeline,
        list(class_ids),
        num_images_per_label=num_images,
        num_inference_steps=num_inference_steps,
        generator=[torch.Generator().manual_seed(seed + i) for _ in class_ids for i in range(num_images)],
        callback_on_step_end=recorder,
        **arguments,
    )
    ended = to_bytes(out.images)
    asked, output = torch.tensor(out.class_labels), predict(judge, ended)
    last = ended[::num_images, None]

    def along(columns: list[list[Tensor]], end: Tensor) -> Tensor:
        return torch.cat([torch.stack([torch.cat(parts) for parts in columns], dim=1), end], dim=1)

    timesteps = torch.tensor(recorder.timesteps, dtype=torch.float64)
    return Reverse(
        class_ids=list(class_ids),
        asked=asked,
        shares=torch.linspace(0, 1, len(timesteps) + 1, dtype=torch.float64),
        log_snr=torch.cat([log_snr(pipeline.scheduler, timesteps), torch.tensor([math.inf])]),
        clean_verdicts=along(recorder.clean_verdicts, output.classes[:, None]),
        noisy_verdicts=along(recorder.noisy_verdicts, output.classes[:, None]),
        scores=right_scores(output, asked),
        clean=along(recorder.clean, last),
        noisy=along(recorder.noisy, last),
    )


def recognised_from(verdicts: Tensor, asked: Tensor) -> Tensor:
    """The first of T points (N, T) from which on the verdict is the class asked for (N,); T for never."""
    right = (verdicts == asked[:, None]).long()
    return verdicts.shape[1] - right.flip(1).cumprod(dim=1).sum(dim=1)


def recognition(reverse: Reverse, verdicts: Tensor, class_names: Sequence[str]) -> list[Recognised]:
    """When each class is recognised, and then all of them together, by `verdicts` (N, T + 1) of `reverse`."""
    first = recognised_from(verdicts, reverse.asked)
    rows = [_recognised(class_names[i], first[reverse.asked == i], reverse) for i in reverse.class_ids]
    return [*rows, _recognised("together", first, reverse)]


def _recognised(name: str, first: Tensor, reverse: Reverse) -> Recognised:
    never = torch.tensor([math.inf], dtype=torch.float64)
    quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    points = first.double().quantile(quarters, interpolation="nearest").long()
    shares, levels = (torch.cat([axis, never])[points].tolist() for axis in (reverse.shares, reverse.log_snr))
    return Recognised(
        name, len(first), tuple(shares), tuple(levels), (first == len(reverse.shares)).double().mean().item()
    )


def recognised_share(reverse: Reverse, verdicts: Tensor) -> Tensor:
    """The share of images recognised by each point and for good, (T + 1,) float64."""
    first = recognised_from(verdicts, reverse.asked)
    return (first[:, None] <= torch.arange(len(reverse.shares))).double().mean(dim=0)


def score_histogram(generated: Tensor, real: Tensor) -> Histogram:
    """The spread of scores in [0, 1] of generated and of real images."""
    edges = torch.linspace(0, 1, NUM_BINS + 1)
    ours, theirs = (torch.histogram(scores.float(), edges).hist.double() / len(scores) for scores in (generated, real))
    return Histogram(edges, ours, theirs, len(generated), len(real))
