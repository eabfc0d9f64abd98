"""The JSON of an evaluation, and a short table of it."""

import inspect
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hfdiff.evaluation.judge import independence
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.metrics import METRICS
from hfdiff.evaluation.protocol import SETTINGS, EvaluationSamples, Protocol
from hfdiff.evaluation.reference_images import ReferenceSet, class_accuracy
from hfdiff.models.loading import weights_fingerprint
from hfdiff.models.samplers import sampler_of
from hfdiff.pipelines import ClassStylePipeline


def report_of(
    pipeline: ClassStylePipeline,
    real: ReferenceSet,
    protocol: Protocol,
    drawn: EvaluationSamples,
    names: Sequence[str],
    **about: Any,
) -> dict[str, Any]:
    """The JSON of an evaluation; `about` joins its protocol. The samples are unselected."""
    inputs = MetricInputs(real, drawn.samples, drawn.styled)
    metrics, seconds = {}, {"drawing": drawn.seconds}
    for name in names:
        started = time.perf_counter()
        metrics[name] = METRICS[name].measure(inputs).as_dict()
        seconds[name] = time.perf_counter() - started
    judge, reference = real.judge, real.reference
    parameters = inspect.signature(pipeline.__call__).parameters
    settings = {key: protocol.given.get(key, parameters[key].default) for key in SETTINGS}
    settings["guidance_interval"] = [
        str(level) if math.isinf(level) else level for level in settings["guidance_interval"]
    ]
    protocol_json = {
        "n": protocol.n,
        "num_styled": protocol.num_styled,
        "seed": protocol.seed,
        "weights": weights_fingerprint(pipeline.unet),
        "selection": "none",
        **about,
        "dataset": real.training.name,
        "split": real.split,
        "reference_n": len(reference),
        "size": list(real.training.size),
        "sampler": sampler_of(pipeline.scheduler),
        **settings,
        "judge": {
            "accuracy": class_accuracy(reference),
            "trained_on": judge.trained_on,
            "half_seen": judge.half_seen,
            "fingerprint": judge.fingerprint,
            **independence(judge, real.training),
        },
    }
    return {"protocol": protocol_json, "metrics": metrics, "seconds": seconds}


def read_report(found: dict[str, Any]) -> dict[str, Any]:
    """A report as `report_of` gives it, whenever it was written: version 1 called the values of real images floor."""
    metrics = found.get("metrics")
    if not isinstance(metrics, dict):  # damaged
        return found
    metrics = {name: _with_real(metric) for name, metric in metrics.items()}
    for metric in metrics.values():
        if isinstance(metric, dict) and isinstance(metric.get("per_style"), dict):
            metric["per_style"] = {style: _with_real(row) for style, row in metric["per_style"].items()}
    return found | {"metrics": metrics}


def _with_real(row: Any) -> Any:
    """A row whose keys floor and floor_NAME are called real and real_NAME."""
    return (
        {re.sub(r"^floor(?=_|$)", "real", key): value for key, value in row.items()} if isinstance(row, dict) else row
    )


def chosen_by(protocol: Mapping[str, Any]) -> list[str]:
    """What a reader must know of how the weights were chosen, where that was not apart from this report."""
    if protocol["best_by"] == "frechet_judge":
        return ["the weights are those of the run's that were nearest by this judge"]
    if protocol["best_by"] and protocol["split"] != "test":
        return [f"the weights are those of the run's that were best by {protocol['best_by']} on a split like this one"]
    return []


def doubts(judge: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a report's judge, where it may have been trained on the images that it judges."""
    if judge.get("independence", "known") == "known":  # not in reports of before
        return []
    return [f"the judge may have been trained on some of these images: {judge.get('reason')}"]


def describe_report(report: dict[str, Any]) -> str:
    """A short table for the screen."""
    protocol, judge = report["protocol"], report["protocol"]["judge"]
    lines = [
        f"{protocol['n']:,} plain samples and {protocol['num_styled']:,} in styles, seed {protocol['seed']}, "
        f"{protocol['sampler']}, {protocol['num_inference_steps']} steps, against {protocol['reference_n']:,} images "
        f"of {protocol['dataset']} ({protocol['split']}); the judge names {judge['accuracy']:.3f} of those right",
        *chosen_by(protocol),
        *doubts(judge),
        "",
        f"{'metric':<18} {'value':>8}  {'95% interval':^19} {'real':>8} {'n':>7}  features",
    ]
    for name, metric in report["metrics"].items():
        interval = "" if metric["ci95"] is None else "{:8.3f} to {:<8.3f}".format(*metric["ci95"])
        real = "" if metric["real"] is None else f"{metric['real']:.3f}"
        lines.append(
            f"{name:<18} {metric['value']:>8.3f}  {interval:<19} {real:>8} {metric['n']:>7,}  {metric['extractor']}"
        )
    return "\n".join(lines)
