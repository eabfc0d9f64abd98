"""How good is a trained model? The share of plain samples that the judge puts into the class asked for, and the Frechet
distance in the judge's features between samples and real test pictures, with the same distance of real against real.

python benchmarks/demo_quality.py runs/demo --reference ../data/fashion_mnist
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from hfdiff.checkpoint import load_pipeline
from hfdiff.config import command_line
from hfdiff.data import load_test_data
from hfdiff.errors import run_program
from hfdiff.judge import accuracy, judged, load_judge


@dataclass(frozen=True)
class Arguments:
    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    reference: str = "fashion_mnist_12k"
    """Real pictures: the test split of this data set, or its validation split."""
    judge: str = "fashion_mnist"
    num_images: int = 2000
    guidance_scale: tuple[float, ...] = ()
    """Scales to compare, of class and style alike; by default the pipeline's own."""
    styles: str = "plain"
    num_inference_steps: int = 10
    seed: int = 0


def main(argv: Sequence[str]) -> int:
    given = command_line(Arguments, argv, __doc__ or "")
    pipeline, judge = load_pipeline(given.model), load_judge(given.judge)
    real = load_test_data(given.reference)
    real_features = judged(judge, real.pixels).features
    shuffled = real_features[torch.randperm(len(real_features), generator=torch.Generator().manual_seed(given.seed))]
    half = min(given.num_images, len(shuffled) // 2)
    floor = frechet(shuffled[:half], shuffled[half : 2 * half])
    print(f"judge: {accuracy(judge, real):.4f} right on {len(real)} real pictures of {given.reference}")
    print(f"Frechet distance, real against real: {floor:.3f} (n = {half} + {half})")
    labels = torch.arange(given.num_images) % len(pipeline.class_names)
    for scale in given.guidance_scale or (None,):
        guidance = {} if scale is None else {"guidance_scale": scale, "style_guidance_scale": scale}
        images = pipeline(
            class_labels=labels.tolist(),
            styles=given.styles,
            num_inference_steps=given.num_inference_steps,
            generator=torch.Generator().manual_seed(given.seed),
            output_type="pt",
            **guidance,
        ).images
        verdict = judged(judge, (images * 255).round().byte())
        right = verdict.classes == labels
        share = right.double().mean().item()
        error = 1.96 * (share * (1 - share) / len(right)) ** 0.5
        print(
            f"guidance {scale or 'default'}: {share:.4f} +- {error:.4f} in the class asked for, "
            f"Frechet distance {frechet(verdict.features, real_features):.3f} (n = {len(right)}, seed {given.seed})"
        )
        per_class = [right[labels == i].double().mean().item() for i in range(len(pipeline.class_names))]
        print("  " + ", ".join(f"{name} {value:.2f}" for name, value in zip(pipeline.class_names, per_class)))
    return 0


class Features(torch.nn.Identity):
    """Stands for the network of torchmetrics' distance, whose features are computed already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between Gaussians fitted to features (N, F) (Heusel et al. 2017, Section 3), in float64."""
    distance = FrechetInceptionDistance(feature=Features(a.shape[1])).set_dtype(torch.float64)
    distance.update(a.double(), real=False)
    distance.update(b.double(), real=True)
    return distance.compute().item()


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
