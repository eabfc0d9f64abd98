"""The JSON of an evaluation, its first screen, and a short table of the rest."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hfdiff.core.errors import BadInput
from hfdiff.evaluation.clip import describe_clip
from hfdiff.evaluation.judge import independence
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.metrics import METRICS
from hfdiff.evaluation.protocol import SETTINGS, EvaluationSamples
from hfdiff.evaluation.reference_images import ReferenceSet, class_accuracy
from hfdiff.models.loading import weights_fingerprint
from hfdiff.models.samplers import sampler_of
from hfdiff.pipelines import ClassStylePipeline

VERSION = 2  # of the report: in version 1, which named none, real was called floor
# What a report says of a model, and of images that any program made; null where it is of the other.
ABOUT = ("model", "images", "weights", "selection", "best_by", "spacing", "sampler", *SETTINGS)


def report_of(real: ReferenceSet, drawn: EvaluationSamples, names: Sequence[str], **about: Any) -> dict[str, Any]:
    """The JSON of an evaluation: the metrics of these names; `about` says in its protocol what was measured."""
    inputs = MetricInputs(real, drawn.samples, drawn.styled, about["seed"])
    metrics, seconds = {}, {"drawing": drawn.seconds}
    lacks: list[str] = []
    for name in names:
        started = time.perf_counter()
        try:
            metrics[name] = METRICS[name].measure(inputs).as_dict()
        except BadInput as error:  # the data does not show it; the other metrics do not need it
            lacks.append(str(error))
        seconds[name] = time.perf_counter() - started
    judge, reference = real.judge, real.reference
    counts = torch.bincount(drawn.samples.labels, minlength=len(judge.class_names)).tolist()
    protocol = {
        "n": len(drawn.samples),
        "num_styled": 0 if drawn.styled is None else len(drawn.styled),
        **dict.fromkeys(ABOUT),
        **about,
        "missing": [*about.get("missing", ()), *lacks],
        "class_counts": dict(zip(judge.class_names, counts)),
        "clip": None if real.clip_reference is None else describe_clip(real.clip_reference.scorer.model),
        "dataset": real.training.name,
        "split": real.split,
        "reference_n": len(reference),
        "size": list(real.training.size),
        "judge": {
            "accuracy": class_accuracy(reference),
            "trained_on": judge.trained_on,
            "half_seen": judge.half_seen,
            "fingerprint": judge.fingerprint,
            **independence(judge, real.training),
        },
    }
    return {"version": VERSION, "protocol": protocol, "metrics": metrics, "seconds": seconds}


def drawn_by(pipeline: ClassStylePipeline, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of the model that drew: its weights, its sampler, and the pipeline's arguments."""
    settings = pipeline.settings(**given)
    settings["guidance_interval"] = [
        str(level) if math.isinf(level) else level for level in settings["guidance_interval"]
    ]
    return {"weights": weights_fingerprint(pipeline.unet), "sampler": sampler_of(pipeline.scheduler), **settings}


def read_report(found: dict[str, Any]) -> dict[str, Any]:
    """A report as `report_of` gives it, whenever it was written: version 1 called the values of real images floor."""
    metrics = found.get("metrics")
    if not isinstance(metrics, dict):  # damaged
        return found
    if found.get("version", 1) not in (1, VERSION):
        raise BadInput(
            f"metrics.json is a report of version {found['version']}; this hfdiff reads 1 and {VERSION}: install a "
            "newer one"
        )
    metrics = {name: _with_real(metric) for name, metric in metrics.items()}
    for metric in metrics.values():
        if isinstance(metric, dict) and isinstance(metric.get("per_style"), dict):
            metric["per_style"] = {style: _with_real(row) for style, row in metric["per_style"].items()}
    return found | {"version": VERSION, "metrics": metrics}


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


@dataclass(frozen=True)
class Question:
    """What a person asks of samples, the metrics of which the first that was measured answers it, and what to do when
    it lies below, near and above the value of real images."""

    name: str
    about: str
    metrics: tuple[str, ...]
    below: str
    near: str
    above: str


