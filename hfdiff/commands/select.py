"""`hfdiff select`."""

from dataclasses import dataclass
from typing import Any

from hfdiff.commands.drawing import MAX_IMAGES, Drawing, open_clip
from hfdiff.core.errors import BadInput, as_bad_input, check_range
from hfdiff.core.files import folder_to_write
from hfdiff.evaluation.clip import describe_clip, no_clip
from hfdiff.evaluation.judge import find_judge, independent, load_judge, unseen
from hfdiff.evaluation.reference_images import Pictures, check_fits, check_judge, real_pictures
from hfdiff.evaluation.selection import Witnesses, select
from hfdiff.figures.grids import save_picture
from hfdiff.figures.selection import figure_of_selection
from hfdiff.models.loading import weights_fingerprint
from hfdiff.models.samplers import sampler_of
from hfdiff.pipelines import PLAIN, QUALITY_PROMPTS, SCORE_WEIGHTS, Choice, ClassStylePipeline, Scorer
from hfdiff.training.run_folder import run_config


@dataclass(frozen=True, kw_only=True)
class Select(Drawing):
    output_dir: str
    """Where the best pictures go, selection.json and selection.png."""
    class_labels: tuple[str, ...] = ()
    """Names or ids of classes; by default all."""
    styles: tuple[str, ...] = (PLAIN,)
    """Each class is drawn in each of them: plain, thick:0.8+slanted."""
    num_candidates: int = 10
    """Pictures drawn for each class and style."""
    top_k: int = 3
    """Pictures kept of them."""
    early_stopping: bool = False
    """Finish only the best third of the candidates, by what the model predicts after a third of the steps."""
    clip: str | None = None
    """Folder or Hub id of a CLIP or SigLIP model; by default the pipeline's own, or the data set's."""
    score_weights: tuple[str, ...] = ()
    """Weights of the scores in the total, class:1 quality:1 by default; prompt is the cosine with the prompt."""
    good_prompts: tuple[str, ...] = ()
    """Prompts that speak well of a picture, with {} for its subject; by default "a good photo of {}" and "a clear"."""
    bad_prompts: tuple[str, ...] = ()
    """Prompts that do not; by default "a blurry photo of {}" and "a noisy"."""
    dataset: str | None = None
    """Real pictures to score beside; by default those that the run was trained on."""
    resolution: int | None = None
    """Resize the real pictures to this many pixels a side."""
    judge: str | None = None
    """Folder of a judge; by default the data set's own, where there is one."""

    def main(self) -> int:
        out = folder_to_write(self.output_dir)
        check_range("num_candidates", self.num_candidates, 1, MAX_IMAGES)
        check_range("top_k", self.top_k, 1, self.num_candidates)
        choice = self.choice()
        pipeline = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        given = self.real_pictures(pipeline)
        scorer = open_clip(self.clip, pipeline, given.training if given else None)
        if scorer is None:
            raise no_clip(given.training.name if given else None)
        with as_bad_input():
            selection = select(
                pipeline,
                list(self.class_labels or range(len(pipeline.class_names))),
                list(self.styles),
                self.witnesses(given, scorer),
                num_candidates=self.num_candidates,
                top_k=self.top_k,
                early_stopping=self.early_stopping,
                seed=self.seed,
                **choice,
                **self.given(),
            )
        settings = {
            "clip": describe_clip(scorer.model),
            "weights": weights_fingerprint(pipeline.unet),
            "sampler": sampler_of(pipeline.scheduler),
            "num_candidates": self.num_candidates,
            "top_k": self.top_k,
            "early_stopping": self.early_stopping,
            "score_weights": dict(choice["score_weights"]),
        }
        judge = selection.judge
        if judge and not independent(judge, scorer.model.config):
            print("warning: the judge and the CLIP model saw the same pictures; what the judge says is no proof")
        settings["judge_is_independent"] = judge and independent(judge, scorer.model.config)
        selection.write(out, settings | self.stated())
        save_picture(out / "selection.png", figure_of_selection(selection))
        print("\n".join([selection.describe(), f"the best, and selection.json with all scores: {out}"]))
        return 0

    def choice(self) -> dict[str, Any]:
        """The arguments of the pipeline that say how to choose."""
        pairs = [text.partition(":") for text in self.score_weights]
        try:
            weights = {name: float(weight) if colon else 1.0 for name, colon, weight in pairs} or SCORE_WEIGHTS
        except ValueError:
            raise BadInput(f"score_weights {' '.join(self.score_weights)}; valid: class:1 quality:0.5") from None
        defaults = [[text for text, good in QUALITY_PROMPTS.items() if good is kind] for kind in (True, False)]
        good, bad = self.good_prompts or defaults[0], self.bad_prompts or defaults[1]
        given: dict[str, Any] = {
            "score_weights": weights,
            "quality_prompts": dict.fromkeys(good, True) | dict.fromkeys(bad, False),
        }
        with as_bad_input():
            Choice(self.num_candidates, self.top_k, self.early_stopping, **given)
        return given

    def real_pictures(self, pipeline: ClassStylePipeline) -> Pictures | None:
        """Pictures of the model's classes, where any are known."""
        if self.dataset is None and run_config(self.model) is None:
            return None
        try:
            given = real_pictures(self.model, self.dataset, self.resolution)
        except BadInput as error:
            if self.dataset is not None:
                raise
            print(f"no real pictures to score beside: {error}")
            return None
        check_fits(pipeline, given.training)
        check_fits(pipeline, given.held_out)
        return given

    def witnesses(self, given: Pictures | None, scorer: Scorer) -> Witnesses:
        """Pictures that the scorer never saw and a judge, where there are any."""
        if given is None:
            return Witnesses(None, None)
        judge = load_judge(self.judge) if self.judge else find_judge(given.training)
        if judge is not None:
            check_judge(judge, given.training)
        return Witnesses(unseen(scorer.model.config, given.held_out), judge)
