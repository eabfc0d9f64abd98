"""Images per second of the training program against a bare PyTorch loop: the same UNet, batch, precision and machine.

The bare loop does forward, loss, backward and the optimizer's step on tensors that are already in memory; training also
draws, styles and noises each batch, clips, averages the weights and looks at the clock. Both take turns in one
process, so that other work on the machine hits both.

python benchmarks/throughput.py --config train_scripts/configs/demo.yaml
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from hfdiff.core.config import parse
from hfdiff.core.errors import run_program
from hfdiff.core.threads import use_all_cores
from hfdiff.training.batch import draw_batch, make_inputs
from hfdiff.training.build import build_unet
from hfdiff.training.checks import resolve_config
from hfdiff.training.config import TrainConfig
from hfdiff.training.session import Session, open_session

ROUNDS, STEPS = 12, 8


def main(argv: Sequence[str]) -> int:
    config = replace(parse(TrainConfig, argv, __doc__ or ""), max_train_images=10**9, max_minutes=None)
    use_all_cores(1)
    session = open_session(resolve_config(config))
    config, accelerator, steps = session.config, session.accelerator, session.steps()
    waits = []

    def program() -> None:
        waits.append(next(steps).data_seconds)

    bare = bare_loop(session)
    programs = {"bare loop": bare, "training": program}
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(ROUNDS + 1):  # the first round warms up
        for name, step in programs.items():
            seconds = clock(step, accelerator)
            if number:
                speeds[name].append(config.batch_size * STEPS / seconds)
    for name, values in speeds.items():
        print(f"{name:>10}: {statistics.median(values):8.1f} images/s (median of {ROUNDS} rounds of {STEPS} steps)")
    ratios = [a / b for a, b in zip(speeds["training"], speeds["bare loop"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"     ratio: {middle:.3f} (quartiles {low:.3f} to {high:.3f})")
    share = sum(waits) / (len(waits) * config.batch_size / statistics.median(speeds["training"]))
    where = f"precision {config.mixed_precision}, {accelerator.device}"
    print(f" data wait: {share:.4f} of a step; batch {config.batch_size}, {where}")
    return 0


def bare_loop(session: Session) -> Callable[[], None]:
    """A step of the plain loop, on four batches made beforehand."""
    config, table, objective, accelerator = session.config, session.table, session.objective, session.accelerator
    unet = build_unet(config, table).to(accelerator.device).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=config.learning_rate, fused=True)
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=accelerator.mixed_precision == "fp16")
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision)
    drawn = [draw_batch(config, table, config.batch_size, step, accelerator.device) for step in range(4)]
    batches = itertools.cycle([make_inputs(config, table, objective, randomness) for randomness in drawn])

    def step() -> None:
        batch = next(batches)
        with torch.autocast(accelerator.device.type, dtype=dtype, enabled=dtype is not None):
            prediction = unet(batch.noised.sample, batch.noised.timestep, **batch.conditions).sample
        scaler.scale(F.mse_loss(prediction.float(), batch.noised.target)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def clock(step: Callable[[], None], accelerator: Accelerator) -> float:
    """Seconds for `STEPS` steps, the device's queue empty before and after."""
    on_gpu = accelerator.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
