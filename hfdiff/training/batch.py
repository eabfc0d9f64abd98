"""A step's images, noise and conditions, a function of (seed, step)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hfdiff.core.seeds import derive_seed
from hfdiff.data.augmentation import NUM_DRAWS, augment
from hfdiff.data.config import DataConfig
from hfdiff.data.styles import apply_styles, draw_styles
from hfdiff.data.table import ImageTable, to_unit_range
from hfdiff.models.objectives import Noised, Objective
from hfdiff.pipelines import UNSPECIFIED
from hfdiff.training.config import TrainConfig


@dataclass(frozen=True)
class BatchRandomness:
    """The random choices of one batch; index it with a slice for the share of a process or micro-batch."""

    rows: Tensor  # (B,) int64, which images
    mirrored: Tensor  # (B,) bool
    strengths: Tensor  # (B, S) of the styles of the table
    augments: Tensor  # (B, A) uniform, for `augment`
    times: Tensor  # (B,) uniform
    keep_class: Tensor  # (B,) bool
    keep_styles: Tensor  # (B,) bool
    noise: Tensor  # (B, C, H, W) float32, on the device; all else is on the CPU

    def __getitem__(self, part: slice) -> "BatchRandomness":
        return BatchRandomness(**{name: value[part] for name, value in vars(self).items()})


def draw_batch(
    config: TrainConfig, table: ImageTable, batch_size: int, step: int | str, device: torch.device
) -> BatchRandomness:
    """All random choices of one optimizer step, a function of (config.seed, step)."""
    generator = torch.Generator().manual_seed(derive_seed(config.seed, step))
    on_device = torch.Generator(device).manual_seed(derive_seed(config.seed, step, "noise"))

    def uniform(*shape: int) -> Tensor:
        return torch.rand((batch_size, *shape), generator=generator)

    rows = torch.randint(len(table), (batch_size,), generator=generator)
    mirrored = (uniform() < 0.5) & config.flip
    strengths = draw_styles(batch_size, config.styles, config.style_share, generator)
    augments = uniform(NUM_DRAWS)
    times = uniform()
    if config.stratified:
        times = (torch.randperm(batch_size, generator=generator) + times) / batch_size
    dropped = uniform()
    both = config.drop_both
    class_alone = both + config.drop_class
    style_alone = class_alone + config.drop_style
    keep_class = dropped >= class_alone
    keep_styles = (dropped >= both) & (dropped < class_alone) | (dropped >= style_alone)
    noise = torch.randn((batch_size, *table.pixels.shape[1:]), generator=on_device, device=device)
    return BatchRandomness(rows, mirrored, strengths, augments, times, keep_class, keep_styles, noise)


@dataclass(frozen=True)
class Inputs:
    """What one forward and its loss need."""

    noised: Noised
    conditions: dict[str, Tensor | None]  # keyword arguments of the UNet


def make_inputs(config: DataConfig, table: ImageTable, objective: Objective, randomness: BatchRandomness) -> Inputs:
    """Images with their styles, noised, and the conditions of the model; all in float32."""
    device = randomness.noise.device
    rows = randomness.rows.to(table.pixels.device)
    pixels = to_unit_range(table.pixels[rows].to(device))
    if config.flip:
        pixels = torch.where(randomness.mirrored.to(device).reshape(-1, 1, 1, 1), pixels.flip(-1), pixels)
    pixels = apply_styles(pixels, randomness.strengths, config.styles)
    augment_labels = None
    if config.augment:
        pixels, augment_labels = augment(pixels, randomness.augments.to(device), config.augment)
    noised = objective.noise(pixels * 2 - 1, randomness.noise, objective.quantile(randomness.times.to(device)))
    labels = table.labels[rows].to(device).where(randomness.keep_class.to(device), len(table.class_names))
    weights = torch.cat([table.style_weights[rows].to(device), randomness.strengths.to(device)], dim=1)
    weights = weights.where(randomness.keep_styles.to(device)[:, None], UNSPECIFIED)
    conditions = {
        "class_labels": labels,
        "style_weights": weights if weights.shape[1] else None,
        "augment_labels": augment_labels,
    }
    return Inputs(noised, conditions)
