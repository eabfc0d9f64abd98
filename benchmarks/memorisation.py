"""Memorisation: what share of altered training images is found, kind by kind; CPU seconds and memory by the number of
training images.

python benchmarks/memorisation.py power ../shared/data/cifar10
python benchmarks/memorisation.py cost ../shared/data/cifar10 --num_training 10000 100000 1000000

`cost` searches new images that are derived from the dataset's: means of two, so that they are as dense as real ones.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import tyro
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import rotate, scale
from torch import Generator, Tensor

from hfdiff.core.config import command_line
from hfdiff.core.errors import run_program
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.data.table import to_bytes, to_unit_range
from hfdiff.evaluation.memorisation import ALTERED, near_duplicates, nearest

GIB = 2**20  # of ru_maxrss, in KiB


@dataclass(frozen=True)
class Arguments:
    measure: Annotated[Literal["power", "cost"], tyro.conf.Positional]
    dataset: Annotated[str, tyro.conf.Positional]
    """Training images, and a test split of real ones."""
    num_samples: int = 1000
    num_held_out: int = 10_000
    num_planted: int = 200
    """Of each kind."""
    num_training: tuple[int, ...] = (10_000, 100_000)
    seed: int = 1


def _noisy(pixels: Tensor, generator: Generator) -> Tensor:
    return (pixels + 13 * torch.randn(pixels.shape, generator=generator)).round().clamp(0, 255).byte()


def _in_unit_range(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Generator], Tensor]:
    return lambda pixels, generator: to_bytes(change(to_unit_range(pixels)))


# Kind -> images (N, C, H, W) uint8 altered so: what the metric plants, and what it does not promise to find.
HARDER: Mapping[str, Callable[[Tensor, Generator], Tensor]] = {
    **ALTERED,
    "rolled by 1 pixel": lambda pixels, generator: pixels.roll(1, -1),
    "rolled by 2 and 2 pixels": lambda pixels, generator: pixels.roll((2, 2), (-1, -2)),
    "15% darker": _in_unit_range(lambda images: images * 0.85),
    "half the contrast": _in_unit_range(lambda images: 0.25 + images / 2),
    "noise of 13 in 255": _noisy,
    "blurred, sd 0.8 pixels": _in_unit_range(lambda images: gaussian_blur2d(images, (7, 7), (0.8, 0.8))),
    "rotated by 5 degrees": _in_unit_range(lambda images: rotate(images, torch.full((len(images),), 5.0))),
    "enlarged by 7%": _in_unit_range(lambda images: scale(images, torch.full((len(images), 2), 1.07))),
}


def power(args: Arguments) -> None:
    """Found by the threshold of the metric itself, at its false alarm."""
    training, held_out = load_training_data(args.dataset)[0].pixels, load_test_data(args.dataset).pixels
    generator = torch.Generator().manual_seed(args.seed)
    fresh = held_out[torch.randperm(len(held_out), generator=generator)]
    samples, reference = fresh[: args.num_samples], fresh[args.num_samples :][: args.num_held_out]
    started = time.process_time()
    result = near_duplicates(samples, training, reference)
    print(f"{time.process_time() - started:.0f} CPU seconds", json.dumps(result.as_dict(), indent=1))
    origin = training[torch.randperm(len(training), generator=generator)[: args.num_planted]]
    for kind, alter in HARDER.items():
        closeness = nearest(alter(origin, generator), training).closeness
        print(
            f"{kind:<26} {(closeness < result.details['threshold']).double().mean():.3f}  of {len(origin)}", flush=True
        )


def derived(pixels: Tensor, count: int, generator: Generator) -> Tensor:
    """Means of two of images (N, C, H, W) uint8: (count, C, H, W) uint8."""
    made = torch.empty(count, *pixels.shape[1:], dtype=torch.uint8)
    for part in made.split(10_000):
        one, other = (pixels[torch.randint(len(pixels), (len(part),), generator=generator)] for _ in range(2))
        part.copy_(one // 2 + other // 2)
    return made


def cost(args: Arguments) -> None:
    pixels = load_training_data(args.dataset)[0].pixels
    generator = torch.Generator().manual_seed(args.seed)
    samples = derived(pixels, args.num_samples, generator)
    for count in args.num_training:
        training = derived(pixels, count, generator)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        nearest(samples, training)
        seconds, more = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            f"{len(samples):,} samples against {count:,} images: {seconds:.0f} CPU seconds, "
            f"{training.nbytes / 2**30:.2f} GiB of pixels and at most {more / GIB:.2f} GiB more",
            flush=True,
        )
        del training


MEASURES = {"power": power, "cost": cost}


def main(argv: Sequence[str]) -> None:
    args = command_line(Arguments, argv, __doc__ or "")
    MEASURES[args.measure](args)


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
