"""`hfdiff select`."""

from pathlib import Path
from typing import Any

from hfdiff.commands.flags import SelectFlags
from hfdiff.commands.options import MAX_IMAGES, open_clip, open_model, settings_of, stated
from hfdiff.core.errors import BadInput, as_bad_input, check_range
from hfdiff.core.files import folder_to_write
from hfdiff.core.locks import write_lock
from hfdiff.evaluation.clip import describe_clip, no_clip
from hfdiff.evaluation.judge import find_judge, independent, load_judge, unseen
from hfdiff.evaluation.reference_images import EvaluationImages, check_judge, check_model_fits, real_images
from hfdiff.evaluation.selection import SelectionReferences, select
from hfdiff.figures.grids import save_figure
from hfdiff.figures.selection import figure_of_selection
from hfdiff.models.loading import weights_fingerprint
from hfdiff.models.samplers import sampler_of
from hfdiff.pipelines import QUALITY_PROMPTS, SCORE_WEIGHTS, Choice, ClassStylePipeline, Scorer
from hfdiff.training.run_folder import run_config


def main(flags: SelectFlags) -> int:
    out = folder_to_write(flags.output_dir)
    check_range("num_candidates", flags.num_candidates, 1, MAX_IMAGES)
    check_range("top_k", flags.top_k, 1, flags.num_candidates)
    choice = choice_of(flags)
    with write_lock(out):
        return save_selection(flags, out, choice)


def save_selection(flags: SelectFlags, out: Path, choice: dict[str, Any]) -> int:
    """Draw the candidates, and write the best into the folder."""
    pipeline = open_model(flags)
    pipeline.set_progress_bar_config(disable=True)
    given = real_images_of(flags, pipeline)
    scorer = open_clip(flags.clip, pipeline, given.training if given else None)
    if scorer is None:
        raise no_clip(given.training.name if given else None)
    with as_bad_input():
        selection = select(
            pipeline,
            list(flags.class_labels or range(len(pipeline.class_names))),
            list(flags.styles),
            references_of(flags, given, scorer),
            num_candidates=flags.num_candidates,
            top_k=flags.top_k,
            early_stopping=flags.early_stopping,
            seed=flags.seed,
            **choice,
            **settings_of(flags),
        )
    settings = {
        "clip": describe_clip(scorer.model),
        "weights": weights_fingerprint(pipeline.unet),
        "sampler": sampler_of(pipeline.scheduler),
        "num_candidates": flags.num_candidates,
        "top_k": flags.top_k,
        "early_stopping": flags.early_stopping,
        "score_weights": dict(choice["score_weights"]),
    }
    judge = selection.judge
    if judge and not independent(judge, scorer.model.config):
        print("warning: the judge and the CLIP model saw the same images; what the judge says is no proof")
    settings["judge_is_independent"] = judge and independent(judge, scorer.model.config)
    selection.write(out, settings | stated(flags))
    save_figure(out / "selection.png", figure_of_selection(selection))
    print("\n".join([selection.describe(), f"the best, and selection.json with all scores: {out}"]))
    return 0


def choice_of(flags: SelectFlags) -> dict[str, Any]:
    """The arguments of the pipeline that say how to choose."""
    pairs = [text.partition(":") for text in flags.score_weights]
    try:
        weights = {name: float(weight) if colon else 1.0 for name, colon, weight in pairs} or SCORE_WEIGHTS
    except ValueError:
        raise BadInput(f"score_weights {' '.join(flags.score_weights)}; valid: class:1 quality:0.5") from None
    defaults = [[text for text, good in QUALITY_PROMPTS.items() if good is kind] for kind in (True, False)]
    good, bad = flags.good_prompts or defaults[0], flags.bad_prompts or defaults[1]
    given: dict[str, Any] = {
        "score_weights": weights,
        "quality_prompts": dict.fromkeys(good, True) | dict.fromkeys(bad, False),
    }
    with as_bad_input():
        Choice(flags.num_candidates, flags.top_k, flags.early_stopping, **given)
    return given


def real_images_of(flags: SelectFlags, pipeline: ClassStylePipeline) -> EvaluationImages | None:
    """Images of the model's classes, where any are known."""
    if flags.dataset is None and run_config(flags.model) is None:
        return None
    try:
        given = real_images(flags.model, flags.dataset, flags.resolution)
    except BadInput as error:
        if flags.dataset is not None:
            raise
        print(f"no real images to score beside: {error}")
        return None
    check_model_fits(pipeline, given.training)
    check_model_fits(pipeline, given.held_out)
    return given


def references_of(flags: SelectFlags, given: EvaluationImages | None, scorer: Scorer) -> SelectionReferences:
    """Images that the scorer never saw and a judge, where there are any."""
    if given is None:
        return SelectionReferences(None, None)
    judge = load_judge(flags.judge) if flags.judge else find_judge(given.training)
    if judge is not None:
        check_judge(judge, given.training)
    return SelectionReferences(unseen(scorer.model.config, given.held_out), judge)
