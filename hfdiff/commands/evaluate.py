"""`hfdiff evaluate`."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hfdiff.commands.flags import EvaluateFlags
from hfdiff.commands.options import open_clip, open_judge, open_model, settings_of
from hfdiff.core.errors import BadInput, as_bad_input, check_range
from hfdiff.core.files import file_to_write, write_json
from hfdiff.core.locks import write_lock
from hfdiff.core.names import unknown
from hfdiff.core.threads import num_local_processes, use_all_cores
from hfdiff.evaluation.clip import describe_clip
from hfdiff.evaluation.distances import inception_network
from hfdiff.evaluation.metrics import METRICS, missing_inputs
from hfdiff.evaluation.protocol import Protocol, draw_samples, within
from hfdiff.evaluation.reference_images import ReferenceSet, check_judge, check_model_fits, real_images
from hfdiff.evaluation.report import describe_report, report_of
from hfdiff.training.run_folder import home_of, run_config
from hfdiff.training.signals import leave_together

MAX_SAMPLES = 1_000_000


def main(flags: EvaluateFlags) -> int:
    output = checked_output(flags)
    process = PartialState(cpu=not torch.accelerator.is_available())
    use_all_cores(num_local_processes() if process.device.type == "cpu" else 1)
    with write_lock(output, "output") if process.is_main_process else contextlib.nullcontext():
        return measure(flags, output, process)


def measure(flags: EvaluateFlags, output: Path, process: PartialState) -> int:
    """Draw the samples, measure them, and write the report."""
    pipeline = open_model(flags)
    if process.device.type != "cpu":
        pipeline.to(process.device)
    pipeline.set_progress_bar_config(disable=True)
    given = real_images(flags.model, flags.dataset, flags.resolution)
    training, held_out = given.training, given.held_out
    check_model_fits(pipeline, training)
    check_model_fits(pipeline, held_out)
    with process.main_process_first():
        judge = open_judge(flags.judge, training, held_out, process.device)
    check_judge(judge, training, pipeline.style_names)
    num_styled = flags.num_styled if pipeline.style_names else 0
    protocol = Protocol(flags.num_images, num_styled, flags.seed, settings_of(flags))
    if flags.minutes is not None:
        with as_bad_input():
            protocol = within(flags.minutes, pipeline, protocol)
        process.print(f"{flags.minutes:g} minutes: {protocol.n:,} plain samples, {protocol.num_styled:,} in styles")
    scorer = open_clip(flags.clip, pipeline, training)
    real = ReferenceSet.of(judge, training, held_out, flags.seed, copied=given.copied, scorer=scorer)
    asked = flags.metrics or [name for name, row in METRICS.items() if row.default]
    lacks = {name: missing_inputs(name, real, protocol.n, protocol.num_styled) for name in asked}
    missing = [lack for lack in lacks.values() if lack]
    if missing and flags.metrics:
        raise BadInput("; ".join(missing))
    if not any(METRICS[name].styled for name, lack in lacks.items() if not lack):
        protocol = replace(protocol, num_styled=0)
    if "frechet_inception" in asked:
        inception_network()
    with as_bad_input():
        drawn = draw_samples(pipeline, real, protocol)
    if process.is_main_process:
        names = [name for name, lack in lacks.items() if not lack]
        run = run_config(flags.model)
        about: dict[str, Any] = {"model": flags.model, "best_by": run and run.best_by, "spacing": flags.spacing}
        about |= {"resized_to": given.resolution, "missing": missing}
        about["clip"] = None if scorer is None else describe_clip(scorer.model)
        report = report_of(pipeline, real, protocol, drawn, names, **about)
        write_json(output, report)
        print("\n".join([describe_report(report), *missing, f"the whole report: {output}"]))
    return leave_together(0)


def checked_output(flags: EvaluateFlags) -> Path:
    """Where the report goes; BadInput for whatever can be refused before the model is loaded."""
    check_range("num_images", flags.num_images, 1, MAX_SAMPLES)
    check_range("num_styled", flags.num_styled, 0, MAX_SAMPLES)
    if flags.minutes is not None:
        check_range("minutes", flags.minutes, 0.01, 100_000)
    for name in flags.metrics:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        row, have = METRICS[name], flags.num_styled if METRICS[name].styled else flags.num_images
        if have < row.least:
            what = "samples in styles" if row.styled else "samples"
            raise BadInput(f"{name} needs {row.least} {what}; there are {have}")
    output = Path(flags.output) if flags.output is not None else (home_of(flags.model) or Path()) / "metrics.json"
    return file_to_write(str(output) if flags.output is None else flags.output, "output")
