"""`hfdiff ema`."""

from dataclasses import replace
from pathlib import Path

from hfdiff.commands.flags import EmaFlags
from hfdiff.core.errors import BadInput
from hfdiff.core.files import write_folder
from hfdiff.core.locks import write_lock
from hfdiff.models.loading import load_pipeline, without_bars
from hfdiff.publish.folder import new_folder
from hfdiff.training.ema import age_of_gamma, gamma_of_width
from hfdiff.training.posthoc_ema import reconstruct
from hfdiff.training.run_folder import RunFolder, home_of, run_of, save_config, saved_config


def main(flags: EmaFlags) -> int:
    home = home_of(flags.model)
    if home is None:
        raise BadInput(f"{flags.model} is no run's folder; valid: the output_dir of a training run")
    out = new_folder(flags.output_dir, home)
    with write_lock(out):
        run = run_of(flags.model)
        if run is None:
            raise BadInput(f"{flags.model} is a pipeline without its run, whose snapshots are needed; give the run")
        average = reconstruct(run.snapshots, flags.sigma_rel)
        pipeline = load_pipeline(str(run.path))
        pipeline.unet.load_state_dict(average.weights)
        # What the weights are now, in the words of the key that today's were made by.
        config = replace(saved_config(run.config), ema_share=age_of_gamma(gamma_of_width(flags.sigma_rel)))

        def fill(folder: Path) -> None:
            with without_bars():
                pipeline.save_pretrained(folder)
            save_config(RunFolder(folder), config)

        write_folder(out, fill)
    print(
        f"{out}: EMA weights of sigma_rel {average.sigma_rel:g} (mean age {config.ema_share:.1%} of the run) after "
        f"{average.step * config.batch_size:,} images, from {average.num_snapshots} snapshots, the profile met to "
        f"{average.error:.1%}"
    )
    return 0
