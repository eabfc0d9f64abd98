"""`hfdiff train-clip`."""

from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from hfdiff.commands.flags import ClipConfig
from hfdiff.commands.options import check_half, check_small_training
from hfdiff.core.errors import BadInput
from hfdiff.core.files import folder_to_write
from hfdiff.core.locks import write_lock
from hfdiff.core.threads import use_all_cores
from hfdiff.data.loading import open_dataset
from hfdiff.data.table import describe
from hfdiff.evaluation.clip_training import make_clip, measure_clip, save_clip, train_clip


def main(config: ClipConfig) -> int:
    check_small_training(config)
    out = folder_to_write(config.output_dir)
    with write_lock(out):
        return train(config, out)


def train(config: ClipConfig, out: Path) -> int:
    """Train, measure and save; the exit code."""
    if out.exists():
        raise BadInput(f"output_dir {out} exists; give a new folder")
    accelerator = Accelerator()
    if accelerator.num_processes > 1:
        raise BadInput(f"{accelerator.num_processes} processes; valid: 1, the model is small")
    data = open_dataset(config.dataset, config.read_options)
    table, validation = data.training()
    table = replace(table, name=config.trained_on or table.name)
    test = data.test() or validation
    use_all_cores(1)
    print(describe(table, validation))
    check_half(table, config.half)
    scorer = make_clip(table, config.seed)
    training = train_clip(
        scorer,
        table.half(config.half),
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        flip=config.flip,
        seed=config.seed,
    )
    for epoch in training:
        print(f"epoch {epoch.number} of {config.epochs}: loss {epoch.loss:.4f}", flush=True)
    metrics = measure_clip(scorer, test)
    save_clip(scorer, out, table, config.half, metrics)
    print(f"{metrics.describe()}; saved in {out}")
    return 0
