"""What the commands that draw have in common: the model, how it is guided, its CLIP and its judge."""

import math
from typing import Any

import torch

from hfdiff.commands.flags import ClipConfig, Drawing, JudgeConfig
from hfdiff.core.errors import BadInput, as_bad_input, check_range
from hfdiff.data.config import Half
from hfdiff.data.table import ImageTable
from hfdiff.evaluation.clip import find_clip, load_clip
from hfdiff.evaluation.judge import Judge, load_judge
from hfdiff.evaluation.judge_training import judge_for
from hfdiff.evaluation.protocol import SETTINGS
from hfdiff.models.loading import load_pipeline
from hfdiff.models.samplers import make_scheduler, process_of, sampler_of
from hfdiff.pipelines import ClassStylePipeline, Scorer, shown

MAX_IMAGES = 10_000


def open_model(flags: Drawing) -> ClassStylePipeline:
    """The model, ready to draw with the sampler asked for."""
    check_range("seed", flags.seed, 0, 2**63 - 1)
    pipeline = load_pipeline(flags.model)
    # Not to a CPU: diffusers would warn of half precision there. A build for CUDA has an accelerator without any GPU.
    if device := torch.accelerator.current_accelerator(check_available=True):
        pipeline.to(device)
    if flags.sampler is not None or flags.spacing != "auto":
        name = sampler_of(pipeline.scheduler) if flags.sampler is None else flags.sampler
        pipeline.scheduler = make_scheduler(process_of(pipeline.scheduler), name, flags.spacing)
    with as_bad_input():  # before the data is read
        pipeline.check_settings(**settings_of(flags))
    return pipeline


def settings_of(flags: Drawing) -> dict[str, Any]:
    """The flags that are arguments of the pipeline, where they are given."""
    return {key: getattr(flags, key) for key in SETTINGS if getattr(flags, key) is not None}


def check_small_training(config: JudgeConfig | ClipConfig) -> None:
    """BadInput for lengths and rates that no judge and no CLIP can be trained with."""
    if config.epochs is not None:
        check_range("epochs", config.epochs, 1, 100_000)
    check_range("batch_size", config.batch_size, 2, 100_000)
    check_range("learning_rate", config.learning_rate, 1e-12, 1)
    check_range("seed", config.seed, 0, 2**63 - 1)


def check_half(table: ImageTable, half: Half) -> None:
    """BadInput where a class has no image in the half that is trained on."""
    counts, seen = table.class_counts(), table.half(half).class_counts()
    missing = [shown(name) for name, n, part in zip(table.class_names, counts, seen) if n and not part]
    if missing:
        raise BadInput(
            f"class {', '.join(missing[:5])} has no image in the {half} half of {table.name}; give --half whole, or "
            "more images"
        )


def stated(flags: Drawing) -> dict[str, Any]:
    """What a JSON says of these flags; it knows no infinity."""
    known = {"model": flags.model, "seed": flags.seed, "spacing": flags.spacing, **settings_of(flags)}
    if flags.guidance_interval:
        known["guidance_interval"] = [v if math.isfinite(v) else str(v) for v in flags.guidance_interval]
    return known


def open_judge(
    given: str | None, training: ImageTable, held_out: ImageTable, device: torch.device, noised: bool = False
) -> Judge:
    """The judge in the folder given, else the dataset's own; of clean images, or of noised ones."""
    if given:
        return load_judge(given, noised).to(device)
    return judge_for(training, held_out, device=device, noised=noised)


def open_scorer(given: str | None, training: ImageTable, device: torch.device) -> Scorer | None:
    """The CLIP model asked for, by default the dataset's own, where no pipeline carries one."""
    name = find_clip(training) if given is None else given
    if name is None:
        return None
    model, processor = load_clip(name)
    with as_bad_input():
        return Scorer(model.to(device), processor)


def open_clip(given: str | None, pipeline: ClassStylePipeline, training: ImageTable | None) -> Scorer | None:
    """The CLIP model asked for becomes the pipeline's; by default that which it carries, else the dataset's own."""
    if given is None and pipeline.clip_model is None and training is not None:
        given = find_clip(training)
    if given is not None:
        model, processor = load_clip(given)
        pipeline.register_modules(clip_model=model.to(pipeline.device), clip_processor=processor)
    with as_bad_input():
        return None if pipeline.clip_model is None else pipeline.scorer