FIRST_SCREEN = (
    Question(
        "right class",
        "share of samples that the judge, a classifier, puts into the class asked for",
        ("class_accuracy",),
        "Fewer show the class asked for than real images do: train longer, or raise guidance_scale.",
        "As many show the class asked for as real images do.",
        "Above real images: the samples are narrower than the data, or easier; lower guidance_scale.",
    ),
    Question(
        "variety",
        "share of real images with a sample near them",
        ("coverage", "recall"),
        "A part of the real images has no sample near it: lower guidance_scale, then train longer.",
        "As varied as real images.",
        "Above real images: the samples are spread wider than the data; see precision.",
    ),
    Question(
        "distance",
        "Frechet distance in the judge's features, 0 for the same distribution",
        ("frechet_judge",),
        "Nearer than other real images are: see whether the samples are training images.",
        "As near as other real images.",
        "Further away than other real images: train longer; lower guidance_scale where classes are above real.",
    ),
    Question(
        "style",
        "do measured strengths follow those asked for?",
        ("style_fidelity",),
        "Strengths are followed less than by the styles' own transforms: raise style_guidance_scale, or train longer.",
        "Strengths are followed as by the styles' own transforms.",
        "Above real images: styles are exaggerated; lower style_guidance_scale.",
    ),
    Question(
        "copies",
        "share of samples next to a training image",
        ("memorisation",),
        "Fewer than of other real images lie next to a training image.",
        "As few as of other real images lie next to a training image.",
        "More than of other real images lie next to a training image: look at them (hfdiff show MODEL), train on more "
        "images, or stop earlier.",
    ),
)


@dataclass(frozen=True)
class Headline:
    """One of the five numbers of the first screen; without a value where it was not measured."""

    name: str
    about: str
    metric: str  # its key in the report
    value: float | None
    ci95: Sequence[float] | None
    real: float | None
    n: int | None
    advice: str  # what it says, and what to do

    @property
    def cells(self) -> tuple[str, ...]:
        """Name, value, interval, real images, n and advice, as text; empty for what is not known."""
        interval = "" if self.ci95 is None else f"{number(self.ci95[0])} to {number(self.ci95[1])}"
        n = "" if self.n is None else f"{self.n:,}"
        return self.name, number(self.value), interval, number(self.real), n, self.advice


def first_screen(report: Mapping[str, Any]) -> list[Headline]:
    """The five numbers of a report of any version that a person can act on."""
    return [_headline(question, report) for question in FIRST_SCREEN]


def _headline(question: Question, report: Mapping[str, Any]) -> Headline:
    metrics = report["metrics"]
    key = next((key for key in question.metrics if key in metrics), None)
    if key is None:
        key = next(key for key in question.metrics if key in METRICS)
        return Headline(question.name, question.about, key, None, None, None, None, _how_to_measure(key, report))
    metric, about = metrics[key], question.about
    if "infinite" in metric:
        own = {"value": metric["infinite"], "ci95": metric["infinite_ci95"], "real": metric["real_infinite"]}
        metric, about = metric | own, f"{about}; extrapolated to infinite n"
    parts = [_compared(question, metric), _worst_class(metric), _weakest_style(metric), _search(metric)]
    numbers = (metric["value"], metric["ci95"], metric["real"], metric["n"])
    return Headline(question.name, about, key, *numbers, " ".join(filter(None, parts)))


def _compared(question: Question, metric: Mapping[str, Any]) -> str:
    """The sentence for where the value lies beside that of real images, which n limits as well."""
    if metric["real"] is None:
        return ""
    ends = [abs(end - metric["value"]) for end in metric["ci95"] or (metric["value"],)]
    margin = max(ends) * math.sqrt(1 + metric["n"] / metric["real_n"])  # an end may be cut off at the metric's range
    difference = metric["value"] - metric["real"]
    return question.near if abs(difference) <= margin else question.above if difference > 0 else question.below


def _worst_class(metric: Mapping[str, Any]) -> str:
    """Of coverage: the class of which the least is covered."""
    worst = metric.get("worst_class")
    return (
        f"Least of all of {worst['name']} ({number(worst['value'])}, real images {number(worst['real'])})."
        if worst
        else ""
    )


def _how_to_measure(name: str, report: Mapping[str, Any]) -> str:
    """What a metric lacked, as the protocol says it, and the command that measures it where samples were lacking."""
    protocol, row = report["protocol"], METRICS[name]
    if protocol.get("images") and row.styled:
        return "Not measured: it needs a model."
    lack = next((line for line in protocol.get("missing", ()) if line.startswith(name)), None)
    if protocol.get("images") and protocol["n"] < row.least:
        lack = f"{name} needs {row.least} images; there are {protocol['n']}"
    if lack and " samples" not in lack:
        return f"Not measured: {lack}."
    asked = "--num_styled 1000" if row.styled else "--num_images 2000"
    what, more = "MODEL", f" {asked}"
    if protocol.get("images"):
        what, more = f"--images {protocol['images']} --dataset {protocol['dataset']}", ""
    return f"Not measured{f': {lack}' if lack else ''}. hfdiff evaluate {what} --metrics {name}{more} measures it."


