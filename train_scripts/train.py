"""Train a diffusion model that is steered by class and by style.

accelerate launch train_scripts/train.py --config train_scripts/configs/fashion_mnist.yaml --output_dir runs/fashion

The same command again resumes the run. --config FILE gives defaults, the other flags override them.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Before torch: threads that spin while they wait stall each other on a machine that is shared (5 times here).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from accelerate import Accelerator, PartialState

from hfdiff.core.config import parse
from hfdiff.core.errors import BadInput, TrainingFailed, complain, run_program
from hfdiff.core.threads import use_all_cores
from hfdiff.data.loading import load_training_data
from hfdiff.data.styles import check_styles
from hfdiff.data.table import ImageTable, describe
from hfdiff.evaluation.clip import find_clip, load_clip
from hfdiff.evaluation.judge import Judge, find_judge, unseen
from hfdiff.evaluation.monitor import QualityWatch
from hfdiff.figures.curves import loss_curves, quality_curves, quality_points
from hfdiff.figures.grids import overview, save_picture
from hfdiff.models.loading import MODEL_INDEX, export_pipeline, make_pipeline
from hfdiff.models.objectives import Objective, make_objective
from hfdiff.models.sizes import describe_shape
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.publish.card import write_card
from hfdiff.publish.hub import check_token, push, repo_name
from hfdiff.publish.records import Facts
from hfdiff.training import checkpoint
from hfdiff.training.build import build_unet, make_state
from hfdiff.training.config import TrainConfig, check_config, with_shape
from hfdiff.training.initialisation import start_from
from hfdiff.training.log import RunLog, write_record
from hfdiff.training.loop import Step, train, validate
from hfdiff.training.precision import precision_of
from hfdiff.training.progress import is_finished
from hfdiff.training.run_folder import RunFolder, run_lock, save_config
from hfdiff.training.signals import StopSignals, leave_together
from hfdiff.training.state import TrainState, check_finite


@dataclass
class Run:
    """What the parts of this program share."""

    folder: RunFolder
    config: TrainConfig
    table: ImageTable
    validation: ImageTable
    state: TrainState
    objective: Objective
    accelerator: Accelerator
    fingerprint: str
    watch: QualityWatch | None  # where the data has a judge
    clip: dict[str, Any]  # components of the saved pipeline, where the data has a CLIP
    claimed: bool  # is the folder's lock held already?

    def pipeline(self) -> ClassStylePipeline:
        """A pipeline around the averaged weights."""
        table, scheduler = self.table, self.objective.scheduler()
        return make_pipeline(self.state.averaged(), scheduler, table.class_names, table.style_names, self.config.styles)

    def export(self) -> None:
        """Save the pipeline, with all that it needs elsewhere."""
        pipeline = self.pipeline()
        pipeline.register_modules(**self.clip)
        export_pipeline(pipeline, self.folder.pipeline)

    def write_record(self) -> None:
        write_record(self.folder, self.config, self.state, self.table, self.accelerator)


def main(argv: Sequence[str]) -> int:
    config = parse(TrainConfig, argv, description=__doc__ or "")
    with contextlib.ExitStack() as claims:
        code = train_run(prepare(config, claims), claims)
    return leave_together(code)


def train_run(run: Run, claims: contextlib.ExitStack) -> int:
    """Train to the end, or until a signal; `claims` holds the folder's lock."""
    say, config, state = run.accelerator.print, run.config, run.state
    if is_finished(config, state):
        say(f"the run in {run.folder.path} is finished; its pipeline is {run.folder.pipeline}")
        if run.accelerator.is_main_process:
            save_config(run.folder, config)
            put_right(run)
        return publish(run)
    if run.accelerator.is_main_process:
        if not run.claimed:
            claims.enter_context(run_lock(run.folder))
            if run.folder.config.exists():
                raise BadInput(f"output_dir {run.folder.path}: another run has begun there meanwhile; give another")
        save_config(run.folder, config)
    run.accelerator.wait_for_everyone()
    with (
        StopSignals(run.accelerator) as signals,
        RunLog(run.folder, config, state, run.accelerator) as log,
        naming_the_last_good_state(run.folder),
    ):
        for step in train(config, run.table, state, run.objective, run.accelerator):
            log.count(step, config.batch_size)
            stopping = signals.received()
            after_step(run, step, log, stopping=bool(stopping))
            if stopping:
                log.say(f"stopped by signal {stopping} after {step.images:,} images; the same command resumes")
                return 128 + stopping
    say(f"done: {state.step * config.batch_size:,} images, best {config.best_by} {state.best_score:.4f}")
    for what in (run.folder.pipeline, run.folder.samples, run.folder.losses, run.folder.metrics):
        say(f"  {what}")
    return publish(run)


