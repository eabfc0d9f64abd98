"""`hfdiff evaluate`."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hfdiff.commands.flags import EvaluateFlags
from hfdiff.commands.options import open_clip, open_judge, open_model, open_scorer, settings_of
from hfdiff.core.errors import BadInput, as_bad_input, check_range
from hfdiff.core.files import existing_folder, file_to_write, write_json
from hfdiff.core.locks import write_lock
from hfdiff.core.names import unknown
from hfdiff.core.threads import num_local_processes, use_all_cores
from hfdiff.data.config import ReadOptions
from hfdiff.data.table import ImageTable
from hfdiff.evaluation.distances import inception_network
from hfdiff.evaluation.given_samples import absent_classes, beside, read_samples
from hfdiff.evaluation.judge import Judge
from hfdiff.evaluation.metrics import METRICS, missing_inputs
from hfdiff.evaluation.protocol import EvaluationSamples, Protocol, draw_samples, within
from hfdiff.evaluation.reference_images import (
    EvaluationImages,
    ReferenceSet,
    check_judge,
    check_model_fits,
    judge_images,
    real_images,
)
from hfdiff.evaluation.report import describe_report, drawn_by, report_of
from hfdiff.figures.curves import style_levels, style_strengths
from hfdiff.figures.grids import save_figure
from hfdiff.pipelines import ClassStylePipeline, shown
from hfdiff.training.run_folder import home_of, run_config
from hfdiff.training.signals import leave_together

MAX_SAMPLES = 1_000_000
NUM_IMAGES, NUM_STYLED = 2_000, 1_000  # drawn by default
NEED_A_MODEL = "style_fidelity and recognition need a model"
# Flags that say how a model draws.
MODEL_FLAGS = (
    "guidance_scale style_guidance_scale autoguidance_scale guidance_rescale guidance_interval num_inference_steps "
    "sampler spacing num_styled minutes"
).split()


def main(flags: EvaluateFlags) -> int:
    output = checked_output(flags)
    process = PartialState(cpu=not torch.accelerator.is_available())
    use_all_cores(num_local_processes() if process.device.type == "cpu" else 1)
    with write_lock(output, "output") if process.is_main_process else contextlib.nullcontext():
        report = of_model(flags, process) if flags.images is None else of_images(flags, process)
        if process.is_main_process:
            write_json(output, report)
            if style_levels(report):
                save_figure(output.with_name(f"{output.stem}_styles.png"), style_strengths(report))
            print(f"{describe_report(report)}\nthe whole report: {output}")
    return leave_together(0)


def of_model(flags: EvaluateFlags, process: PartialState) -> dict[str, Any]:
    """Draw samples, and measure them: the report, in the main process."""
    pipeline = open_model(flags)
    if process.device.type != "cpu":
        pipeline.to(process.device)
    pipeline.set_progress_bar_config(disable=True)
    given = real_images(flags.model, flags.dataset, flags.resolution)
    check_model_fits(pipeline, given.training)
    check_model_fits(pipeline, given.held_out)
    judge, notes = judge_of(flags, given, process, pipeline.style_names)
    protocol = protocol_of(flags, pipeline, process)
    scorer = open_clip(flags.clip, pipeline, given.training)
    real = ReferenceSet.of(judge, given.training, given.held_out, flags.seed, copied=given.copied, scorer=scorer)
    names, missing = measurable(flags.metrics, real, protocol.n, protocol.num_styled)
    missing = notes + missing
    if not any(METRICS[name].styled for name in names):
        protocol = replace(protocol, num_styled=0)
    with as_bad_input():
        drawn = draw_samples(pipeline, real, protocol)
    run = run_config(flags.model)
    about: dict[str, Any] = {"seed": flags.seed, "model": flags.model, "best_by": run and run.best_by}
    about |= {"spacing": flags.spacing, "resized_to": given.resolution, "missing": missing, "selection": "none"}
    about |= drawn_by(pipeline, protocol.given)
    return report_of(real, drawn, names, **about) if process.is_main_process else {}


def of_images(flags: EvaluateFlags, process: PartialState) -> dict[str, Any]:
    """Measure images that any program made: the report, in the main process."""
    assert flags.images is not None
    given = real_images("", flags.dataset, flags.resolution)
    started = time.perf_counter()
    options = ReadOptions(flags.resolution, flags.image_column, flags.label_column)
    table = read_samples(Path(flags.images), given.training, options, flags.seed, flags.num_images)
    process.print(describe_samples(table))
    judge, notes = judge_of(flags, given, process)
    scorer = open_scorer(flags.clip, given.training, process.device)
    training, held_out = (beside(table, side) for side in (given.training, given.held_out))
    real = ReferenceSet.of(judge, training, held_out, flags.seed, copied=given.copied, scorer=scorer)
    real = replace(real, training=given.training)
    names, missing = measurable(flags.metrics, real, len(table), 0, without_model=True)
    absent = [f"no image of class {shown(name)}; real images of it are left out" for name in absent_classes(table)]
    missing = [*notes, *missing, *absent]
    samples = judge_images(judge, table.pixels, table.labels, scorer=scorer)
    drawn = EvaluationSamples(samples, None, time.perf_counter() - started)
    about = {"seed": flags.seed, "images": table.name, "resized_to": given.resolution, "missing": missing}
    return report_of(real, drawn, names, **about) if process.is_main_process else {}


def describe_samples(table: ImageTable) -> str:
    """How many samples there are of each class, and what was left out."""
    counts = [f"{shown(name)} {count:,}" for name, count in zip(table.class_names, table.class_counts())]
    left_out = [note for note in table.notes if note.startswith("left out")]
    return "\n".join([f"{len(table):,} images of {table.name}: {', '.join(counts)}", *left_out])


def judge_of(
    flags: EvaluateFlags, given: EvaluationImages, process: PartialState, style_names: Sequence[str] = ()
) -> tuple[Judge, list[str]]:
    """The judge of these real images, trained by the main process where there is none, and what is to be said of it:
    one asked for that judges other images makes room for the dataset's own."""
    notes = []
    with process.main_process_first():
        judge = open_judge(flags.judge, given.training, given.held_out, process.device)
        try:
            check_judge(judge, given.training, style_names)
        except BadInput as error:
            if flags.judge is None:
                raise
            notes = [f"--judge {flags.judge} is left out for the dataset's own: {error}"]
            judge = open_judge(None, given.training, given.held_out, process.device)
            check_judge(judge, given.training, style_names)
    return judge, notes


