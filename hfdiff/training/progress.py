"""How far a run is: its learning rate, and its end by images or by the clock."""

import math

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from hfdiff.training.config import OptimisationConfig
from hfdiff.training.state import TrainState


def time_limit(config: OptimisationConfig) -> float | None:
    """Seconds that the run may take, by the clock of `elapsed`."""
    minutes = config.max_minutes if config.max_cpu_minutes is None else config.max_cpu_minutes
    return None if minutes is None else 60 * minutes


def elapsed(config: OptimisationConfig, state: TrainState) -> float:
    """Seconds spent by the clock that may end the run: the wall's, or the processor's."""
    return state.seconds if config.max_cpu_minutes is None else state.cpu_seconds


def lr_factor(config: OptimisationConfig, images: int, seconds: float = 0.0, decays_by_time: bool = False) -> float:
    """The learning rate after `images` images and `elapsed` seconds, as a share of its peak."""
    warmup = min(1.0, (images + config.batch_size) / max(config.lr_warmup_images, 1))
    left = max(0.0, 1 - images / (config.num_steps * config.batch_size))
    if config.lr_schedule == "cosine":
        decay = 0.5 * (1 - math.cos(math.pi * left))
    elif config.lr_schedule == "linear":
        decay = min(1.0, left / config.lr_decay_share) if config.lr_decay_share else 1.0
    elif config.lr_schedule == "step":
        decay = 0.1 ** sum(images >= share * config.num_steps * config.batch_size for share in (0.6, 0.85))
    else:
        decay = 1.0
    limit = time_limit(config)
    if decays_by_time and limit and config.lr_decay_share:
        time_left = max(0.0, 1 - seconds / limit)
        decay = min(decay, time_left / config.lr_decay_share)
    return warmup * decay


def share_done(config: OptimisationConfig, state: TrainState) -> float:
    """How much of the run is done, 0 to 1: by images or by the clock, whichever is nearer to its end."""
    limit = time_limit(config)
    by_clock = elapsed(config, state) / limit if limit else 0.0
    return min(1.0, max(state.step / config.num_steps, by_clock))


def out_of_time(config: OptimisationConfig, state: TrainState) -> bool:
    limit = time_limit(config)
    return limit is not None and elapsed(config, state) >= limit


def is_finished(config: OptimisationConfig, state: TrainState) -> bool:
    return state.step >= config.num_steps or out_of_time(config, state)


def agree_on_time(config: OptimisationConfig, state: TrainState, accelerator: Accelerator) -> None:
    """Let all processes go by the first one's clocks, where one decides anything."""
    if time_limit(config) is None or accelerator.num_processes == 1:
        return
    clocks = torch.tensor([state.seconds, state.cpu_seconds], dtype=torch.float64, device=accelerator.device)
    state.seconds, state.cpu_seconds = broadcast(clocks).tolist()


def decays_by_time(config: OptimisationConfig, state: TrainState) -> bool | None:
    """Decided once, when the time left is that of the decay: will the clock end the run before the images do?"""
    limit, seconds = time_limit(config), elapsed(config, state)
    if limit is None or state.decays_by_time is not None:
        return state.decays_by_time
    if seconds < (1 - config.lr_decay_share) * limit:
        return None
    return state.step * limit / seconds < config.num_steps
