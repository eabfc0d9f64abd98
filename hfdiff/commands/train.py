"""`hfdiff train`, and the program that `accelerate launch` starts: a session, what watches it, the run, the Hub."""

import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hfdiff.commands.flags import TrainConfig
from hfdiff.core.errors import BadInput, print_error
from hfdiff.core.files import write_json
from hfdiff.core.threads import num_local_processes, use_all_cores
from hfdiff.data.table import ImageTable
from hfdiff.evaluation.clip import find_clip, load_clip
from hfdiff.evaluation.judge import find_judge, unseen
from hfdiff.evaluation.monitor import QualityMonitor
from hfdiff.evaluation.reference_images import MOST_REFERENCE, ReferenceSet
from hfdiff.figures.curves import loss_curves, quality_curves, quality_points
from hfdiff.figures.grids import overview, save_figure
from hfdiff.publish.card import write_card
from hfdiff.publish.hub import check_token, push, repo_name
from hfdiff.publish.records import ModelRecords
from hfdiff.training.checks import resolve_config
from hfdiff.training.loop import Step
from hfdiff.training.run import Run, open_run, train_run
from hfdiff.training.session import Session
from hfdiff.training.signals import leave_together
from hfdiff.tuning.measure import open_to_measure
from hfdiff.tuning.settings import choose_settings, save_settings, usual_settings

SETTINGS_SHARE = 0.1  # of the training time, for choosing guidance and steps


def main(flags: TrainConfig) -> int:
    with contextlib.ExitStack() as locks:
        run = prepare(flags, locks)
        code = train_run(run)
        if not code:
            keep_settings(run)
        code = code or publish(run)
    return leave_together(code)


def prepare(config: TrainConfig, locks: contextlib.ExitStack) -> Run:
    """Check everything, load the data, and build or resume the state; nothing is written before all is well."""
    process = PartialState(cpu=not torch.accelerator.is_available())
    config = resolve_config(config, process.print)
    if config.push_to_hub:
        repo_name(config.hub_model_id, Path(config.output_dir).resolve().name)
        check_token()
    use_all_cores(num_local_processes() if process.device.type == "cpu" else 1)
    run = open_run(config, locks, process.print)
    run.monitor = monitor_of(run.session)
    run.components = clip_of(run.session.table)
    run.draw = draw_figures
    return run


def monitor_of(session: Session) -> QualityMonitor | None:
    """The judge that watches, where there is one of such images; BadInput where the best is chosen by it alone."""
    config, cpu = session.config, torch.device("cpu")
    table, validation = session.table.to(cpu), session.validation.to(cpu)
    judge, needed = find_judge(table), config.best_by == "frechet_judge"
    if judge and all(len(unseen(judge, part)) for part in (table, validation)):  # else it was trained on all of so few
        watch = QualityMonitor(judge.to(session.accelerator.device), table, validation, config.seed, needed)
        watch.check()
        return watch
    if needed:
        raise BadInput(
            f"best_by 'frechet_judge' needs a judge, and dataset {config.dataset!r} has none of such images; train "
            "one with hfdiff train-judge and the same flags of the data, or give best_by val_loss"
        )
    return None


def clip_of(table: ImageTable) -> dict[str, Any]:
    """The components that choose by CLIP, where the data has a small one."""
    if not (folder := find_clip(table)):
        return {}
    model, processor = load_clip(folder)
    return {"clip_model": model.half(), "clip_processor": processor}


def draw_figures(run: Run, step: Step, due: Collection[str]) -> None:
    """The curves of a run, and its samples."""
    folder = run.folder
    if "validation" in due:
        save_figure(folder.losses, loss_curves(folder.metrics))
    if "sample" in due:
        if len(points := quality_points(folder.metrics)) > 1:
            save_figure(folder.quality, quality_curves(points))
        grid = overview(run.session.pipeline(), run.session.config.seed)
        save_figure(folder.samples / f"images-{step.images:09d}.png", grid.figure())


def keep_settings(run: Run) -> None:
    """Let the pipeline keep the guidance, sampler and steps that suit it: chosen where a judge and the time allow it,
    else its objective's. A finished run whose record does not say what came of it was cut off before."""
    session, watch = run.session, run.monitor
    config = session.config
    done = run.is_main and "settings" in json.loads(run.folder.record.read_text(encoding="utf-8"))
    if not config.choose_settings or broadcast_object_list([done])[0]:
        return
    found, scheduler = None, session.objective.scheduler()
    if isinstance(watch, QualityMonitor):
        pipeline = open_to_measure(str(run.folder.path))
        pipeline.scheduler = scheduler
        found = choose_settings(
            pipeline,
            lambda: ReferenceSet.apart(watch.judge, watch.training, config.seed, MOST_REFERENCE),
            SETTINGS_SHARE * session.state.seconds,
            samplers=config.sampler == config.spacing == "auto",
        )
    if run.is_main:
        found = found or usual_settings(config.objective)
        save_settings(str(run.folder.pipeline), found["chosen"], scheduler)
        said = ", ".join(f"{key} {value}" for key, value in found["chosen"].items())
        run.print(f"saved with {said}: {found['by']}")
        record = json.loads(run.folder.record.read_text(encoding="utf-8"))
        write_json(run.folder.record, record | {"settings": found})


def publish(run: Run) -> int:
    """Push to the Hub, where that is asked for; the exit code. A Hub that fails takes nothing from the run."""
    config = run.session.config
    if not (config.push_to_hub and run.is_main):
        return 0
    try:
        records = ModelRecords.of(str(run.folder.path))
        if not records.has_current_card:
            write_card(records)
        push(records, config.hub_model_id, private=config.hub_private_repo)
    except BadInput as error:
        return print_error(error, 2)
    except OSError as error:
        return print_error(error, 1)
    return 0
