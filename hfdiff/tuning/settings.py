"""Which guidance, sampler and steps suit a model: a short search, whose result the pipeline keeps."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from diffusers import SchedulerMixin

from hfdiff.evaluation.metrics import missing_inputs
from hfdiff.evaluation.protocol import Protocol, seconds_per_image
from hfdiff.evaluation.reference_images import ReferenceSet
from hfdiff.models.loading import export_pipeline, load_pipeline
from hfdiff.models.objectives import OBJECTIVES
from hfdiff.models.samplers import make_scheduler, process_of, sampler_of, valid_samplers
from hfdiff.pipelines import SAMPLING_DEFAULTS, ClassStylePipeline
from hfdiff.tuning.measure import DISTANCE, measured

NUMBERS = (2000, 1000, 500, 260)  # samples of a try: the most that the time allows
LEAST_TRIES, MANY_TRIES = 3, 8  # that the time must allow; many, where they are of more than MOST_OF_FEW samples
MOST_OF_FEW = 500
# The share of the greatest rival's that what is chosen must have: the distance alone would pay with any of them.
KEPT = {"recall": 0.75, "class_accuracy": 0.85, "style_fidelity": 0.85}
INTERVALS = ([0.1, 10.0], [0.2, 5.0])  # of sigma / alpha; the first is the usual one
SAMPLERS_TRIED = ("unipc", "ipndm")
TIE = 0.03  # share by which distances must differ to count
STYLED_SHARE = 0.5  # samples in styles of a try, as a share of the plain ones
SEED = 0
SAMPLING_STEPS = {"num_inference_steps": SAMPLING_DEFAULTS["num_inference_steps"]}

Settings = Mapping[str, Any]
Measure = Callable[[Settings], Mapping[str, float]]


@dataclass
class Search:
    """Settings that were tried, with their metrics, and which are best so far."""

    measure: Measure
    tries: int  # at most
    tried: list[tuple[dict[str, Any], dict[str, float]]] = field(default_factory=list)
    rivals: list[tuple[dict[str, Any], dict[str, float]]] = field(default_factory=list)  # that may be chosen

    @property
    def best(self) -> dict[str, Any]:
        """Of the rivals that keep variety, classes and styles, the most various that is about as near as any."""
        least = {name: share * max(v.get(name, 0.0) for _, v in self.rivals) for name, share in KEPT.items()}
        fit = [one for one in self.rivals if all(one[1].get(name, 0.0) >= bound for name, bound in least.items())]
        limit = (1 + TIE) * min(values[DISTANCE] for _, values in fit or self.rivals)
        near = [one for one in fit or self.rivals if one[1][DISTANCE] <= limit]
        return max(near, key=lambda one: (one[1].get("recall", 0.0), -one[1][DISTANCE]))[0]

    def attempt(self, options: Sequence[Settings], costly: bool = False) -> None:
        """Try changes of the best settings; costly ones become rivals where they lower the distance by `TIE`."""
        before = self.best if self.rivals else {}
        limit = (1 - TIE) * self.values(before)[DISTANCE] if costly else math.inf
        for change in options:
            settings = {**before, **change}
            if len(self.tried) < self.tries and all(settings != given for given, _ in self.tried):
                self.tried.append((settings, dict(self.measure(settings))))
                if self.tried[-1][1][DISTANCE] <= limit:
                    self.rivals.append(self.tried[-1])

    def values(self, settings: Settings) -> dict[str, float]:
        return next(values for given, values in self.tried if given == settings)


def search(measure: Measure, tries: int, guided: bool = False, samplers: Sequence[str] = ()) -> Search:
    """Guidance of class and style alike first, then each refinement that the number of tries allows, one at a time."""
    found = Search(measure, tries)
    found.attempt([{"guidance_scale": scale, "style_guidance_scale": scale} for scale in (1.5, 2.0, 3.0, 1.0)])
    scale = found.best["guidance_scale"]
    if scale != 1.0:
        found.attempt([{"guidance_interval": interval} for interval in INTERVALS])
    if guided:
        alone = {"guidance_scale": 1.0, "style_guidance_scale": 1.0}
        found.attempt([{"autoguidance_scale": 1.5}, {**alone, "autoguidance_scale": 2.0}], costly=True)
    between = {1.0: (1.25,), 1.5: (1.25, 1.75), 2.0: (1.75, 2.5), 3.0: (2.5, 4.0)}[scale]
    found.attempt([{"guidance_scale": one, "style_guidance_scale": one} for one in between])
    scale = found.best["guidance_scale"]
    found.attempt([{"style_guidance_scale": one} for one in (1.0, (1 + scale) / 2, scale + 1)])
    found.attempt([{"sampler": name} for name in samplers])
    found.attempt([{"num_inference_steps": 16}, {"num_inference_steps": 24}], costly=True)
    return found


def choose_settings(
    pipeline: ClassStylePipeline, reference: Callable[[], ReferenceSet], seconds: float, samplers: bool = True
) -> dict[str, Any] | None:
    """Search in about so many seconds; what was chosen and how, as a record, or None where time or data do not suffice.

    All processes draw, and go by the main one's clock and values; `reference` is made only where there is time.
    samplers: try others than the pipeline's too; it is left with the last that was tried.
    """
    cost = seconds_per_image(pipeline, guidance_scale=2.0, style_guidance_scale=2.0) / PartialState().num_processes
    images = broadcast_object_list([seconds / cost])[0]  # that there is time for
    if images < LEAST_TRIES * min(NUMBERS):
        return None
    real = reference()
    styled = STYLED_SHARE if pipeline.style_names else 0.0
    per_try = {n: n + int(n * styled) for n in NUMBERS}
    tries = {n: int(images / per_try[n]) for n in NUMBERS}
    enough = {n: MANY_TRIES if n > MOST_OF_FEW else LEAST_TRIES for n in NUMBERS}
    allowed = [n for n in NUMBERS if n <= len(real.others) and tries[n] >= enough[n]]
    names: tuple[str, ...] = (DISTANCE, "recall", "class_accuracy")
    if not allowed or any(missing_inputs(name, real, allowed[0], 0) for name in names):
        return None
    n = allowed[0]
    num_styled = per_try[n] - n
    if num_styled and missing_inputs("style_fidelity", real, n, num_styled):
        num_styled = 0
    names += ("style_fidelity",) if num_styled else ()
    pipeline.register_to_config(sampling={})  # of an earlier search
    process, own = process_of(pipeline.scheduler), sampler_of(pipeline.scheduler)
    schedulers = {name: make_scheduler(process, name) for name in SAMPLERS_TRIED if name in valid_samplers(process)}
    schedulers = {own: pipeline.scheduler} | schedulers if samplers else {}

    def measure(settings: Settings) -> Mapping[str, float]:
        given = dict(settings)
        pipeline.scheduler = schedulers.get(given.pop("sampler", own), pipeline.scheduler)
        values = measured(pipeline, real, Protocol(n, num_styled, SEED, given), names)
        return broadcast_object_list([values])[0]

    others = [name for name in schedulers if name != own]
    kept = " and ".join(f"{share:g} of the greatest {name}" for name, share in KEPT.items() if name in names)
    found = search(measure, tries[n], pipeline.guide_unet is not None, others)
    return {
        "chosen": {**SAMPLING_STEPS, **found.best},
        "by": f"of {len(found.tried)} tried, the most various within {TIE:.0%} of the least {DISTANCE} with {kept}",
        "n": n,
        "num_styled": num_styled,
        "seed": SEED,
        "reference_n": len(real.reference),
        "dataset": real.training.name,
        "split": real.split,
        "tried": [{"settings": settings, "metrics": values} for settings, values in found.tried],
    }


def usual_settings(objective: str) -> dict[str, Any]:
    """The record of settings that no search chose: what suits the objective."""
    scale = OBJECTIVES[objective].guidance_scale
    chosen = {"guidance_scale": scale, "style_guidance_scale": scale, "guidance_interval": INTERVALS[0]}
    return {"chosen": {**SAMPLING_STEPS, **chosen}, "by": f"usual for {objective}, as no search chose"}


def save_settings(folder: str, chosen: Settings, scheduler: SchedulerMixin) -> None:
    """Make them what the saved pipeline draws with where nothing is given; `scheduler`: where they name no sampler."""
    pipeline, sampling = load_pipeline(folder), dict(chosen)
    sampler = sampling.pop("sampler", None)
    pipeline.scheduler = make_scheduler(process_of(scheduler), sampler) if sampler else scheduler
    pipeline.register_to_config(sampling=sampling)
    export_pipeline(pipeline, Path(folder))
