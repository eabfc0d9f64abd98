"""Quality of the samples while a model trains, beside the loss: few samples, in at most a twentieth of the time."""

import time
from dataclasses import dataclass
from functools import cached_property

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hfdiff.core.errors import BadInput
from hfdiff.data.table import ImageTable
from hfdiff.evaluation.judge import Judge
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.metrics import METRICS, missing_inputs
from hfdiff.evaluation.protocol import draw_request, plain_request, seconds_per_image
from hfdiff.evaluation.reference_images import ReferenceSet, judge_images
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.state import TrainState

SHARE = 0.05  # of the training time
MOST = 2_000  # samples
LEAST = 100  # below, the interval of a share is wider than 0.2
WATCHED = ("class_accuracy", "frechet_judge")


@dataclass
class QualityMonitor:
    """Measures `WATCHED` on n plain samples of fixed noise, while that takes at most `SHARE` of the training time.

    The first measurement that the time allows decides n: distances at different n do not compare.
    """

    judge: Judge
    training: ImageTable
    validation: ImageTable
    seed: int
    needed: bool = False  # measure whatever it takes

    @cached_property
    def real(self) -> ReferenceSet:
        return ReferenceSet.of(self.judge, self.training, self.validation, self.seed, most=MOST)

    def check(self) -> None:
        """BadInput where the distance is needed, and the data has too few images for it."""
        lack = missing_inputs("frechet_judge", self.real, MOST, 0) if self.needed else None
        if lack:
            raise BadInput(f"best_by 'frechet_judge': {lack}; give best_by val_loss")

    def measure(self, pipeline: ClassStylePipeline, state: TrainState) -> dict[str, float]:
        """Metric -> value, and "quality_n"; empty where the time is too short.

        All processes draw; the metrics are the main one's.
        """
        started = time.perf_counter()
        n = state.quality_n if self.needed and state.quality_n else self._affordable(pipeline, state)
        quality: dict[str, float] = {}
        if n:
            state.quality_n = n
            request = plain_request(self.real, n)
            pixels = draw_request(pipeline, request, self.seed)
            quality = {"quality_n": n}
            if PartialState().is_main_process:
                inputs = MetricInputs(self.real, judge_images(self.judge, pixels, request.labels))
                names = [name for name in WATCHED if not missing_inputs(name, self.real, n, 0)]
                quality |= {name: METRICS[name].measure(inputs).value for name in names}
        state.quality_seconds += time.perf_counter() - started
        return quality

    def _affordable(self, pipeline: ClassStylePipeline, state: TrainState) -> int:
        """How many samples to draw now, 0 for none; the main process decides."""
        if not state.quality_cost:
            state.quality_cost = seconds_per_image(pipeline) / PartialState().num_processes
        most = int((SHARE * state.seconds - state.quality_seconds) / state.quality_cost)
        n = state.quality_n if state.quality_n <= most else 0
        if not state.quality_n:
            least = METRICS["frechet_judge"].least
            n = min(MOST, max(most, least)) if self.needed else min(MOST, most) if most >= LEAST else 0
        return broadcast_object_list([n])[0]
