"""`hfdiff show`."""

from hfdiff.commands.flags import ShowFlags
from hfdiff.commands.options import MAX_IMAGES, open_judge, open_model, settings_of
from hfdiff.core.errors import BadInput, as_bad_input, check_range
from hfdiff.core.files import folder_to_write, write_json
from hfdiff.core.locks import write_lock
from hfdiff.evaluation.judge import unseen
from hfdiff.evaluation.reference_images import check_judge, check_model_fits, real_images
from hfdiff.figures.gallery import GalleryInputs, show
from hfdiff.models.samplers import NUM_TIMESTEPS
from hfdiff.training.run_folder import run_of


def main(flags: ShowFlags) -> int:
    out = folder_to_write(flags.output_dir)
    with write_lock(out):
        inputs = gallery_inputs(flags)
        records = {}
        for shown in show(inputs):
            shown.write(out)
            records[shown.file] = {"alt": shown.alt, **shown.numbers}
        write_json(out / "show.json", records)
    print(f"{len(records)} figures in {out}; what they show, in words and numbers: {out / 'show.json'}")
    return 0


def gallery_inputs(flags: ShowFlags) -> GalleryInputs:
    """All that is shown, with the slowest part drawn; BadInput before anything is written."""
    check_range("num_images", flags.num_images, 1, MAX_IMAGES)
    steps = flags.num_inference_steps or 30
    check_range("num_inference_steps", steps, 2, NUM_TIMESTEPS)
    pipeline = open_model(flags)
    given = real_images(flags.model, flags.dataset, flags.resolution)
    training, held_out = given.training, given.held_out
    check_model_fits(pipeline, training)
    check_model_fits(pipeline, held_out)
    judge, noised_judge = (
        open_judge(folder, training, held_out, pipeline.device, noised)
        for folder, noised in ((flags.judge, False), (flags.noised_judge, True))
    )
    check_judge(judge, training)
    check_judge(noised_judge, training)
    inputs = GalleryInputs(
        pipeline=pipeline,
        judge=judge,
        noised_judge=noised_judge,
        real=unseen(noised_judge, unseen(judge, held_out)),
        training=given.copied,
        run=run_of(flags.model),
        seed=flags.seed,
        num_images=flags.num_images,
        num_inference_steps=steps,
        guidance={key: value for key, value in settings_of(flags).items() if key != "num_inference_steps"},
    )
    if not len(inputs.real):
        raise BadInput(f"dataset {training.name!r} has no held-out images that the judges never saw; give others")
    with as_bad_input():
        _ = inputs.reverses
    return inputs
