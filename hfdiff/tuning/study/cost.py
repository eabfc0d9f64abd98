"""What a study costs on this machine, from a few real steps of each variant."""

from collections.abc import Iterator

from hfdiff.core.errors import BadInput
from hfdiff.core.threads import cores
from hfdiff.evaluation.protocol import seconds_per_image
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.cost import Cost, measure
from hfdiff.tuning.study.config import Study, Variant, budget_of, rungs


def describe_cost(study: Study) -> Iterator[str]:
    """A line for each variant, as it is measured, and the sum."""
    config, seconds = study.config, 0.0
    stages = rungs(config, len(study.variants) - 1)
    name, budget = budget_of(config)
    yield f"{len(study.variants)} variants x {len(config.seeds)} seeds, {name} {budget:g} each"
    if len(stages) > 1:
        yield "rungs: " + ", ".join(f"{count + 1} variants at {share:.2g} of that" for share, count in stages)
    for number, variant in enumerate(study.variants):
        try:
            cost, sample = cost_of(study, variant)
        except BadInput as error:
            raise BadInput(f"variant {variant.name!r}: {error}") from error
        whole = {
            "images": budget / cost.images_per_second,
            "cpu_minutes": 60 * budget / len(cores()),
            "minutes": 60 * budget / config.at_once,
        }
        branches = sum(1 if scale == 1 else 2 for scale in config.guidance_scale)  # that a sample's steps evaluate
        drawing = sample / 2 * branches * (config.num_images + config.num_styled)
        # Which variants go on is not known; that the first ones do is as good as any.
        training = sum(share * whole[name] for share, count in stages if number <= count)
        judged = sum(number <= count for _, count in stages)
        seconds += len(config.seeds) * (training + judged * drawing)
        yield (
            f"  {variant.name}: {cost.parameters:,} parameters, {cost.step_gflops:.3f} GFLOPs an image, "
            f"{cost.images_per_second:,.0f} images/s; {training / 60:.1f} minutes of training and "
            f"{judged * drawing / 60:.1f} of drawing for each seed"
        )
    yield f"together {seconds / 3600:.2f} hours on all {len(cores())} cores, the start and end of each run apart;"
    yield "as measured in a few steps, not promised"


def cost_of(study: Study, variant: Variant) -> tuple[Cost, float]:
    """Of training, and the seconds that a guided sample takes."""
    seconds: list[float] = []

    def draw(pipeline: ClassStylePipeline, seed: int) -> None:
        pipeline.set_progress_bar_config(disable=True)
        seconds.append(seconds_per_image(pipeline, guidance_scale=2.0, style_guidance_scale=2.0))

    return measure(study.training(variant), draw), seconds[0]