def _weakest_style(metric: Mapping[str, Any]) -> str:
    """The style that is followed least: by the slope of its strengths, in older reports by their correlation."""
    rows = metric.get("per_style")
    if not rows:
        return ""
    key = "slope" if all(row.get("slope") is not None for row in rows.values()) else "spearman"
    style, row = min(rows.items(), key=lambda item: item[1][key])
    real = "" if row.get(f"real_{key}") is None else f", real images {number(row[f'real_{key}'])}"
    return f"Followed least: {style} ({'slope' if key == 'slope' else 'Spearman'} {number(row[key])}{real})."


def _search(metric: Mapping[str, Any]) -> str:
    """Of memorisation: what was searched, and what share of planted near-duplicates that finds."""
    if "searched_n" not in metric:
        return ""
    searched, power = f"The search of {metric['searched_n']:,} training images", metric.get("power")
    if not power:
        return f"{searched} has a power not measured yet."
    kind = min(power, key=power.__getitem__)
    return f"{searched} finds {number(power[kind])} or more of planted near-duplicates (least: {kind})."


def rest_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that are not on the first screen, and plain values of those that are extrapolated there."""
    shown = {headline.metric for headline in first_screen(report)}
    return {name: row for name, row in report["metrics"].items() if name not in shown or "infinite" in row}


def number(value: float | None) -> str:
    """Four significant digits and no exponent; nothing for what is not known."""
    if value is None or not math.isfinite(value):
        return ""
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")


def source_line(protocol: Mapping[str, Any]) -> str:
    """What was measured, and against which real images."""
    judge = protocol["judge"]
    what = (
        f"{protocol['n']:,} images of {protocol['images']}, seed {protocol['seed']}"
        if protocol.get("images")
        else f"{protocol['n']:,} plain samples and {protocol['num_styled']:,} in styles, seed {protocol['seed']}, "
        f"{protocol['sampler']}, {protocol['num_inference_steps']} steps"
    )
    return (
        f"{what}, against {protocol['reference_n']:,} images of {protocol['dataset']} ({protocol['split']}); "
        f"the judge names {judge['accuracy']:.3f} of those right"
    )


def strongest_leak(row: Mapping[str, Any]) -> tuple[str, float] | None:
    """The style whose measured strength moves most where that of the row is asked for alone, and how far."""
    moves = row.get("leakage") or {}
    return max(moves.items(), key=lambda move: abs(move[1]), default=None)


def style_lines(per_style: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table of the strengths measured at those asked for, of each style; none of older reports."""
    rows = {name: row for name, row in per_style.items() if row.get("levels")}
    if not rows:
        return []
    asked = [level["asked"] for level in next(iter(rows.values()))["levels"]]
    heads = " ".join(f"{level:>6g}" for level in asked)
    lines = ["", f"{'strength asked for':<18} {heads}   slope   real  moves along most"]
    for name, row in rows.items():
        cells = ["" if level["measured"] is None else f"{level['measured']:.2f}" for level in row["levels"]]
        moved = strongest_leak(row)
        leak = f"{moved[0]} {moved[1]:+.2f}" if moved else ""
        measured = " ".join(f"{cell:>6}" for cell in cells)
        lines.append(f"{name:<18} {measured}  {row['slope']:>6.2f} {row['real_slope']:>6.2f}  {leak}".rstrip())
    return lines


def describe_report(report: dict[str, Any]) -> str:
    """The first screen and a short table of the rest, for the screen."""
    protocol = report["protocol"]
    lines = [
        source_line(protocol),
        *chosen_by(protocol),
        *doubts(protocol["judge"]),
        "",
        f"{'':<18} {'value':>9}  {'95% interval':^22} {'real':>9} {'n':>7}",
    ]
    for headline in first_screen(report):
        name, value, interval, real, n, advice = headline.cells
        lines += [f"{name:<18} {value:>9}  {interval:^22} {real:>9} {n:>7}  {headline.metric}", f"    {advice}"]
    lines += ["", f"{'metric':<18} {'value':>9}  {'95% interval':^22} {'real':>9} {'n':>7}  features"]
    for name, metric in rest_of(report).items():
        interval = "" if metric["ci95"] is None else " to ".join(map(number, metric["ci95"]))
        numbers = f"{number(metric['value']):>9}  {interval:^22} {number(metric['real']):>9} {metric['n']:>7,}"
        lines.append(f"{name:<18} {numbers}  {metric['extractor']}")
    lines += style_lines(report["metrics"].get("style_fidelity", {}).get("per_style", {}))
    said = "\n".join(lines)
    return "\n".join([said, *(lack for lack in protocol["missing"] if lack not in said)])