def put_right(run: Run) -> None:
    """What a crash after the last checkpoint, or a user, took from a finished run."""
    if not (run.folder.pipeline / MODEL_INDEX).is_file():
        run.accelerator.print("warning: its pipeline is gone; the last averaged weights are saved in its place")
        run.state.best_step = run.state.step
        run.export()
        run.write_record()
    if not run.folder.record.is_file():
        run.write_record()


def publish(run: Run) -> int:
    """Push to the Hub, where that is asked for; the exit code. A Hub that fails takes nothing from the run."""
    if not (run.config.push_to_hub and run.accelerator.is_main_process):
        return 0
    try:
        facts = Facts.of(str(run.folder.path))
        if not facts.has_current_card:
            write_card(facts)
        push(facts, run.config.hub_model_id, private=run.config.hub_private_repo)
    except BadInput as error:
        return complain(error, 2)
    except OSError as error:
        return complain(error, 1)
    return 0


@contextlib.contextmanager
def naming_the_last_good_state(folder: RunFolder) -> Iterator[None]:
    """While entered, a failure of training says what is left to go on from."""
    try:
        yield
    except TrainingFailed as error:
        try:
            saved = checkpoint.newest_checkpoint(folder, warn=lambda text: None)
        except BadInput:  # all are damaged
            saved = None
        left = f"the last good state is {saved.path}" if saved else "there is no good state to go on from"
        raise TrainingFailed(f"{error}; {left}") from error


def prepare(config: TrainConfig, claims: contextlib.ExitStack) -> Run:
    """Check everything, load the data, and build or resume the state; nothing is written before all is well."""
    cpu = not torch.accelerator.is_available()
    process = PartialState(cpu=cpu)
    say = process.print
    check_config(config, process.num_processes)
    if config.push_to_hub:
        repo_name(config.hub_model_id, Path(config.output_dir).resolve().name)
        check_token()
    config = with_shape(config)
    precision, reason = precision_of(config.mixed_precision, process.device)
    config = replace(config, mixed_precision=precision)
    folder = RunFolder(Path(config.output_dir))
    config = checkpoint.check_resume(folder, config)
    claimed = folder.config.exists()
    if process.is_main_process and claimed:
        claims.enter_context(run_lock(folder))
    use_all_cores(int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if cpu else 1)
    with process.main_process_first():
        table, validation = load_training_data(config.dataset, config.reading)
        saved = checkpoint.newest_checkpoint(folder, warn=lambda text: say(f"warning: {text}"))
    check_styles(config.styles, table.channels, table.style_names)
    fingerprint, judge = table.fingerprint, judge_of(config, table, validation)
    say(describe(table))
    say(f"styles: {', '.join(table.style_names + config.styles) or 'none'}")
    if saved:
        checkpoint.check_same_data(saved.numbers, fingerprint, config)
    if saved or config.init_from is None:
        unet = build_unet(config, table)
    else:
        config, unet = start_from(config, table)
        say(f"starting from {config.init_from}, which decides the model's shape")
    say(f"model: {unet.num_parameters():,} parameters, {describe_shape(config)}")
    say(f"precision: {precision} ({reason}); device: {process.device}")

    tracker = None if config.report_to == "none" else config.report_to
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision, log_with=tracker, project_dir=config.output_dir)
    device = accelerator.device
    objective = make_objective(config, side=max(table.size))
    state = make_state(config, unet, accelerator, objective.learned)
    if saved:
        state.load(saved.tensors, saved.numbers, accelerator)
        if not (folder.pipeline / MODEL_INDEX).is_file():
            state.best_score = float("inf")  # the pipeline is gone: the next validation saves one
        say(f"resuming after {state.step * config.batch_size:,} images, from {saved.path}")
    watch = None
    if judge:
        needed = config.best_by == "frechet_judge"
        watch = QualityWatch(judge.to(device), table, validation, config.seed, needed)
        watch.check()
    clip = clip_of(table)
    table, validation = table.to(device), validation.to(device)
    return Run(folder, config, table, validation, state, objective, accelerator, fingerprint, watch, clip, claimed)