def protocol_of(flags: EvaluateFlags, pipeline: ClassStylePipeline, process: PartialState) -> Protocol:
    """How many samples are drawn, and how."""
    num_styled = (NUM_STYLED if flags.num_styled is None else flags.num_styled) if pipeline.style_names else 0
    protocol = Protocol(flags.num_images or NUM_IMAGES, num_styled, flags.seed, settings_of(flags))
    if flags.minutes is not None:
        with as_bad_input():
            protocol = within(flags.minutes, pipeline, protocol)
        process.print(f"{flags.minutes:g} minutes: {protocol.n:,} plain samples, {protocol.num_styled:,} in styles")
    return protocol


def measurable(
    asked: Sequence[str], real: ReferenceSet, n: int, num_styled: int, without_model: bool = False
) -> tuple[list[str], list[str]]:
    """Which metrics can be measured with so many samples, and what the others lack; BadInput for one asked for."""
    names = list(asked) or [name for name, row in METRICS.items() if row.default]
    left_out = [name for name in names if METRICS[name].styled and without_model]
    lacks = {name: missing_inputs(name, real, n, num_styled) for name in names if name not in left_out}
    missing = [*([NEED_A_MODEL] if left_out or (without_model and not asked) else []), *filter(None, lacks.values())]
    if asked and missing:
        raise BadInput("; ".join(missing))
    if "frechet_inception" in names:
        inception_network()
    return [name for name, lack in lacks.items() if not lack], missing


def checked_output(flags: EvaluateFlags) -> Path:
    """Where the report goes; BadInput for whatever can be refused before the model is loaded."""
    check_source(flags)
    num_images, num_styled = (
        default if given is None else given
        for given, default in ((flags.num_images, NUM_IMAGES), (flags.num_styled, NUM_STYLED))
    )
    check_range("num_images", num_images, 1, MAX_SAMPLES)
    check_range("num_styled", num_styled, 0, MAX_SAMPLES)
    if flags.minutes is not None:
        check_range("minutes", flags.minutes, 0.01, 100_000)
    for name in flags.metrics:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        row, have = METRICS[name], num_styled if METRICS[name].styled else num_images
        if have < row.least:
            what = "samples in styles" if row.styled else "samples"
            raise BadInput(f"{name} needs {row.least} {what}; there are {have}")
    output = Path(flags.output) if flags.output is not None else (home_of(flags.model) or Path()) / "metrics.json"
    return file_to_write(str(output) if flags.output is None else flags.output, "output")


def check_source(flags: EvaluateFlags) -> None:
    """BadInput unless there is one thing to measure, with the flags that go with it."""
    if (flags.images is None) == (not flags.model):
        choice = "one of MODEL and" if flags.model else "MODEL or"
        raise BadInput(f"give {choice} --images FOLDER, which is measured")
    if flags.images is None:
        extra = [name for name in ("image_column", "label_column") if getattr(flags, name) is not None]
        if extra:
            raise BadInput(f"--{extra[0]} goes with --images")
        return
    check_range("seed", flags.seed, 0, 2**63 - 1)
    extra = [name for name in MODEL_FLAGS if getattr(flags, name) not in (None, "auto")]
    if extra:
        raise BadInput(f"--images draws nothing, so {', '.join(f'--{name}' for name in extra)} cannot be used with it")
    if any(METRICS[name].styled for name in flags.metrics if name in METRICS):
        raise BadInput(NEED_A_MODEL)
    if flags.dataset is None:
        raise BadInput("--images needs --dataset: the real images that they are held against")
    if existing_folder(flags.images) is None:
        raise BadInput(f"--images is {flags.images[:100]!r}; valid: a folder of class folders, or of parquet")
