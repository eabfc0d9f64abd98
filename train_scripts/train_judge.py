"""Train the judge of a data set: a small classifier that says what a picture shows.

accelerate launch train_scripts/train_judge.py --dataset cifar10
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# Before torch: threads that spin while they wait stall each other on a machine that is shared.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from accelerate import Accelerator

from hfdiff.core.config import parse
from hfdiff.core.errors import BadInput, run_program
from hfdiff.core.files import folder_to_write
from hfdiff.core.threads import use_all_cores
from hfdiff.data.columns import Reading
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.data.table import Half, describe
from hfdiff.evaluation.judge import WIDTHS, cached, unseen
from hfdiff.evaluation.judge_training import default_epochs, make_judge, save_judge, train_judge


@dataclass(frozen=True)
class JudgeConfig:
    dataset: str = "fashion_mnist_12k"
    """A data set of the table, a Hub id, or a folder of pictures."""
    output_dir: str | None = None
    """Folder of the weights (fp16) and the configuration; by default the cache, where every command finds it."""
    half: Half = "first"
    """Train on this half of the pictures and leave the other to a scorer; whole takes all."""
    image_column: str | None = None
    label_column: str | None = None
    style_columns: tuple[str, ...] = ()
    """As in training."""
    resolution: int | None = None
    """Resize all pictures to this many pixels a side."""
    epochs: int | None = None
    """Passes over the data; by default so many that about 660,000 pictures are seen."""
    batch_size: int = 128
    learning_rate: float = 4e-3
    widths: tuple[int, int, int] = WIDTHS
    seed: int = 0


def main(argv: Sequence[str]) -> int:
    config = parse(JudgeConfig, argv, description=__doc__ or "")
    if (config.epochs is not None and config.epochs < 1) or config.batch_size < 2 or min(config.widths) < 1:
        raise BadInput("valid: epochs from 1, batch_size from 2, widths from 1")
    out = None if config.output_dir is None else folder_to_write(config.output_dir)
    if out and out.exists():
        raise BadInput(f"output_dir {out} exists; give a new folder")
    accelerator = Accelerator()
    if accelerator.num_processes > 1:
        raise BadInput(f"{accelerator.num_processes} processes; valid: 1, the judge is small")
    reading = Reading(config.resolution, config.image_column, config.label_column, config.style_columns)
    table, validation = load_training_data(config.dataset, reading)
    test = load_test_data(config.dataset, reading)
    use_all_cores(1)
    print(describe(table))
    judge = make_judge(table, config.widths, config.half, config.seed).to(accelerator.device)
    epochs = config.epochs or default_epochs(table.half(config.half))
    training = train_judge(
        judge,
        table,
        validation,
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    for epoch in training:
        print(
            f"epoch {epoch.number} of {epochs}: loss {epoch.loss:.4f}, validation {epoch.validation_accuracy:.4f}",
            flush=True,
        )
    out = out or cached(table, config.half)
    judge = save_judge(judge, out, unseen(judge, test))
    print(f"{judge.test_accuracy:.4f} of {len(unseen(judge, test))} unseen pictures right; saved in {out}")
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
