"""What training with a configuration costs on this machine, measured by taking a few of its steps."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator, PartialState
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hfdiff.core.threads import use_all_cores
from hfdiff.data.columns import Reading
from hfdiff.data.loading import load_training_data
from hfdiff.data.styles import check_styles
from hfdiff.data.table import ImageTable
from hfdiff.figures.grids import overview
from hfdiff.models.loading import make_pipeline
from hfdiff.models.objectives import Objective, make_objective
from hfdiff.models.sizes import describe_shape
from hfdiff.training.batch import draw_batch, make_inputs
from hfdiff.training.build import build_unet, make_state
from hfdiff.training.config import TrainConfig, check_config, with_shape
from hfdiff.training.initialisation import start_from
from hfdiff.training.loop import Step, loss_of, train, validate
from hfdiff.training.memory import peak_memory_gib
from hfdiff.training.precision import precision_of
from hfdiff.training.state import TrainState

WARM_UP_STEPS = 2
TIMED_STEPS, TIMED_SECONDS = 3, 4.0  # at least as many, and at least as long


@dataclass(frozen=True)
class Cost:
    """What training takes."""

    config: TrainConfig  # with the shape that was measured
    device: torch.device
    parameters: int
    forward_gflops: float  # of one image
    step_gflops: float  # of one image: forward and backward
    peak_memory_gib: float  # of the GPU, or of the whole process where there is none
    images_per_second: float
    parts: int  # micro-batches of a step

    def describe(self) -> str:
        batch = self.config.batch_size
        hours = 1e6 / self.images_per_second / 3600
        where = "this process" if self.device.type == "cpu" else str(self.device)
        return (
            f"model:     {self.parameters:,} parameters, {describe_shape(self.config)}\n"
            f"computing: {self.forward_gflops:.4f} GFLOPs an image forward, {self.step_gflops:.4f} in a training step "
            "(counted by torch.utils.flop_counter; a multiply-add is two)\n"
            f"memory:    {self.peak_memory_gib:.3f} GiB at the peak of {where}, batches of {batch} in micro-batches "
            f"of {batch // self.parts}, validation and samples included\n"
            f"time:      {hours:.2f} hours per million images, {self.images_per_second:.1f} images/s on {self.device} "
            f"in precision {self.config.mixed_precision}; as measured in a few steps, not promised"
        )


def measure(config: TrainConfig) -> Cost:
    """Load the data, take real steps, validate and sample as training does; nothing is written."""
    cpu = not torch.accelerator.is_available()
    check_config(config)
    precision, _ = precision_of(config.mixed_precision, PartialState(cpu=cpu).device)
    # No end, neither by images nor by the clock, lies within the steps that are measured.
    config = replace(with_shape(config), mixed_precision=precision, max_train_images=10**12, max_minutes=None)
    use_all_cores(1)
    reading = Reading(config.resolution, config.image_column, config.label_column, config.style_columns)
    table, validation = load_training_data(config.dataset, reading)
    check_styles(config.styles, table.channels, table.style_names)
    config, unet = start_from(config, table) if config.init_from else (config, build_unet(config, table))
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision)
    table, validation = table.to(accelerator.device), validation.to(accelerator.device)
    objective = make_objective(config, side=max(table.size))
    state = make_state(config, unet, accelerator, objective.learned)
    seconds = seconds_of_a_step(train(config, table, state, objective, accelerator), accelerator.device)
    watch(config, table, validation, state, objective, accelerator)
    memory = peak_memory_gib(accelerator.device)
    forward, step = gflops_of_an_image(config, table, state, objective, accelerator)
    return Cost(
        config=config,
        device=accelerator.device,
        parameters=unet.num_parameters(),
        forward_gflops=forward,
        step_gflops=step,
        peak_memory_gib=memory,
        images_per_second=config.batch_size / seconds,
        parts=state.parts,
    )


def seconds_of_a_step(steps: Iterator[Step], device: torch.device) -> float:
    """The mean over steps after a warm-up, the device's queue empty before and after."""

    def clock() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    for _ in range(WARM_UP_STEPS):
        next(steps)
    started, count = clock(), 0
    while count < TIMED_STEPS or time.perf_counter() < started + TIMED_SECONDS:
        next(steps)
        count += 1
    return (clock() - started) / count


def watch(
    config: TrainConfig,
    table: ImageTable,
    validation: ImageTable,
    state: TrainState,
    objective: Objective,
    accelerator: Accelerator,
) -> None:
    """Take the memory that watching a run takes: a chunk of validation, and one step of the overview's sampling."""
    few = torch.arange(min(len(validation), config.batch_size // state.parts))
    validate(config, validation.part(few), state, objective, accelerator)
    pipeline = make_pipeline(
        state.averaged(), objective.scheduler(), table.class_names, table.style_names, config.styles
    )
    pipeline.set_progress_bar_config(disable=True)
    overview(pipeline, config.seed, num_inference_steps=1)


def gflops_of_an_image(
    config: TrainConfig, table: ImageTable, state: TrainState, objective: Objective, accelerator: Accelerator
) -> tuple[float, float]:
    """Forward alone, and forward and backward, in 1e9 floating-point operations."""
    unet = accelerator.unwrap_model(state.unet)
    inputs = make_inputs(config, table, objective, draw_batch(config, table, 1, 0, accelerator.device))
    # The counter knows the products that attention is made of; a CPU's fused attention it counts as nothing.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            loss_of(unet, inputs, accelerator)
        with FlopCounterMode(display=False) as step:
            loss_of(unet, inputs, accelerator).backward()
    state.optimizer.zero_grad()
    return forward.get_total_flops() / 1e9, step.get_total_flops() / 1e9
