"""What training with a configuration costs on this machine, measured by taking a few of its steps."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from accelerate.state import AcceleratorState
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hfdiff.core.threads import use_all_cores
from hfdiff.data.loading import stand_in_data
from hfdiff.data.styles import describe_styles, visible_shares
from hfdiff.models.sizes import describe_shape
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.batch import draw_batch, make_inputs
from hfdiff.training.checks import resolve_config
from hfdiff.training.config import TrainConfig
from hfdiff.training.loop import Step, loss_of
from hfdiff.training.memory import peak_memory_gib
from hfdiff.training.session import Session, open_session

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
    num_micro_batches: int  # micro-batches of a step
    styles: str | None = None  # and how many of the images show them, where images were read

    def describe(self) -> str:
        batch = self.config.batch_size
        hours = 1e6 / self.images_per_second / 3600
        where = "this process" if self.device.type == "cpu" else str(self.device)
        return (
            f"model:     {self.parameters:,} parameters, {describe_shape(self.config)}\n"
            f"computing: {self.forward_gflops:.4f} GFLOPs an image forward, {self.step_gflops:.4f} in a training step "
            "(counted by torch.utils.flop_counter; a multiply-add is two)\n"
            f"memory:    {self.peak_memory_gib:.3f} GiB at the peak of {where}, batches of {batch} in micro-batches "
            f"of {batch // self.num_micro_batches}, validation and samples included\n"
            f"time:      {hours:.2f} hours per million images, {self.images_per_second:.1f} images/s on {self.device} "
            f"in precision {self.config.mixed_precision}; as measured in a few steps, not promised"
            + (f"\n{self.styles}" if self.styles else "")
        )


def measure(config: TrainConfig, draw: Callable[[ClassStylePipeline, int], object]) -> Cost:
    """Load the data, take real steps, validate and draw as training does; nothing is written.

    For a dataset of the table that is on the Hub, noise of its shape does: nothing is downloaded.

    `draw` takes one step of drawing what training draws, from a pipeline and a seed.
    """
    # No end, neither by images nor by the clock, lies within the steps that are measured.
    config = replace(
        resolve_config(config), max_train_images=10**12, max_minutes=None, max_cpu_minutes=None, report_to="none"
    )
    use_all_cores(1)
    AcceleratorState._reset_state()  # one process may measure several precisions, which accelerate keeps for good
    stand_in = stand_in_data(config.dataset, config.read_options)
    session = open_session(config, data=stand_in)
    config, state, device = session.config, session.state, session.accelerator.device
    seconds = seconds_of_a_step(session.steps(), device)
    few = torch.arange(min(len(session.validation), config.batch_size // state.num_micro_batches))
    replace(session, validation=session.validation.part(few)).validate()  # takes the memory that a chunk takes
    draw(session.pipeline(), config.seed)
    memory = peak_memory_gib(device)
    forward, step = gflops_of_an_image(session)
    return Cost(
        config=config,
        device=device,
        parameters=session.accelerator.unwrap_model(state.unet).num_parameters(),
        forward_gflops=forward,
        step_gflops=step,
        peak_memory_gib=memory,
        images_per_second=config.batch_size / seconds,
        num_micro_batches=state.num_micro_batches,
        styles=None if stand_in else styles_of(session),
    )


def styles_of(session: Session) -> str:
    """The styles that are learned, and those that the images do not show."""
    shares = visible_shares(session.table.pixels, session.asked_styles)
    return describe_styles(session.table.style_names, shares, session.config.styles)


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


def gflops_of_an_image(session: Session) -> tuple[float, float]:
    """Forward alone, and forward and backward, in 1e9 floating-point operations."""
    config, table, accelerator = session.config, session.table, session.accelerator
    unet = accelerator.unwrap_model(session.state.unet)
    inputs = make_inputs(config, table, session.objective, draw_batch(config, table, 1, 0, accelerator.device))
    # The counter knows the products that attention is made of; a CPU's fused attention it counts as nothing.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            loss_of(unet, inputs, accelerator)
        with FlopCounterMode(display=False) as step:
            loss_of(unet, inputs, accelerator).backward()
    session.state.optimizer.zero_grad()
    return forward.get_total_flops() / 1e9, step.get_total_flops() / 1e9
