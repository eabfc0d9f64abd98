"""Does choosing by CLIP help, and when does it pay? Plain samples picked from ten candidates by each score, beside a
random pick, a classifier's confidence, and the same compute spent on steps or on guidance; judged by the judge, whose
training images the scorer did not see.

python benchmarks/selection.py runs/fashion --reference ../data/fashion_mnist
"""

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
import tyro
from opened import opened
from PIL import Image
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from hfdiff.core.config import command_line
from hfdiff.core.errors import BadInput, run_program
from hfdiff.data.table import to_bytes, to_unit_range
from hfdiff.evaluation.clip import caption, load_clip
from hfdiff.evaluation.distances import frechet
from hfdiff.evaluation.judge import Judge, independent, load_judge, predict, right_scores
from hfdiff.evaluation.neighbours import Neighbourhood
from hfdiff.models.sampling import TensorImages, sample_tensors
from hfdiff.pipelines import (
    SCORE_WEIGHTS,
    SCORES,
    STOPPING_SHARE,
    SURVIVING_SHARE,
    ClassStylePipeline,
    Scorer,
    score_images,
)


@dataclass(frozen=True)
class Arguments:
    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    reference: str = "fashion_mnist"
    """Real images: the test split of this dataset, or its validation split."""
    judge: str = "fashion_mnist"
    clip: str | None = None
    """By default the one embedded for the reference's dataset."""
    classifier: str | None = None
    """Folder of a judge of the scorer's half, whose confidence is one more score."""
    num_selected: int = 2000
    """Images selected in total, over the seeds."""
    num_candidates: int = 10
    seeds: tuple[int, ...] = (0, 1, 2)
    guidance_scale: tuple[float, ...] = (1.0, 3.0)
    stronger: tuple[float, ...] = (1.5, 2.0)
    """Guidance scales that the selection at the first one is compared with."""
    pushes: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """Scales of guidance by CLIP's gradient towards a style that the model is not asked for."""
    num_pushed: int = 500


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    given: Arguments
    pipeline: ClassStylePipeline
    judge: Judge
    real: Tensor  # (M, F) the judge's features of real images
    labels: list[int]  # class of each selected image
    classifier: Judge | None

    def draw(self, seed: int, per_label: int, scale: float, **arguments: Any) -> TensorImages:
        n = len(self.labels) * (arguments.get("num_candidates") or per_label)
        return sample_tensors(
            self.pipeline,
            self.labels,
            num_images_per_label=per_label,
            generator=[torch.Generator().manual_seed(seed * 10_000_000 + i) for i in range(n)],
            guidance_scale=scale,
            style_guidance_scale=scale,
            **arguments,
        )

    def row(self, name: str, kept: Sequence[Tensor], cost: float) -> str:
        """Error, distance and recall of images (n, C, H, W), one part for each seed; `cost` in evaluations."""
        labels = torch.tensor(self.labels * len(kept))
        output = predict(self.judge, to_bytes(torch.cat(list(kept))))
        wrong = (output.classes != labels).double()
        spread = 1.96 * (wrong.mean() * (1 - wrong.mean()) / len(wrong)) ** 0.5
        part = self.real[: len(wrong)]
        distance = frechet(output.features, part)
        recall = Neighbourhood.of(output.features, part).recalled().double().mean()
        return f"| {name} | {wrong.mean():.3f} ± {spread:.3f} | {distance:.2f} | {recall:.3f} | {cost:g} |"


