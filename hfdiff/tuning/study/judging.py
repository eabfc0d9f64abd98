"""The judge of a study: every run's samples beside the same real images, none of which a report measures."""

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hfdiff.core.errors import BadInput
from hfdiff.core.files import write_json
from hfdiff.data.loading import load_training_data
from hfdiff.evaluation.judge_training import judge_for
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.metrics import METRICS, missing_inputs
from hfdiff.evaluation.protocol import Protocol
from hfdiff.evaluation.reference_images import MOST_REFERENCE, ReferenceSet, check_judge, check_model_fits
from hfdiff.models.loading import weights_fingerprint
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.run_folder import RunFolder
from hfdiff.tuning.measure import DISTANCE, measured, open_to_measure
from hfdiff.tuning.study.config import Study, StudyConfig
from hfdiff.tuning.study.trial import JUDGED

WATCHED = ("class_accuracy", DISTANCE, "recall", "coverage", "style_fidelity")
SEED = 0  # of the noise of all samples, and of the choice of the real images: the same for every run


@dataclass(frozen=True)
class StudyJudge:
    """What judges every run of a study alike."""

    real: ReferenceSet
    study: StudyConfig
    _turn: threading.Lock = field(default_factory=threading.Lock)  # libraries load models in a process's global state

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The metrics that so many samples allow; BadInput without a distance, or where not all would be measured."""
        study = self.study
        lacks = {name: missing_inputs(name, self.real, study.num_images, study.num_styled) for name in WATCHED}
        if lacks[DISTANCE]:
            raise BadInput(f"a study goes by {DISTANCE}, and {lacks[DISTANCE]}")
        if study.num_images > len(self.real.others):
            raise BadInput(
                f"num_images is {study.num_images}; valid: at most {len(self.real.others)}, the real images that stand "
                "beside them"
            )
        return tuple(name for name in WATCHED if not lacks[name])

    @cached_property
    def reference(self) -> dict[str, float]:
        """Metric -> value of real images in place of samples."""
        inputs = MetricInputs(self.real, self.real.others[: self.study.num_images], seed=SEED)
        return {name: METRICS[name].measure(inputs).value for name in self.names if not METRICS[name].styled}

    def judge(self, folder: str, check: Callable[[], None]) -> dict[float, dict[str, float]]:
        """Guidance scale -> metric -> value of a run; what its folder holds already is not measured again.

        check: called before each step of the network; what it raises leaves what was measured.
        """
        with self._turn:
            pipeline = open_to_measure(folder)
        pipeline.unet.register_forward_pre_hook(lambda *_: check())
        check_model_fits(pipeline, self.real.training)
        self.check_data(Path(folder))
        asked = self.asked(pipeline)
        found = judged_before(Path(folder) / JUDGED, asked)
        for scale in self.study.guidance_scale:
            if str(scale) not in found:
                found[str(scale)] = self.at(scale, pipeline, asked["num_styled"])
                write_json(Path(folder) / JUDGED, {"asked": asked, "by_guidance": found})
        return {float(scale): found[str(scale)] for scale in self.study.guidance_scale}

    def check_data(self, folder: Path) -> None:
        """BadInput for a run that was trained on other images, before the data changed."""
        record = json.loads(RunFolder(folder).record.read_text(encoding="utf-8"))
        if (known := record["data"]["fingerprint"]) != (own := self.real.copied.fingerprint):
            raise BadInput(
                f"{folder} was trained on images with fingerprint {known}, those of today have {own}; remove it"
            )

    def asked(self, pipeline: ClassStylePipeline) -> dict[str, Any]:
        """All that decides what is measured, beside the guidance."""
        return {
            "weights": weights_fingerprint(pipeline.unet),
            "judge": weights_fingerprint(self.real.judge),
            "data": self.real.copied.fingerprint,
            "reference_n": len(self.real.reference),
            "num_images": self.study.num_images,
            "num_styled": self.study.num_styled if pipeline.style_names else 0,
            "metrics": list(self.names),
            "seed": SEED,
        }

    def at(self, scale: float, pipeline: ClassStylePipeline, num_styled: int) -> dict[str, float]:
        """Metrics at one scale of guidance, of class and style; one that the samples do not allow is left out."""
        given = {"guidance_scale": scale, "style_guidance_scale": scale}
        return measured(pipeline, self.real, Protocol(self.study.num_images, num_styled, SEED, given), self.names)


def judged_before(file: Path, asked: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What a run's folder holds of the same question; nothing where it is of another, or damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["asked"] == asked:
            return dict(known["by_guidance"])
    return {}


def open_judge(study: Study, device: torch.device) -> StudyJudge:
    """The dataset's judge, and training images that it did not see (`ReferenceSet.apart`)."""
    configs = [study.training(variant) for variant in study.variants]
    training, validation = load_training_data(configs[0].dataset, configs[0].read_options)
    judge = judge_for(training, validation, device=device)
    check_judge(judge, training, sorted({name for config in configs for name in config.styles}))
    found = StudyJudge(ReferenceSet.apart(judge, training, SEED, MOST_REFERENCE), study.config)
    _ = found.reference  # what cannot be measured is said before anything is trained
    return found