def judge_of(config: TrainConfig, table: ImageTable, validation: ImageTable) -> Judge | None:
    """The judge that watches, where there is one of such pictures; BadInput where the best is chosen by it alone."""
    judge = find_judge(table)
    if judge and all(len(unseen(judge, part)) for part in (table, validation)):  # else it was trained on all of so few
        return judge
    if config.best_by == "frechet_judge":
        raise BadInput(
            f"best_by 'frechet_judge' needs a judge, and data set {config.dataset!r} has none of such pictures; train "
            "one with train_scripts/train_judge.py and the same flags of the data, or give best_by val_loss"
        )
    return None


def clip_of(table: ImageTable) -> dict[str, Any]:
    """The components that choose by CLIP, where the data has a small one."""
    if not (folder := find_clip(table)):
        return {}
    model, processor = load_clip(folder)
    return {"clip_model": model.half(), "clip_processor": processor}


def after_step(run: Run, step: Step, log: RunLog, stopping: bool) -> None:
    """Validate, log, draw and save where it is time, and at the end."""
    config, state, main = run.config, run.state, run.accelerator.is_main_process
    ends = is_finished(config, state)

    def due(interval: int) -> bool:
        return ends or step.images // interval > (step.images - config.batch_size) // interval

    validates, saves = due(config.validation_images), due(config.checkpointing_images) or stopping
    draws = due(config.sample_images)
    if validates or saves or draws or due(config.logging_images):
        check_finite(state, step.loss)
    quality = run.watch.measure(run.pipeline(), state) if draws and run.watch else {}
    val_loss = None
    if validates or quality:  # a distance is held against the loss of the same weights
        val_loss = validate(config, run.validation, state, run.objective, run.accelerator)
        if not val_loss < float("inf"):
            raise TrainingFailed(f"step {step.step}: the validation loss is {val_loss}; nothing of it is saved")
    score = val_loss if config.best_by == "val_loss" else quality.get("frechet_judge")
    if main and score is not None and score < state.best_score:
        state.best_score, state.best_step = score, step.step
        run.export()
        if run.folder.record.is_file():
            run.write_record()
    if val_loss is not None or due(config.logging_images):
        log.write(step, val_loss, quality)
    if main and saves:  # before what is only to be looked at
        numbers = state.numbers() | {"data": run.fingerprint}
        tensors = state.tensors(run.accelerator)
        checkpoint.save_checkpoint(run.folder.checkpoints, tensors, numbers, config.keep_checkpoints)
        run.write_record()
    if main and val_loss is not None:
        save_picture(run.folder.losses, loss_curves(run.folder.metrics))
    if main and quality and len(points := quality_points(run.folder.metrics)) > 1:
        save_picture(run.folder.quality, quality_curves(points))
    if main and draws:
        pipeline = run.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        grid = overview(pipeline, config.seed)
        save_picture(run.folder.samples / f"images-{step.images:09d}.png", grid.figure())


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
