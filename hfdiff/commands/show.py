"""`hfdiff show`."""

import json
from dataclasses import dataclass

from hfdiff.commands.drawing import MAX_IMAGES, Drawing, open_judge
from hfdiff.core.errors import BadInput, as_bad_input, check_range
from hfdiff.core.files import folder_to_write, write_file
from hfdiff.evaluation.judge import unseen
from hfdiff.evaluation.reference_images import check_fits, check_judge, real_pictures
from hfdiff.figures.gallery import Subject, show
from hfdiff.models.samplers import NUM_TIMESTEPS
from hfdiff.training.run_folder import run_of


@dataclass(frozen=True, kw_only=True)
class Show(Drawing):
    output_dir: str
    """Where the pictures go, and show.json with their texts and numbers."""
    dataset: str | None = None
    """Real pictures of the model's classes; by default those that the run was trained on."""
    num_images: int = 20
    """Pictures for each class, where they are counted."""
    num_inference_steps: int | None = 50
    """Steps of the reverse process that is watched."""
    resolution: int | None = None
    """Resize the real pictures to this many pixels a side."""
    judge: str | None = None
    """Folder of a judge; by default the data set's own, trained where there is none yet."""

    def main(self) -> int:
        out = folder_to_write(self.output_dir)
        subject = self.subject()
        records = {}
        for shown in show(subject):
            shown.write(out)
            records[shown.file] = {"alt": shown.alt, **shown.numbers}
        write_file(out / "show.json", (json.dumps(records, indent=2, ensure_ascii=False) + "\n").encode())
        print(f"{len(records)} pictures in {out}; what they show, in words and numbers: {out / 'show.json'}")
        return 0

    def subject(self) -> Subject:
        """All that is shown, with the slowest part drawn; BadInput before anything is written."""
        check_range("num_images", self.num_images, 1, MAX_IMAGES)
        steps = self.num_inference_steps or 50
        check_range("num_inference_steps", steps, 2, NUM_TIMESTEPS)
        pipeline = self.pipeline()
        given = real_pictures(self.model, self.dataset, self.resolution)
        training, held_out = given.training, given.held_out
        check_fits(pipeline, training)
        check_fits(pipeline, held_out)
        judge = open_judge(self.judge, training, held_out, pipeline.device)
        check_judge(judge, training)
        subject = Subject(
            pipeline=pipeline,
            judge=judge,
            real=unseen(judge, held_out),
            training=given.copied,
            run=run_of(self.model),
            seed=self.seed,
            num_images=self.num_images,
            num_inference_steps=steps,
            guidance={key: value for key, value in self.given().items() if key != "num_inference_steps"},
        )
        if not len(subject.real):
            raise BadInput(f"data set {training.name!r} has no held-out pictures that the judge never saw; give others")
        with as_bad_input():
            _ = subject.reverse
        return subject
