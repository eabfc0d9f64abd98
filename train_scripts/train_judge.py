"""Train the judge of a data set: a small classifier that says what a picture shows.

accelerate launch train_scripts/train_judge.py --dataset fashion_mnist --output_dir runs/judge
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from accelerate import Accelerator

from hfdiff.checkpoint import write_folder
from hfdiff.config import parse
from hfdiff.data import Reading, describe, load_test_data, load_training_data
from hfdiff.errors import BadInput, folder_to_write, run_program
from hfdiff.judge import Judge, accuracy, train_judge
from hfdiff.training import use_all_cores


@dataclass(frozen=True)
class JudgeConfig:
    dataset: str = "fashion_mnist_12k"
    """A data set of the table, a Hub id, or a folder of pictures."""
    output_dir: str = "runs/judge"
    """Folder of the weights (fp16) and the configuration."""
    resolution: int | None = None
    """Resize all pictures to this many pixels a side."""
    epochs: int = 12
    batch_size: int = 128
    learning_rate: float = 4e-3
    widths: tuple[int, ...] = (32, 64, 128)
    seed: int = 0


def main(argv: Sequence[str]) -> int:
    config = parse(JudgeConfig, argv, description=__doc__ or "")
    if config.epochs < 1 or config.batch_size < 2 or len(config.widths) != 3:
        raise BadInput("valid: epochs from 1, batch_size from 2, three widths")
    out = folder_to_write(config.output_dir)
    if out.exists():
        raise BadInput(f"output_dir {out} exists; give a new folder")
    accelerator = Accelerator()
    if accelerator.num_processes > 1:
        raise BadInput(f"{accelerator.num_processes} processes; valid: 1, the judge is small")
    device = accelerator.device
    table, validation = load_training_data(config.dataset, Reading(config.resolution))
    test = load_test_data(config.dataset, Reading(config.resolution))
    use_all_cores(1)
    print(describe(table))
    trained_on = f"{config.dataset}, {len(table)} training pictures, {config.epochs} epochs, seed {config.seed}"
    judge = Judge(table.channels, list(table.class_names), config.widths, trained_on).to(device)
    epochs = train_judge(
        judge,
        table,
        validation,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    for epoch in epochs:
        print(f"epoch {epoch.number}: loss {epoch.loss:.4f}, validation accuracy {epoch.validation_accuracy:.4f}")
    right = accuracy(judge.half().float(), test)  # as saved
    measured = Judge(table.channels, list(table.class_names), config.widths, trained_on, round(right, 4))
    measured.load_state_dict(judge.state_dict())
    measured.half()
    write_folder(out, lambda folder: measured.save_pretrained(folder))  # type: ignore[operator]
    print(f"{right:.4f} of {len(test)} held-out pictures right; saved in {out}")
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
