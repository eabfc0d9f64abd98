"""The one set-up of training: data, UNet, objective and state of a resolved configuration."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator, PartialState

from hfdiff.core.errors import BadInput
from hfdiff.data.loading import load_training_data
from hfdiff.data.styles import check_styles, describe_styles, shown_styles, visible_shares
from hfdiff.data.table import ImageTable, describe, has_clean_ground
from hfdiff.models.loading import make_pipeline
from hfdiff.models.objectives import Objective, make_objective
from hfdiff.models.sizes import describe_shape
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.build import build_unet, make_state
from hfdiff.training.checkpoint import Checkpoint, check_same_data
from hfdiff.training.config import TrainConfig
from hfdiff.training.initialisation import initialise_from
from hfdiff.training.loop import Step, train, validate
from hfdiff.training.state import TrainState

TOO_NARROW = 8  # pixels: bf16 on a CPU gives NaN now and then


@dataclass
class Session:
    """All that steps are taken with."""

    config: TrainConfig  # every choice made
    table: ImageTable
    validation: ImageTable
    objective: Objective
    state: TrainState
    accelerator: Accelerator
    fingerprint: str  # of the training images
    asked_styles: tuple[str, ...]  # those of the configuration: the ones in training, and what the images do not show

    @property
    def asked(self) -> TrainConfig:
        """The configuration as it was given: what a run's folder keeps, and is resumed with."""
        return replace(self.config, styles=self.asked_styles)

    def steps(self) -> Iterator[Step]:
        """Take the steps that are left, one at a time."""
        return train(self.config, self.table, self.state, self.objective, self.accelerator)

    def validate(self) -> float:
        """The loss of the EMA weights on the validation images."""
        return validate(self.config, self.validation, self.state, self.objective, self.accelerator)

    def pipeline(self) -> ClassStylePipeline:
        """A pipeline around the EMA weights, without progress bars."""
        table, scheduler, styles = self.table, self.objective.scheduler(), self.config.styles
        names, clean_ends = (table.class_names, table.style_names, styles), has_clean_ground(table.pixels)
        pipeline = make_pipeline(self.state.ema_model(), scheduler, *names, clean_ends)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def open_session(
    config: TrainConfig,
    data: tuple[ImageTable, ImageTable] | None = None,
    accelerator: Accelerator | None = None,
    saved: Checkpoint | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Session:
    """Set up training by a configuration from `resolve_config`; nothing is written.

    data: training and validation images, by default those of the configuration. saved: the state to go on from;
    without, the weights are new, or those of `init_from`. BadInput where the data does not fit the configuration.
    """
    cpu = not torch.accelerator.is_available()
    if data is None:
        with PartialState(cpu=cpu).main_process_first():
            data = load_training_data(config.dataset, config.read_options)
    table, validation = data
    check_styles(config.styles, table.channels, table.style_names)
    if cpu and config.mixed_precision == "bf16" and min(table.size) <= TOO_NARROW:
        raise BadInput(
            f"images of {table.size[0]}x{table.size[1]} in bf16 on a CPU, where torch's GroupNorm gives NaN for what "
            f"is {TOO_NARROW} pixels wide or less; give --mixed_precision no"
        )
    log(describe(table, validation))
    asked, shares = config.styles, visible_shares(table.pixels, config.styles)
    if not (saved and num_styles(saved) == len(table.style_names) + len(asked)):  # of an older run, which took them all
        config = replace(config, styles=shown_styles(shares))
    log(describe_styles(table.style_names, shares, config.styles))
    fingerprint = table.fingerprint
    if saved:
        check_same_data(saved.numbers, fingerprint, config)
    if saved or config.init_from is None:
        unet = build_unet(config, table)
    else:
        config, unet = initialise_from(config, table)
        log(f"initialised from {config.init_from}, which decides the model's shape")
    log(f"model: {unet.num_parameters():,} parameters, {describe_shape(config)}")
    if accelerator is None:
        tracker = None if config.report_to == "none" else config.report_to
        accelerator = Accelerator(
            cpu=cpu, mixed_precision=config.mixed_precision, log_with=tracker, project_dir=config.output_dir
        )
    objective = make_objective(config, side=max(table.size))
    state = make_state(config, unet, accelerator, objective.learned)
    if saved:
        state.load(saved.tensors, saved.numbers, accelerator)
        log(f"resuming after {state.step * config.batch_size:,} images, from {saved.path}")
    table, validation = table.to(accelerator.device), validation.to(accelerator.device)
    return Session(config, table, validation, objective, state, accelerator, fingerprint, asked)


def num_styles(saved: Checkpoint) -> int:
    """Of the UNet in a checkpoint, whose style embedding has an input for each, and one more."""
    weight = saved.tensors["unet"].get("style_embed.0.weight")
    return 0 if weight is None else weight.shape[1] - 1
