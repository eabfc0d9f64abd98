"""Samples as tensors: one typed call of the pipeline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hfdiff.core.seeds import derive_seed
from hfdiff.pipelines import ClassStylePipeline, StyleSpec


@dataclass(frozen=True)
class TensorImages:
    """N images, label by label, each with what it was asked to show."""

    images: Tensor  # (N, C, H, W) float32 in [0, 1], on the CPU
    class_labels: list[int | None]  # None: unspecified
    styles: list[dict[str, float]]
    scores: list[dict[str, float]]  # empty where none were chosen, like the next
    candidates: list[int]  # the number of each among its label's


def sample_tensors(
    pipeline: ClassStylePipeline,
    class_labels: Sequence[int | str | None],
    styles: Sequence[StyleSpec] | StyleSpec = None,
    **arguments: Any,
) -> TensorImages:
    """Call the pipeline with these and other arguments of its own; ValueError for what it cannot use."""
    out: Any = pipeline(class_labels, styles, output_type="pt", **arguments)
    return TensorImages(out.images, out.class_labels, out.styles, out.scores or [], out.candidates or [])


def generators(rows: Iterable[int], seed: int, what: str) -> list[torch.Generator]:
    """One for each row: a function of seed, purpose and row, so that two seeds share none."""
    return [torch.Generator().manual_seed(derive_seed(seed, what, row)) for row in rows]
