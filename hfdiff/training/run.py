"""A run: a session with a folder, taken from its first step, or its last checkpoint, to its end."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from accelerate import PartialState

from hfdiff.core.errors import BadInput, TrainingFailed
from hfdiff.core.files import at_home, is_json
from hfdiff.core.locks import write_lock
from hfdiff.models.loading import MODEL_INDEX, export_pipeline
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.checkpoint import Checkpoint, check_resume, newest_checkpoint, recover_run, save_checkpoint
from hfdiff.training.config import TrainConfig
from hfdiff.training.log import RunLog, write_record
from hfdiff.training.loop import Step
from hfdiff.training.posthoc_ema import drop_later, is_due, save_snapshot
from hfdiff.training.progress import is_finished
from hfdiff.training.run_folder import RunFolder, save_config, saved_config
from hfdiff.training.session import Session, open_session
from hfdiff.training.signals import StopSignals
from hfdiff.training.state import TrainState, check_finite

# What happens every so many images, and at the end; the configuration's key is NAME_images.
INTERVALS = ("logging", "validation", "sample", "checkpointing")


class Monitor(Protocol):
    """What measures samples while a model trains: metric -> value, empty where there is no time for it."""

    def measure(self, pipeline: ClassStylePipeline, state: TrainState) -> dict[str, float]: ...


@dataclass
class Run:
    """A session and its folder; the caller sets a monitor, components to save with the pipeline, and figures."""

    session: Session
    folder: RunFolder
    monitor: Monitor | None = None
    components: dict[str, Any] = field(default_factory=dict)
    draw: Callable[["Run", Step, Collection[str]], None] = lambda run, step, due: None

    @property
    def is_main(self) -> bool:
        return self.session.accelerator.is_main_process

    @property
    def is_finished(self) -> bool:
        return is_finished(self.session.config, self.session.state)

    def print(self, text: str) -> None:
        self.session.accelerator.print(text)

    def export(self) -> None:
        """Save the pipeline, with all that it needs elsewhere."""
        pipeline = self.session.pipeline()
        pipeline.register_modules(guide_unet=self.session.state.guide, **self.components)
        export_pipeline(pipeline, self.folder.pipeline)

    def save(self) -> None:
        """Save a checkpoint, and what is known of the run."""
        session, config = self.session, self.session.config
        numbers = session.state.numbers() | {"data": session.fingerprint}
        tensors = session.state.tensors(session.accelerator)
        save_checkpoint(self.folder.checkpoints, tensors, numbers, config.keep_checkpoints)
        self.write_record()

    def write_record(self) -> None:
        session = self.session
        write_record(self.folder, session.config, session.state, session.table, session.accelerator)


def open_run(config: TrainConfig, locks: contextlib.ExitStack, print_line: Callable[[str], None]) -> Run:
    """The run of a resolved configuration, new or resumed; `locks` holds its folder, before anything in it is read.

    A crash's leftovers are put right; else nothing is written yet.
    """
    folder = RunFolder(at_home(config.output_dir))
    process = PartialState()
    if process.is_main_process:
        locks.enter_context(write_lock(folder.path))
    config = check_resume(folder, config)
    with process.main_process_first():
        if process.is_main_process:
            recover_run(folder)
        saved = newest_checkpoint(folder, warn=lambda text: print_line(f"warning: {text}"))
    before = saved_config(folder.config) if saved else config
    session = open_session(config, saved=saved, log=print_line)
    if any(
        getattr(before, key) != getattr(config, key) for key in ("max_minutes", "max_cpu_minutes", "max_train_images")
    ):
        session.state.decays_by_time = None  # to be decided anew
    return Run(session, folder)


def train_run(run: Run) -> int:
    """Train to the end, or until a signal; the exit code."""
    session, folder = run.session, run.folder
    config, state = session.config, session.state
    if run.is_finished:
        run.print(f"the run in {folder.path} is finished; its pipeline is {folder.pipeline}")
        if run.is_main:
            save_config(folder, session.asked)
            repair_finished_run(run)
        return 0
    if run.is_main:
        begin(run)
    session.accelerator.wait_for_everyone()
    with (
        StopSignals(session.accelerator) as signals,
        RunLog(folder, config, state, session.accelerator) as log,
        report_last_checkpoint(folder, config.mixed_precision),
    ):
        for step in session.steps():
            log.count(step, config.batch_size)
            stopping = signals.received()
            after_step(run, step, log, due_after(run, step, stopping=bool(stopping)))
            if stopping:
                log.print(f"stopped by signal {stopping} after {step.images:,} images; the same command resumes")
                return 128 + stopping
    run.print(f"done: {state.step * config.batch_size:,} images, best {config.best_by} {state.best_score:.4f}")
    if state.guide and state.best_step <= state.guide_step:
        best, guide = (step * config.batch_size for step in (state.best_step, state.guide_step))
        run.print(f"warning: its weights, of {best:,} images, are no later than those to guide them, of {guide:,}")
    for what in (folder.pipeline, folder.samples, folder.losses, folder.metrics):
        run.print(f"  {what}")
    return 0


def begin(run: Run) -> None:
    """Write the configuration: from here on the same command resumes."""
    if run.session.state.best_score < float("inf") and not (run.folder.pipeline / MODEL_INDEX).is_file():
        run.print("warning: its pipeline is gone; the next weights that are measured for best_by take its place")
        run.session.state.forget_best()
    drop_later(run.folder.snapshots, run.session.state.step)
    save_config(run.folder, run.session.asked)


def due_after(run: Run, step: Step, stopping: bool) -> frozenset[str]:
    """What is to be done after this step: all at the end of the run, checkpointing before it stops."""
    config = run.session.config

    def ends(interval: int) -> bool:
        return run.is_finished or step.images // interval > (step.images - config.batch_size) // interval

    due = {name for name in INTERVALS if ends(getattr(config, f"{name}_images"))}
    if config.ema_profiles and is_due(step.share_before, step.share):
        due.add("snapshot")
    return frozenset(due | {"checkpointing"} if stopping else due)


def after_step(run: Run, step: Step, log: RunLog, due: Collection[str]) -> None:
    """Measure, keep the best, log, save and draw, as is due."""
    if not due:
        return
    session = run.session
    check_finite(session.state, step.loss)
    quality = run.monitor.measure(session.pipeline(), session.state) if "sample" in due and run.monitor else {}
    val_loss = None
    if "validation" in due or quality:  # a distance is held against the loss of the same weights
        val_loss = session.validate()
        if not val_loss < float("inf"):
            raise TrainingFailed(f"step {step.step}: the validation loss is {val_loss}; nothing of it is saved")
    keep_best(run, step, val_loss if session.config.best_by == "val_loss" else quality.get("frechet_judge"))
    if val_loss is not None or "logging" in due:
        log.write(step, val_loss, quality)
    if run.is_main and "snapshot" in due:  # before a checkpoint that goes on without it
        save_snapshot(run.folder.snapshots, step.step, session.state.profile_tensors())
    if run.is_main and "checkpointing" in due:  # before what is only to be looked at
        run.save()
    if run.is_main:
        run.draw(run, step, due)


def keep_best(run: Run, step: Step, score: float | None) -> None:
    """Export the pipeline where its score, of which less is better, is the best so far."""
    state = run.session.state
    if not run.is_main or score is None or not score < state.best_score:
        return
    state.best_score, state.best_step = score, step.step
    run.export()
    if run.folder.record.is_file():
        run.write_record()


def repair_finished_run(run: Run) -> None:
    """Put back what a crash after the last checkpoint, or a user, took from a finished run."""
    if not (run.folder.pipeline / MODEL_INDEX).is_file():
        run.print("warning: its pipeline is gone; the last EMA weights are saved in its place")
        run.session.state.forget_best()
        run.export()
        run.save()
    if not is_json(run.folder.record):
        run.write_record()


@contextlib.contextmanager
def report_last_checkpoint(folder: RunFolder, precision: str = "no") -> Iterator[None]:
    """While entered, a failure of training says what is left to go on from, and what may help."""
    try:
        yield
    except TrainingFailed as error:
        saved: Checkpoint | None = None
        with contextlib.suppress(BadInput):  # all are damaged
            saved = newest_checkpoint(folder, warn=lambda text: None)
        left = f"the last good state is {saved.path}" if saved else "there is no good state to go on from"
        way = "" if precision == "no" else f" in {precision}, which --mixed_precision no with a new output_dir avoids"
        raise TrainingFailed(f"{error}{way}; {left}") from error
