"""Metrics of a model at given settings, as plain numbers: what studies and searches compare."""

import contextlib
from collections.abc import Sequence

import torch

from hfdiff.core.errors import BadInput
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.metrics import METRICS
from hfdiff.evaluation.protocol import Protocol, draw_samples
from hfdiff.evaluation.reference_images import ReferenceSet
from hfdiff.models.loading import load_pipeline
from hfdiff.pipelines import ClassStylePipeline

DISTANCE = "frechet_judge"  # that models and settings are ranked by


def open_to_measure(model: str) -> ClassStylePipeline:
    """The pipeline, quiet, on the accelerator where there is one, and without its CLIP, which nothing here asks."""
    pipeline = load_pipeline(model)
    pipeline.register_modules(clip_model=None, clip_processor=None)
    if device := torch.accelerator.current_accelerator(check_available=True):
        pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measured(
    pipeline: ClassStylePipeline, real: ReferenceSet, protocol: Protocol, names: Sequence[str]
) -> dict[str, float]:
    """Metric -> value, of samples drawn so; one that these samples do not allow is left out. All processes draw."""
    drawn = draw_samples(pipeline, real, protocol, quiet=True)
    inputs, found = MetricInputs(real, drawn.samples, drawn.styled, protocol.seed), {}
    for name in names:
        if drawn.styled or not METRICS[name].styled:
            with contextlib.suppress(BadInput):
                found[name] = METRICS[name].measure(inputs).value
    return found
