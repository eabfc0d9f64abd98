"""The judge of a study: every run's samples beside the same real images, none of which a report measures."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from hfdiff.core.errors import BadInput
from hfdiff.data.loading import load_training_data
from hfdiff.evaluation.judge import unseen
from hfdiff.evaluation.judge_training import judge_for
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.metrics import METRICS, missing_inputs
from hfdiff.evaluation.protocol import Protocol, draw_samples
from hfdiff.evaluation.reference_images import ReferenceSet, in_random_order, judge_images
from hfdiff.models.loading import load_pipeline, weights_fingerprint
from hfdiff.study.config import StudyConfig
from hfdiff.study.trial import judged_once
from hfdiff.training.config import TrainConfig

DISTANCE = "frechet_judge"  # that variants are ranked by, and the guidance is chosen by
WATCHED = ("class_accuracy", DISTANCE, "recall", "coverage", "style_fidelity")
MOST_REFERENCE = 10_000  # images, beyond which a distance moves little and the judge reads for minutes
SEED = 0  # of the noise of all samples, and of the choice of the real images: the same for every run


@dataclass(frozen=True)
class StudyJudge:
    """What judges every run of a study alike."""

    real: ReferenceSet
    study: StudyConfig

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The metrics that so many samples allow."""
        study = self.study
        lacks = {name: missing_inputs(name, self.real, study.num_images, study.num_styled) for name in WATCHED}
        if lacks[DISTANCE]:
            raise BadInput(f"a study goes by {DISTANCE}, and {lacks[DISTANCE]}")
        return tuple(name for name in WATCHED if not lacks[name])

    @cached_property
    def reference(self) -> dict[str, float]:
        """Metric -> value of real images in place of samples."""
        others = self.real.others[: self.study.num_images]
        inputs = MetricInputs(self.real, others, seed=SEED)
        names = [name for name in self.names if not METRICS[name].styled]
        return {name: METRICS[name].measure(inputs).value for name in names}

    def judge(self, folder: str) -> dict[str, Any]:
        """Metrics of a run at each guidance scale, measured once: {"by_guidance": {scale: {metric: value}}, ...}."""
        pipeline, study = load_pipeline(folder), self.study
        if device := torch.accelerator.current_accelerator(check_available=True):
            pipeline.to(device)
        pipeline.set_progress_bar_config(disable=True)
        asked: dict[str, Any] = {
            "weights": weights_fingerprint(pipeline.unet),
            "judge": weights_fingerprint(self.real.judge),
            "num_images": study.num_images,
            "num_styled": study.num_styled if pipeline.style_names else 0,
            "reference": len(self.real.reference),
            "seed": SEED,
        }

        def at(scale: float) -> dict[str, float]:
            given = {"guidance_scale": scale, "style_guidance_scale": scale}
            drawn = draw_samples(
                pipeline, self.real, Protocol(asked["num_images"], asked["num_styled"], SEED, given), True
            )
            inputs = MetricInputs(self.real, drawn.samples, drawn.styled, SEED)
            names = [name for name in self.names if asked["num_styled"] or not METRICS[name].styled]
            return {name: METRICS[name].measure(inputs).value for name in names}

        asked["guidance_scale"] = list(study.guidance_scale)
        return judged_once(folder, asked, lambda: {"by_guidance": {str(s): at(s) for s in study.guidance_scale}})


def open_judge(study: StudyConfig, base: TrainConfig, device: torch.device) -> StudyJudge:
    """The dataset's judge, and training images that it did not see: half are the reference, half stand for samples.

    Test images stay for reports, since what a study chooses by must not be what its choice is measured on. Validation
    images are too few. That runs saw the reference favours those that copy; `memorisation` of a report tells.
    """
    training, validation = load_training_data(base.dataset, base.read_options)
    judge = judge_for(training, validation, device=device)
    images = in_random_order(unseen(judge, training), SEED)
    middle = len(images) // 2
    parts = [
        images.part(slice(start, min(start + MOST_REFERENCE, end)))
        for start, end in ((0, middle), (middle, len(images)))
    ]
    reference, others = (judge_images(judge, part.pixels, part.labels) for part in parts)
    real = ReferenceSet(judge, training, reference, others, training, training.split)
    found = StudyJudge(real, study)
    _ = found.names
    return found
