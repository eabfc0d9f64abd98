"""Quality of the samples while a model trains, beside the loss: few samples, in at most a twentieth of the time."""

from dataclasses import dataclass, field

from accelerate import PartialState

from hfdiff.data import ImageTable
from hfdiff.evaluation import METRICS, Evidence, Real, judge_pictures, lacking
from hfdiff.judge import Judge
from hfdiff.pipelines.class_style import ClassStylePipeline
from hfdiff.report import PROBE, draw, plain_request, seconds_per_picture

SHARE = 0.05  # of the training time
MOST = 2_000  # samples
LEAST = 100  # below, the interval of a share is wider than 0.2
WATCHED = ("class_accuracy", "frechet_judge")


@dataclass
class QualityWatch:
    """Measures `WATCHED` on n plain samples of fixed noise.

    The first measurement that the time allows decides n: distances at different n are not comparable.
    """

    judge: Judge
    training: ImageTable
    validation: ImageTable
    seed: int
    n: int = 0  # samples; 0: not yet decided
    needed: bool = False  # measure whatever it takes
    _cost: float = 0.0  # seconds of a sample; 0: not yet known
    _real: Real | None = field(default=None, repr=False)

    def measure(self, pipeline: ClassStylePipeline, seconds: float) -> dict[str, float]:
        """Metric -> value, and "quality_n", after `seconds` of training; empty where the time is too short.

        All processes draw; the metrics are the main one's.
        """
        pipeline.set_progress_bar_config(disable=True)
        self.n = self.n or self._affordable(pipeline, seconds)
        if not self.n:
            return {}
        request = plain_request(pipeline, self.n)
        pixels = draw(pipeline, request, self.seed)
        if not PartialState().is_main_process:
            return {"quality_n": self.n}
        if self._real is None:
            training, validation = (table.part(slice(0, MOST)) for table in (self.training, self.validation))
            self._real = Real.of(self.judge, training, validation)
        evidence = Evidence(self._real, judge_pictures(self.judge, pixels, request.labels))
        names = [name for name in WATCHED if not lacking(name, self._real, self.n, 0)]
        return {name: METRICS[name].measure(evidence).value for name in names} | {"quality_n": self.n}

    def _affordable(self, pipeline: ClassStylePipeline, seconds: float) -> int:
        self._cost = self._cost or seconds_per_picture(pipeline) / PartialState().num_processes
        classes = len(pipeline.class_names)
        n = min(MOST, int(SHARE * seconds / self._cost) - 2 * PROBE)
        if n < LEAST:
            n = METRICS["frechet_judge"].least + classes if self.needed else 0
        return n // classes * classes
