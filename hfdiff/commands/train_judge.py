"""`hfdiff train-judge`."""

import contextlib
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from hfdiff.commands.flags import JudgeConfig
from hfdiff.commands.options import check_half, check_small_training
from hfdiff.core.errors import BadInput, check_range
from hfdiff.core.files import folder_to_write
from hfdiff.core.locks import write_lock
from hfdiff.core.threads import use_all_cores
from hfdiff.data.loading import open_dataset
from hfdiff.data.table import describe
from hfdiff.evaluation.judge import cached, unseen
from hfdiff.evaluation.judge_training import default_epochs, make_judge, save_judge, train_judge


def main(config: JudgeConfig) -> int:
    check_small_training(config)
    for width in config.widths or ():
        check_range("widths", width, 1, 4096)
    out = None if config.output_dir is None else folder_to_write(config.output_dir)
    with contextlib.ExitStack() as locks:
        if out:
            locks.enter_context(write_lock(out))
        return train(config, out, locks)


def train(config: JudgeConfig, out: Path | None, locks: contextlib.ExitStack) -> int:
    """Train, measure and save, by default in the cache, whose place is known once the data is; the exit code."""
    if out and out.exists():
        raise BadInput(f"output_dir {out} exists; give a new folder")
    accelerator = Accelerator()
    if accelerator.num_processes > 1:
        raise BadInput(f"{accelerator.num_processes} processes; valid: 1, the judge is small")
    data = open_dataset(config.dataset, config.read_options)
    table, validation = data.training()
    table = replace(table, name=config.trained_on or table.name)
    test = data.test() or validation
    use_all_cores(1)
    print(describe(table, validation))
    check_half(table, config.half)
    if out is None:
        out = cached(table, config.half, config.noised)
        locks.enter_context(write_lock(out, "HFDIFF_CACHE"))
    judge = make_judge(table, config.widths, config.half, config.seed, config.flip, config.noised)
    judge.to(accelerator.device)
    epochs = config.epochs or default_epochs(table.half(config.half), config.noised)
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
    judge = save_judge(judge, out, unseen(judge, test))
    print(f"{judge.test_accuracy:.4f} of {len(unseen(judge, test))} unseen images right; saved in {out}")
    return 0
