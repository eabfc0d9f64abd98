"""Which guidance, and how many steps, suit a model: a short search, whose result the pipeline keeps."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hfdiff.evaluation.metrics import missing_inputs
from hfdiff.evaluation.protocol import Protocol, seconds_per_image
from hfdiff.evaluation.reference_images import ReferenceSet
from hfdiff.pipelines import SAMPLING_DEFAULTS, ClassStylePipeline
from hfdiff.tuning.measure import DISTANCE, measured

NUMBERS = (2000, 1000, 500, 260)  # samples of a try: the most that the time allows
LEAST_TRIES = 3
RECALL_SHARE = 0.85  # of the greatest recall of any try, that what is chosen must have
GAIN = 0.03  # by which a costlier, or a stranger, setting must lower the distance
SEED = 0

Settings = Mapping[str, Any]
Measure = Callable[[Settings], Mapping[str, float]]


@dataclass
class Search:
    """Settings that were tried, with their metrics, and which are best so far."""

    measure: Measure
    tries: int  # at most
    best: dict[str, Any] = field(default_factory=dict)
    tried: list[tuple[dict[str, Any], dict[str, float]]] = field(default_factory=list)

    def attempt(self, options: Sequence[Settings], gain: float = 0.0) -> None:
        """Try changes of the best settings; the nearest takes their place where it lowers the distance by `gain`, as a
        share, and keeps enough variety."""
        for change in options:
            if len(self.tried) < self.tries:
                settings = {**self.best, **change}
                self.tried.append((settings, dict(self.measure(settings))))
        limit = (1 - gain) * self.values(self.best)[DISTANCE] if self.best else math.inf
        various = RECALL_SHARE * max(values.get("recall", 0.0) for _, values in self.tried)
        fit = [one for one in self.tried if one[1][DISTANCE] <= limit and one[1].get("recall", 0.0) >= various]
        if fit:
            self.best = min(fit, key=lambda one: one[1][DISTANCE])[0]

    def values(self, settings: Settings) -> dict[str, float]:
        return next(values for given, values in self.tried if given == settings)


def search(measure: Measure, tries: int, guided: bool = False) -> Search:
    """Guidance of class and style alike first, then each refinement that the number of tries allows, one at a time."""
    found = Search(measure, tries)
    found.attempt([{"guidance_scale": scale, "style_guidance_scale": scale} for scale in (1.5, 2.0, 3.0, 1.0)])
    scale = found.best["guidance_scale"]
    between = {1.0: (1.25,), 1.5: (1.25, 1.75), 2.0: (1.75, 2.5), 3.0: (2.5, 4.0)}[scale]
    found.attempt([{"guidance_scale": one, "style_guidance_scale": one} for one in between])
    found.attempt([{"guidance_interval": [0.2, 5.0]}, {"guidance_interval": [0.1, 10.0]}], GAIN)
    if guided:
        found.attempt([{"autoguidance_scale": 1.5}, {"autoguidance_scale": 2.0}], GAIN)
    found.attempt([{"num_inference_steps": 16}, {"num_inference_steps": 24}], GAIN)
    return found


def choose_settings(
    pipeline: ClassStylePipeline, reference: Callable[[], ReferenceSet], seconds: float
) -> dict[str, Any] | None:
    """Search in about so many seconds; what was chosen and how, as a record, or None where time or data do not suffice.

    All processes draw, and go by the main one's clock and values; `reference` is made only where there is time.
    """
    names = (DISTANCE, "recall", "class_accuracy")
    cost = seconds_per_image(pipeline, guidance_scale=2.0, style_guidance_scale=2.0) / PartialState().num_processes
    images = broadcast_object_list([seconds / cost])[0]  # that there is time for
    if images < LEAST_TRIES * min(NUMBERS):
        return None
    real = reference()
    allowed = [n for n in NUMBERS if n <= len(real.others) and images >= LEAST_TRIES * n]
    if not allowed or any(missing_inputs(name, real, allowed[0], 0) for name in names):
        return None
    n = allowed[0]

    def measure(settings: Settings) -> Mapping[str, float]:
        values = measured(pipeline, real, Protocol(n, 0, SEED, dict(settings)), names)
        return broadcast_object_list([values])[0]

    found = search(measure, int(images / n), guided=pipeline.guide_unet is not None)
    return {
        "chosen": {"num_inference_steps": SAMPLING_DEFAULTS["num_inference_steps"], **found.best},
        "by": f"{DISTANCE}, recall at least {RECALL_SHARE:g} of the greatest tried",
        "n": n,
        "seed": SEED,
        "reference_n": len(real.reference),
        "dataset": real.training.name,
        "split": real.split,
        "tried": [{"settings": settings, "metrics": values} for settings, values in found.tried],
    }
