"""What the commands that draw have in common: the model, how it is guided, its CLIP and its judge."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro

from hfdiff.core.errors import as_bad_input, check_range
from hfdiff.data.table import ImageTable
from hfdiff.evaluation.clip import find_clip, load_clip
from hfdiff.evaluation.judge import Judge, load_judge
from hfdiff.evaluation.judge_training import judge_for
from hfdiff.evaluation.protocol import SETTINGS
from hfdiff.models.loading import load_pipeline
from hfdiff.models.samplers import Spacing, make_scheduler, process_of, sampler_of
from hfdiff.pipelines import ClassStylePipeline, Scorer

MAX_IMAGES = 10_000


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What every command that draws takes; what is not given, the model and its pipeline decide."""

    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    guidance_scale: float | None = None
    style_guidance_scale: float | None = None
    autoguidance_scale: float | None = None
    """Guidance by the model's weaker companion, where it has one."""
    guidance_rescale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    """LOW HIGH: guide only between these noise levels (sigma / alpha), for example 0.2 5."""
    num_inference_steps: int | None = None
    sampler: str | None = None
    """Another sampler than the one saved with the model, ipndm for example."""
    spacing: Spacing = "auto"
    """Spacing of the sampler's steps in noise."""
    seed: int = 0

    def pipeline(self) -> ClassStylePipeline:
        """The model, ready to draw with the sampler asked for."""
        check_range("seed", self.seed, 0, 2**63 - 1)
        pipeline = load_pipeline(self.model)
        if device := torch.accelerator.current_accelerator():  # diffusers warns of half precision sent to a CPU
            pipeline.to(device)
        if self.sampler is not None or self.spacing != "auto":
            name = sampler_of(pipeline.scheduler) if self.sampler is None else self.sampler
            pipeline.scheduler = make_scheduler(process_of(pipeline.scheduler), name, self.spacing)
        with as_bad_input():  # before the data is read
            pipeline.check_settings(**self.given())
        return pipeline

    def given(self) -> dict[str, Any]:
        """The flags that are arguments of the pipeline."""
        return {key: getattr(self, key) for key in SETTINGS if getattr(self, key) is not None}

    def stated(self) -> dict[str, Any]:
        """What a JSON says of these flags; it knows no infinity."""
        stated = {"model": self.model, "seed": self.seed, "spacing": self.spacing, **self.given()}
        if self.guidance_interval:
            stated["guidance_interval"] = [v if math.isfinite(v) else str(v) for v in self.guidance_interval]
        return stated


def open_judge(given: str | None, training: ImageTable, held_out: ImageTable, device: torch.device) -> Judge:
    """The judge in the folder given, else the data set's own."""
    return load_judge(given).to(device) if given else judge_for(training, held_out, device=device)


def open_clip(given: str | None, pipeline: ClassStylePipeline, training: ImageTable | None) -> Scorer | None:
    """The CLIP model asked for becomes the pipeline's; by default that which it carries, else the data set's own."""
    if given is None and pipeline.clip_model is None and training is not None:
        given = find_clip(training)
    if given is not None:
        model, processor = load_clip(given)
        pipeline.register_modules(clip_model=model.to(pipeline.device), clip_processor=processor)
    with as_bad_input():
        return None if pipeline.clip_model is None else pipeline.scorer
