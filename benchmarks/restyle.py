"""Does restyling keep the class and move the style? Real pictures are drawn again in each style; the judge tells the
class, statistics of the pixels the style: brightness for thick and thin, shear for slanted. The style's own transform
of the same pictures, and a drawing in no style, stand beside.

python benchmarks/restyle.py runs/demo --reference ../data/fashion_mnist
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from torch import Tensor

from hfdiff.checkpoint import load_pipeline
from hfdiff.config import command_line
from hfdiff.data import load_test_data, to_unit_range
from hfdiff.errors import run_program
from hfdiff.judge import judged, load_judge
from hfdiff.styles import apply_styles


@dataclass(frozen=True)
class Arguments:
    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    reference: str = "fashion_mnist_12k"
    """Real pictures: the test split of this data set, or its validation split."""
    judge: str = "fashion_mnist"
    num_images: int = 200
    strength: tuple[float, ...] = (0.4, 0.6, 0.8)
    seed: int = 0


def brightness(images: Tensor) -> Tensor:
    """Mean of the pixels, (N, C, H, W) in [0, 1] -> (N,)."""
    return images.flatten(1).mean(dim=1)


def shear(images: Tensor) -> Tensor:
    """How far the bright parts move to the right for each row upwards: -cov(x, y) / var(y), weighted by brightness."""
    weight = images.mean(dim=1)
    weight = weight / weight.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    y, x = (torch.arange(size, dtype=torch.float32) for size in weight.shape[1:])
    x = x - (weight.sum(dim=1) @ x)[:, None]  # (N, W)
    y = y - (weight.sum(dim=2) @ y)[:, None]  # (N, H)
    return -torch.einsum("nhw,nh,nw->n", weight, y, x) / torch.einsum("nhw,nh->n", weight, y**2)


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {"thick": brightness, "thin": brightness, "slanted": shear}


def main(argv: Sequence[str]) -> int:
    given = command_line(Arguments, argv, __doc__ or "")
    pipeline, judge, real = load_pipeline(given.model), load_judge(given.judge), load_test_data(given.reference)
    pipeline.set_progress_bar_config(disable=True)
    chosen = torch.randperm(len(real), generator=torch.Generator().manual_seed(given.seed))[: given.num_images]
    pixels, labels = to_unit_range(real.pixels[chosen]), real.labels[chosen]

    def kept(images: Tensor) -> float:
        return (judged(judge, (images * 255).round().byte()).classes == labels).double().mean().item()

    print(f"n = {len(pixels)} real pictures, seed {given.seed}; judged right as they are: {kept(pixels):.3f}\n")
    moved_by_hand = {s: apply_styles(pixels, torch.ones(len(pixels), 1), (s,)) for s in STATISTICS}
    print("| strength | style | class kept | by the transform | style moved, of the transform's | drawings that did |")
    print("|---|---|---|---|---|---|")
    for strength in given.strength:
        drawn = {
            style: pipeline(
                class_labels=labels.tolist(),
                styles=style,
                image=pixels,
                strength=strength,
                generator=torch.Generator().manual_seed(given.seed),
                output_type="pt",
            ).images
            for style in ("plain", *STATISTICS)
        }
        print(f"| {strength} | plain | {kept(drawn['plain']):.3f} | {kept(pixels):.3f} | | |")
        for style, statistic in STATISTICS.items():
            wanted = (statistic(moved_by_hand[style]) - statistic(pixels)).mean()
            moved = statistic(drawn[style]) - statistic(drawn["plain"])
            share = (moved * wanted.sign() > 0).double().mean().item()
            cells = (f"{kept(drawn[style]):.3f}", f"{kept(moved_by_hand[style]):.3f}", f"{moved.mean() / wanted:.2f}")
            print(f"| {strength} | {style} | {' | '.join(cells)} | {share:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
