"""Train the small CLIP of a data set: it scores pictures by prompts that name class, style and quality.

accelerate launch train_scripts/train_clip.py --dataset fashion_mnist --output_dir runs/clip
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
from hfdiff.evaluation.clip_training import DEFAULT_EPOCHS, make_clip, measure_clip, save_clip, train_clip


@dataclass(frozen=True)
class ClipConfig:
    dataset: str = "fashion_mnist_12k"
    """A data set of the table, a Hub id, or a folder of pictures."""
    output_dir: str = "runs/clip"
    """Folder of the model and its processor, for from_pretrained."""
    half: Half = "second"
    """Train on this half of the pictures and leave the other to the judge; whole takes all."""
    image_column: str | None = None
    label_column: str | None = None
    style_columns: tuple[str, ...] = ()
    """As in training."""
    resolution: int | None = None
    """Resize all pictures to this many pixels a side."""
    epochs: int = DEFAULT_EPOCHS
    """Passes over the data."""
    batch_size: int = 256
    learning_rate: float = 4e-3
    seed: int = 0


def main(argv: Sequence[str]) -> int:
    config = parse(ClipConfig, argv, description=__doc__ or "")
    if config.epochs < 1 or config.batch_size < 2 or not 0 < config.learning_rate <= 1:
        raise BadInput(
            f"epochs {config.epochs}, batch_size {config.batch_size}, learning_rate {config.learning_rate}; valid: "
            "epochs from 1, batch_size from 2, learning_rate above 0, to 1"
        )
    out = folder_to_write(config.output_dir)
    if out.exists():
        raise BadInput(f"output_dir {out} exists; give a new folder")
    accelerator = Accelerator()
    if accelerator.num_processes > 1:
        raise BadInput(f"{accelerator.num_processes} processes; valid: 1, the model is small")
    reading = Reading(config.resolution, config.image_column, config.label_column, config.style_columns)
    table, _ = load_training_data(config.dataset, reading)
    test = load_test_data(config.dataset, reading)
    use_all_cores(1)
    print(describe(table))
    scorer = make_clip(table, config.seed)
    training = train_clip(
        scorer,
        table.half(config.half),
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    for epoch in training:
        print(f"epoch {epoch.number} of {config.epochs}: loss {epoch.loss:.4f}", flush=True)
    worth = measure_clip(scorer, test)
    save_clip(scorer, out, table, config.half, worth)
    print(f"{worth.describe()}; saved in {out}")
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
