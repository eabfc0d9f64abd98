"""`hfdiff train-clip`."""

from accelerate import Accelerator

from hfdiff.commands.flags import ClipConfig
from hfdiff.core.errors import BadInput
from hfdiff.core.files import folder_to_write
from hfdiff.core.threads import use_all_cores
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.data.table import describe
from hfdiff.evaluation.clip_training import make_clip, measure_clip, save_clip, train_clip


def main(config: ClipConfig) -> int:
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
    table, _ = load_training_data(config.dataset, config.read_options)
    test = load_test_data(config.dataset, config.read_options)
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
    metrics = measure_clip(scorer, test)
    save_clip(scorer, out, table, config.half, metrics)
    print(f"{metrics.describe()}; saved in {out}")
    return 0
