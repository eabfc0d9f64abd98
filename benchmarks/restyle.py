"""Does restyling keep the class and move the style? Real images are drawn again in each style; the judge predicts the
class and the strength of the style. The style's own transform of the same images, and a drawing in no style, stand
beside.

python benchmarks/restyle.py runs/demo --reference ../data/fashion_mnist
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from opened import opened
from torch import Tensor

from hfdiff.core.config import command_line
from hfdiff.core.errors import run_program
from hfdiff.data.styles import STYLES, apply_styles
from hfdiff.data.table import to_bytes, to_unit_range
from hfdiff.evaluation.reference_images import JudgedImages, class_accuracy, judge_images
from hfdiff.pipelines import PLAIN


@dataclass(frozen=True)
class Arguments:
    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    reference: str = "fashion_mnist_12k"
    """Real images: the test split of this dataset, or its validation split."""
    judge: str = "fashion_mnist"
    num_images: int = 200
    strength: tuple[float, ...] = (0.4, 0.6, 0.8)
    guidance_scale: float | None = None
    """Of class and style alike; by default the pipeline's own."""
    seed: int = 0


def main(argv: Sequence[str]) -> int:
    given = command_line(Arguments, argv, __doc__ or "")
    pipeline, judge, real = opened(given.model, given.judge, given.reference)
    scale = given.guidance_scale
    guidance = {} if scale is None else {"guidance_scale": scale, "style_guidance_scale": scale}
    chosen = torch.randperm(len(real), generator=torch.Generator().manual_seed(given.seed))[: given.num_images]
    pixels, labels = to_unit_range(real.pixels[chosen]), real.labels[chosen]

    def seen(images: Tensor) -> JudgedImages:
        return judge_images(judge, to_bytes(images), labels)

    def strength_of(style: str, images: JudgedImages) -> float:
        return images.output.strengths[:, judge.style_names.index(style)].mean().item()

    styles = [style for style in pipeline.style_names if style in STYLES]
    by_hand = {style: seen(apply_styles(pixels, torch.ones(len(pixels), 1), (style,))) for style in styles}
    print(f"n = {len(pixels)} real images, seed {given.seed}; judged right: {class_accuracy(seen(pixels)):.3f}\n")
    print("| strength | style | class kept | by the transform | style | in the plain drawing | by the transform |")
    print("|---|---|---|---|---|---|---|")
    for strength in given.strength:
        drawn = {
            style: seen(
                pipeline(
                    class_labels=labels.tolist(),
                    styles=style,
                    image=pixels,
                    strength=strength,
                    generator=torch.Generator().manual_seed(given.seed),
                    output_type="pt",
                    **guidance,
                ).images
            )
            for style in (PLAIN, *styles)
        }
        print(f"| {strength} | plain | {class_accuracy(drawn[PLAIN]):.3f} | | | | |")
        for style in styles:
            measured = [strength_of(style, images) for images in (drawn[style], drawn[PLAIN], by_hand[style])]
            cells = [
                f"{class_accuracy(drawn[style]):.3f}",
                f"{class_accuracy(by_hand[style]):.3f}",
                *(f"{m:.2f}" for m in measured),
            ]
            print(f"| {strength} | {style} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