def main(argv: Sequence[str]) -> int:
    given = command_line(Arguments, argv, __doc__ or "")
    pipeline, judge, real = opened(given.model, given.judge, given.reference)
    model, processor = load_clip(given.clip, given.judge if given.clip is None else None)
    classifier = load_judge(given.classifier) if given.classifier else None
    for chooser in filter(None, (model.config, classifier)):
        if not independent(judge, chooser):
            raise BadInput("the judge saw images that a chooser was trained on; valid: one of the other half")
    pipeline.register_modules(clip_model=model.to(pipeline.device), clip_processor=processor)
    per_seed = given.num_selected // len(given.seeds)
    labels = [i % len(pipeline.class_names) for i in range(per_seed)]
    bench = Bench(given, pipeline, judge, predict(judge, real.pixels).features, labels, classifier)
    n = per_seed * len(given.seeds)
    print(f"n = {n} images selected, seeds {given.seeds}, 1 of {given.num_candidates}, 10 steps; distance to {n} real")
    print(f"images in the judge's features; the judge is right on {judge.test_accuracy} of real test images\n")
    print("| picked by | error by the judge | Frechet | recall | evaluations |\n|---|---|---|---|---|")
    for scale in given.guidance_scale:
        for line in rows_at(bench, scale):
            print(line, flush=True)
    for scale in given.stronger:
        drawn = [bench.draw(seed, 1, scale).images for seed in given.seeds]
        print(bench.row(f"no choice, guidance {scale:g}", drawn, 20), flush=True)
    drawn = [bench.draw(seed, 1, given.guidance_scale[0], num_inference_steps=100).images for seed in given.seeds]
    print(bench.row(f"no choice, guidance {given.guidance_scale[0]:g}, 100 steps", drawn, 100), flush=True)
    print(early_stopping(bench, given.guidance_scale[0]), flush=True)
    print("\n| pushed to | scale | strength by the judge | error by the judge | time |\n|---|---|---|---|---|")
    for style in pipeline.style_names:
        for line in steering(bench, style):
            print(line, flush=True)
    print("\nclarity on damage that no caption named: Spearman of the quality score with the damage, of real images\n")
    for name, value in clarity(pipeline.scorer, pipeline, to_unit_range(real.pixels[:500]), real.labels[:500]):
        print(f"| {name} | {value:.3f} |", flush=True)
    return 0


def rows_at(bench: Bench, scale: float) -> Iterator[str]:
    """A row for each way of picking from the same candidates."""
    given = bench.given
    picked: dict[str, list[Tensor]] = {}
    for seed in given.seeds:
        images = bench.draw(seed, given.num_candidates, scale).images
        for name, scores in scored(bench, images).items():
            best = scores.reshape(-1, given.num_candidates).argmax(dim=1)
            rows = torch.arange(len(best)) * given.num_candidates + best
            picked.setdefault(name, []).append(images[rows])
    single = 10 * (2 if scale != 1 else 1)
    for name, kept in picked.items():
        cost = single if name == "at random" else single * given.num_candidates
        yield bench.row(f"{name}, guidance {scale:g}", kept, cost)


@torch.no_grad()
def scored(bench: Bench, images: Tensor) -> dict[str, Tensor]:
    """Every score of candidates, label by label; at random: the first wins."""
    given, pipeline = bench.given, bench.pipeline
    asked = [pipeline.prompt_target(i, {}) for i in range(len(pipeline.class_names))]
    labels = torch.tensor(bench.labels).repeat_interleave(given.num_candidates)
    parts = zip(images.split(500), labels.split(500))
    table = torch.cat([score_images(pipeline.scorer, part, asked, own, SCORE_WEIGHTS) for part, own in parts])
    scores = {"at random": -torch.arange(len(images)).double()}
    scores |= {name: table[:, i] for i, name in enumerate((*SCORES, "class + quality"))}
    if bench.classifier:
        scores["classifier's confidence"] = right_scores(predict(bench.classifier, to_bytes(images)), labels)
    return scores


