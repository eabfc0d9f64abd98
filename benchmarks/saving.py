"""What saving costs: the seconds of a checkpoint, as a share of the training between two of them.

python benchmarks/saving.py --config train_scripts/configs/fashion_mnist.yaml --dataset fashion_mnist_12k
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from hfdiff.core.config import parse
from hfdiff.core.errors import run_program
from hfdiff.core.threads import use_all_cores
from hfdiff.training.checkpoint import save_checkpoint
from hfdiff.training.checks import resolve_config
from hfdiff.training.config import TrainConfig
from hfdiff.training.session import open_session

STEPS, SAVES = 12, 5


def median_seconds(action: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[times // 2]


def main(argv: Sequence[str]) -> int:
    config = resolve_config(replace(parse(TrainConfig, argv, __doc__ or ""), mixed_precision="no"))
    use_all_cores(1)
    session = open_session(config)
    state, accelerator, steps = session.state, session.accelerator, session.steps()
    list(islice(steps, 2))  # slower
    step = median_seconds(lambda: next(steps), STEPS)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        tensors, numbers = state.tensors(accelerator), state.numbers() | {"data": session.fingerprint}
        save = median_seconds(lambda: save_checkpoint(Path(folder), tensors, numbers, 2), SAVES)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors")) / 2**20
    between = config.checkpointing_images / config.batch_size * step
    print(f"{size:.1f} MiB saved in {save:.2f} s (median of {SAVES}), {config.batch_size} images in {step:.2f} s")
    print(f"a save every {config.checkpointing_images:,} images: {save / (between + save):.3%} of the time")
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
