"""Training: a configuration, a state, and a generator that yields after every optimizer step.

Everything random in step k (images, flips, styles, noise, times, dropout) is drawn for the whole batch by one
generator seeded with (seed, k); processes and micro-batches take their slices. So a resumed run, more accumulation or
another number of processes learns the same. (Model dropout is seeded for each micro-batch: there the split matters.)
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from hfdiff.core.errors import TrainingFailed
from hfdiff.core.seeds import derive_seed
from hfdiff.data.table import ImageTable
from hfdiff.models.objectives import Objective
from hfdiff.training.batch import Inputs, draw_batch, make_inputs
from hfdiff.training.build import SCHEDULE_LEARNING_RATE
from hfdiff.training.config import TrainConfig
from hfdiff.training.memory import Attempt, fitting_micro_batches, is_out_of_memory, micro_batches_after_failure
from hfdiff.training.precision import attention_kernel
from hfdiff.training.progress import agree_on_time, decays_by_time, elapsed, lr_factor, out_of_time, share_done
from hfdiff.training.state import TrainState

MAX_SKIPPED_STEPS = 40  # fp16 halves its loss scale at each: from 65,536 to far below 1


@dataclass(frozen=True)
class Step:
    """What one optimizer step did."""

    step: int  # steps done, this one included
    images: int  # training images seen
    loss: Tensor  # scalar on the device, the mean over the batch; read it seldom
    learning_rate: float
    data_seconds: float  # spent preparing the batch
    share_before: float  # of the run's length, done before this step
    share: float  # and with it


def train(
    config: TrainConfig, table: ImageTable, state: TrainState, objective: Objective, accelerator: Accelerator
) -> Iterator[Step]:
    """Train from the state's step to the end of the run; yields after every optimizer step, the state up to date.

    A step whose fp16 gradients overflowed is taken again at a lower loss scale, one that ran out of memory in more
    micro-batches; nothing else moves meanwhile.
    """
    share = config.batch_size // accelerator.num_processes
    state.num_micro_batches = fitting_micro_batches(
        state.num_micro_batches,
        share,
        _attempt(config, table, state, objective, accelerator),
        state.optimizer,
        accelerator,
    )
    started, cpu_started = time.monotonic() - state.seconds, time.process_time() - state.cpu_seconds
    skipped = 0
    while state.step < config.num_steps and not out_of_time(config, state):
        images, share_before = state.step * config.batch_size, share_done(config, state)
        learning_rate = config.learning_rate * lr_factor(
            config, images, elapsed(config, state), bool(state.decays_by_time)
        )
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate
        done = _gradients(config, table, state, objective, accelerator)
        if done is None:
            state.num_micro_batches = micro_batches_after_failure(
                state.num_micro_batches, share, state.optimizer, accelerator
            )
            continue
        loss, data_seconds = done
        accelerator.unscale_gradients()
        torch.nn.utils.clip_grad_norm_(state.unet.parameters(), config.max_grad_norm, foreach=True)
        moved = _optimizer_step(state)
        loss = accelerator.reduce(loss, "mean")
        if not moved:
            skipped += 1
            if skipped > MAX_SKIPPED_STEPS or not torch.isfinite(loss):
                raise TrainingFailed(
                    f"step {state.step + 1}: loss {loss.item()}, gradients not finite at any loss scale"
                )
            continue
        skipped = 0
        state.seconds, state.cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
        agree_on_time(config, state, accelerator)
        if state.learned is not None:
            _learn_schedule(state, learning_rate / config.learning_rate, accelerator)
        state.step += 1
        state.loss_sum += loss
        state.loss_steps += 1
        state.decays_by_time = decays_by_time(config, state)
        share_after = share_done(config, state)
        _average(config, state, share_after, accelerator)
        images = state.step * config.batch_size
        yield Step(state.step, images, loss, learning_rate, data_seconds, share_before, share_after)


def _gradients(
    config: TrainConfig, table: ImageTable, state: TrainState, objective: Objective, accelerator: Accelerator
) -> tuple[Tensor, float] | None:
    """Leave a step's gradients in the UNet; this process's loss, and the seconds spent on data. None: out of memory."""
    rows = config.batch_size // (state.num_micro_batches * accelerator.num_processes)
    data_seconds, loss = 0.0, torch.zeros((), device=accelerator.device)
    tick = time.perf_counter()
    if state.learned_optimizer is not None:
        state.learned_optimizer.zero_grad()  # what a step that was not taken left
    try:
        randomness = draw_batch(config, table, config.batch_size, state.step, accelerator.device)
        for part in range(state.num_micro_batches):
            start = (part * accelerator.num_processes + accelerator.process_index) * rows
            inputs = make_inputs(config, table, objective, randomness[start : start + rows])
            data_seconds += time.perf_counter() - tick
            if config.dropout:
                torch.manual_seed(derive_seed(config.seed, state.step, start))
            last = part == state.num_micro_batches - 1
            with nullcontext() if last else accelerator.no_sync(state.unet):
                errors = errors_of(state.unet, inputs, accelerator)
                part_loss = (inputs.noised.weight * errors).mean() / state.num_micro_batches
                accelerator.backward(part_loss)
            loss += part_loss.detach()
            if state.learned is not None:
                scale = state.scaler.get_scale() if state.scaler else 1.0
                objective.learn(
                    inputs.noised,
                    errors.detach(),
                    scale / (rows * state.num_micro_batches),
                    1 / state.num_micro_batches,
                )
            tick = time.perf_counter()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if accelerator.num_processes > 1:  # the others wait for these gradients, and cannot be told
            raise TrainingFailed(
                f"step {state.step + 1}: out of memory with micro-batches of {rows} images; "
                f"raise gradient_accumulation_steps above {state.num_micro_batches}"
            ) from error
        return None
    return loss, data_seconds


def _attempt(
    config: TrainConfig, table: ImageTable, state: TrainState, objective: Objective, accelerator: Accelerator
) -> Attempt:
    """Forward and backward on the first images of the next step, in this process alone."""
    unet = accelerator.unwrap_model(state.unet)
    randomness = draw_batch(config, table, config.batch_size, state.step, accelerator.device)

    def attempt(rows: int) -> None:
        loss_of(unet, make_inputs(config, table, objective, randomness[:rows]), accelerator).backward()

    return attempt


def _average(config: TrainConfig, state: TrainState, share: float, accelerator: Accelerator) -> None:
    """Take the weights into the averages, and keep the guide where that is due."""
    for ema in state.averages:
        ema.update(accelerator.unwrap_model(state.unet).parameters(), state.step)
    if state.guide is None and 0 < config.guide_share <= share:
        state.keep_guide()


def _optimizer_step(state: TrainState) -> bool:
    """Take a step; False where the gradients overflowed and the optimizer left the weights alone.

    Accelerate's `step_was_skipped` does not see it: a fused optimizer is called all the same and skips inside.
    """
    before = state.scaler.get_scale() if state.scaler else 0.0
    state.optimizer.step()
    state.optimizer.zero_grad()
    return state.scaler is None or state.scaler.get_scale() >= before


def _learn_schedule(state: TrainState, factor: float, accelerator: Accelerator) -> None:
    """A step of the learned schedule, which all processes take alike."""
    assert state.learned is not None
    assert state.learned_optimizer is not None
    for weight in state.learned.parameters():
        weight.grad = accelerator.reduce(weight.grad, "mean")
    for group in state.learned_optimizer.param_groups:
        group["lr"] = SCHEDULE_LEARNING_RATE * factor
    state.learned_optimizer.step()


def errors_of(unet: torch.nn.Module, inputs: Inputs, accelerator: Accelerator) -> Tensor:
    """Mean squared error of each image (B,) in float32; only the UNet runs in the autocast precision."""
    noised = inputs.noised
    with accelerator.autocast(), attention_kernel(accelerator):
        prediction = unet(noised.sample, noised.timestep, return_dict=False, **inputs.conditions)[0]
    return (prediction.float() - noised.target).square().flatten(1).mean(dim=1)


def loss_of(unet: torch.nn.Module, inputs: Inputs, accelerator: Accelerator) -> Tensor:
    """The weighted mean of `errors_of`."""
    return (inputs.noised.weight * errors_of(unet, inputs, accelerator)).mean()


@torch.no_grad()
def validate(
    config: TrainConfig, table: ImageTable, state: TrainState, objective: Objective, accelerator: Accelerator
) -> float:
    """Loss of the EMA weights on the validation images (at most 1,000), with fixed noise, times and styles.

    No condition is dropped. The times are the mid-points of equal shares of the objective's distribution. Where the
    schedule is learned, it is the loss of the variational bound, which moves only with the model.
    """
    unet = state.ema_model()
    count = min(1000, len(table))
    eval_config = replace(config, drop_class=0.0, drop_style=0.0, drop_both=0.0, flip=False, augment=0.0, seed=0)
    randomness = draw_batch(eval_config, table, count, "validation", accelerator.device)
    order = torch.linspace(0, len(table) - 1, count).round().long()
    times = (randomness.times.argsort() + 0.5) / count
    randomness = replace(randomness, rows=order, times=times)
    chunk = max(1, config.batch_size // (state.num_micro_batches * accelerator.num_processes))
    total = 0.0
    starts = range(0, count, chunk)
    for start in starts[accelerator.process_index :: accelerator.num_processes]:
        part = randomness[start : min(start + chunk, count)]
        inputs = make_inputs(eval_config, table, objective, part)
        weight = inputs.noised.weight if state.learned is None else objective.bound_weight(inputs.noised.timestep)
        total += (weight * errors_of(unet, inputs, accelerator)).sum().item()
    return accelerator.reduce(torch.tensor(total, device=accelerator.device)).item() / count