def early_stopping(bench: Bench, scale: float) -> str:
    """A row of the best of ten that were mostly not finished, with the share of the time that it took."""
    given, seconds = bench.given, {}
    chosen = {"num_candidates": given.num_candidates}
    for early in (False, True):
        started = time.perf_counter()
        kept = [bench.draw(given.seeds[0], 1, scale, early_stopping=early, **chosen).images]
        seconds[early] = time.perf_counter() - started
    kept += [bench.draw(seed, 1, scale, early_stopping=True, **chosen).images for seed in given.seeds[1:]]
    name = f"class + quality, guidance {scale:g}, early stopping ({seconds[True] / seconds[False]:.2f} of the time)"
    return bench.row(name, kept, 10 * given.num_candidates * (STOPPING_SHARE + (1 - STOPPING_SHARE) * SURVIVING_SHARE))


def steering(bench: Bench, style: str) -> Iterator[str]:
    """A row for each scale: how much of a style there is in plain drawings that CLIP's gradient pushes to it."""
    given, pipeline = bench.given, bench.pipeline
    per_class = given.num_pushed // len(pipeline.class_names)
    labels = torch.arange(len(pipeline.class_names)).repeat_interleave(per_class)
    seconds: dict[float, float] = {}
    for push in given.pushes:
        started = time.perf_counter()
        images = [
            sample_tensors(
                pipeline,
                [i] * per_class,
                generator=[torch.Generator().manual_seed(1000 * i + row) for row in range(per_class)],
                guidance_scale=given.guidance_scale[0],
                style_guidance_scale=given.guidance_scale[0],
                clip_guidance_scale=push,
                clip_prompt=caption(name, style),
            ).images
            for i, name in enumerate(pipeline.class_names)
        ]
        seconds[push] = time.perf_counter() - started
        output = predict(bench.judge, to_bytes(torch.cat(images)))
        strength = output.strengths[:, bench.judge.style_names.index(style)].mean()
        wrong = (output.classes != labels).double().mean()
        cost = seconds[push] / seconds[given.pushes[0]]
        yield f"| {style} | {push:g} | {strength:.3f} | {wrong:.3f} | {cost:.2f} |"


def clarity(
    scorer: Scorer, pipeline: ClassStylePipeline, images: Tensor, labels: Tensor
) -> Iterator[tuple[str, float]]:
    """How well the quality score orders images by damage that it never saw named."""
    generator = torch.Generator().manual_seed(0)
    amount = torch.rand(len(images), generator=generator)
    asked = [pipeline.prompt_target(i, {}) for i in range(len(pipeline.class_names))]
    for name, change in DAMAGES.items():
        damaged = torch.stack([change(image, value) for image, value in zip(images, amount.tolist())])
        with torch.no_grad():
            scores = score_images(scorer, damaged, asked, labels, SCORE_WEIGHTS)[:, list(SCORES).index("quality")]
        yield name, spearman_corrcoef(scores, -amount).item()


def _jpeg(image: Tensor, amount: float) -> Tensor:
    encoded = Image.fromarray(to_bytes(image[None])[0].permute(1, 2, 0).squeeze(-1).numpy())
    file = io.BytesIO()
    encoded.save(file, "JPEG", quality=max(1, round(60 * (1 - amount))))
    decoded = torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8)
    return decoded.reshape(image.shape[1], image.shape[2], -1).permute(2, 0, 1) / 255


def _rescaled(image: Tensor, amount: float, mode: str) -> Tensor:
    side = max(2, round(image.shape[-1] * (1 - 0.85 * amount)))
    small = torch.nn.functional.interpolate(image[None], size=(side, side), mode="area")
    return torch.nn.functional.interpolate(small, size=image.shape[-2:], mode=mode)[0]


def _salt_and_pepper(image: Tensor, amount: float) -> Tensor:
    generator = torch.Generator().manual_seed(round(amount * 1e6))
    draw = torch.rand(image.shape[-2:], generator=generator)
    return image.where(draw > 0.3 * amount, (draw > 0.15 * amount).float())


DAMAGES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "JPEG blocks": _jpeg,
    "down- and upscaling, blocks": partial(_rescaled, mode="nearest"),
    "down- and upscaling, smooth": partial(_rescaled, mode="bilinear"),
    "salt and pepper": _salt_and_pepper,
}


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
