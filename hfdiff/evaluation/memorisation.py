"""Memorisation: which samples repeat a training image, be it shifted, mirrored, brighter, compressed or noisy?

1. A shortlist of training images by the magnitudes of low spatial frequencies. A shift changes the phases alone (the
   Fourier shift theorem), a mirror exchanges two frequencies, brightness and contrast are a factor and the mean.
2. The centre of each of these, reduced, is slid over the image and its mirror, both standardised.
3. Closeness: the least of these distances, over the mean distance to the next five images, as dense as the data is
   there (Carlini et al. 2023, https://arxiv.org/abs/2301.13188, Section 5.1, with 50). What is the same image once
   more counts for none of the five, so that near-duplicates inside the training data hide nothing.
4. The threshold: 1% of held-out real images are closer. Those that are themselves near-duplicates of training images,
   as CIFAR-10's test split holds (Barz & Denzler 2020, https://arxiv.org/abs/1902.00423), have no say in it.
5. The power: the share of planted near-duplicates, altered training images, that are found.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, pad

from hfdiff.core.errors import BadInput
from hfdiff.evaluation.metric import MetricInputs, Result
from hfdiff.evaluation.statistics import share_true, wilson

FREQUENCIES = 6  # cycles per image, along each axis, that the shortlist goes by
SHORTLIST = 100  # training images that are compared in full
COMPARED = 32  # of these, the nearest, which may be near-duplicates of the nearest one
NEIGHBOURS = 5  # that tell how dense the training images are around an image
SHIFT = 3  # pixels, at most
DETAIL = 14  # pixels along an axis that images are about reduced to
FLAT = 2.0  # least standard deviation, of 255: below, images are compared as if they had this one
SAME = 0.05  # distance within which two training images are one and the same
BLOCK, QUERIES, PAIRS = 2048, 1024, 1600  # training images, images, pairs of them that are in memory as floats

ALARM = 0.01  # share of fresh images that are called near-duplicates
FEW_HELD_OUT = 200  # of fewer held-out images, that share is no image
FEWEST = 20  # images that a threshold may come from
MOST_REAL = 10_000
PLANTED = 200  # of each kind: half of them to tell what is near, half to tell the power
NEAR_SHARE = 0.95  # a real image as close as this share of planted near-duplicates is one itself ...
NEAR_MOST = 0.5  # ... where it is half as far as its neighbours


@dataclass(frozen=True)
class Nearest:
    """For each of N images, the training image that is nearest to it, shifted or mirrored."""

    closeness: Tensor  # (N,) float32 in [0, 1]: 0 for a near-duplicate, about 1 where several are as near
    rows: Tensor  # (N,) int64


def nearest(pixels: Tensor, training: Tensor, own: Tensor | None = None) -> Nearest:
    """The nearest of training images (M, C, H, W) to pixels (N, C, H, W), both uint8, over shifts to three pixels,
    mirroring, brightness and contrast.

    `own` (N,) int64: the row that each image itself has among the training images and that is left out, -1 for none.
    Memory is that of a block, whatever M is.
    """
    pixels, training = pixels.cpu(), training.cpu()
    own = torch.full((len(pixels),), -1) if own is None else own
    rows = _shortlist(pixels, training, own)
    size = max(1, PAIRS // rows.shape[1])
    parts = [_compare(some, training, near) for some, near in zip(pixels.split(size), rows.split(size))]
    return Nearest(*(torch.cat(values) for values in zip(*parts)))


def magnitudes(pixels: Tensor) -> Tensor:
    """Pixels (N, C, H, W) uint8 -> unit vectors (N, F) float32, the same for any shift (circular), mirror, gain and
    offset.

    |f(y, x)| + |f(y, -x)| and their absolute difference, for the lowest frequencies but the mean; the square root of
    frequency times magnitude, as natural images fall with the frequency (Field 1987).
    """
    height, width = pixels.shape[-2:]
    y, x = torch.arange(min(FREQUENCIES, height // 2) + 1), torch.arange(min(FREQUENCIES, width // 2) + 1)
    spectrum = torch.fft.rfft2(pixels.float())[..., : len(x)]
    one, other = spectrum[..., y, :].abs(), spectrum[..., -y % height, :].abs()
    frequency = (y[:, None].square() + x.square()).sqrt()  # 0 for the mean
    features = (torch.stack([one + other, (one - other).abs()], dim=1) * frequency).sqrt().flatten(1)
    return torch.nn.functional.normalize(features)


def _shortlist(pixels: Tensor, training: Tensor, own: Tensor) -> Tensor:
    """Rows of the training images that are most alike in `magnitudes`: (N, K) int64."""
    count = min(SHORTLIST, len(training) - int((own >= 0).any()))
    if count < 1:
        raise BadInput(f"the nearest training image needs 2 images to search; there are {len(training)}")
    wanted = torch.cat([magnitudes(part) for part in pixels.split(BLOCK)])
    best, rows = torch.full((len(pixels), count), -torch.inf), torch.zeros(len(pixels), count, dtype=torch.int64)
    for start in range(0, len(training), BLOCK):
        block = magnitudes(training[start : start + BLOCK]).T
        for part in torch.arange(len(pixels)).split(QUERIES):
            alike = wanted[part] @ block
            inside = (own[part] >= start) & (own[part] < start + block.shape[1])
            alike[inside, own[part][inside] - start] = -torch.inf
            best[part], at = torch.cat([best[part], alike], dim=1).topk(count)
            before = rows[part].gather(1, at.clamp(max=count - 1))
            rows[part] = torch.where(at < count, before, at - count + start)
    return rows


def _compare(pixels: Tensor, training: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Closeness (N,) and row (N,) of the nearest of the training images `rows` (N, K)."""
    candidates = training.flatten(1).index_select(0, rows.flatten()).unflatten(1, training.shape[1:])
    centres = _centres(candidates).unflatten(0, rows.shape)
    distances, order = _distances(_windows(pixels), centres).topk(min(COMPARED, rows.shape[1]), largest=False)
    centres = centres.gather(1, order[..., None].expand(-1, -1, centres.shape[-1]))
    found = rows.gather(1, order[:, :1])[:, 0]
    between = _distances(_windows(training[found]), centres)
    same = between <= (distances[:, :1] / 2).clamp(min=SAME)  # the nearest itself, and what is as near as a damaged one
    unrelated = torch.ones(len(pixels), NEIGHBOURS)  # where there are no other neighbours
    others = torch.cat([distances.masked_fill(same, 1), unrelated], dim=1).topk(NEIGHBOURS, largest=False).values
    return (distances[:, 0] / others.mean(dim=1)).clamp(max=1), found


def _steps(side: int) -> tuple[int, int, int]:
    """Along an axis of so many pixels: the largest shift, the step of the reduction, and how many it averages."""
    shift, step = min(SHIFT, side // 8), max(1, side // DETAIL)
    return shift, step, min(step + 1, side - 2 * shift)


def _centres(images: Tensor) -> Tensor:
    """Images (N, C, H, W) -> what is left in any shift, reduced and standardised: (N, D) float32."""
    height, width = images.shape[-2:]
    (down, *_), (right, *_) = vertical, horizontal = _steps(height), _steps(width)
    _, steps, averaged = zip(vertical, horizontal)
    inside = images[..., down : height - down, right : width - right].float()
    return _standardised(avg_pool2d(inside, averaged, steps).flatten(1))


def _windows(images: Tensor) -> Tensor:
    """The same of every shift of images (N, C, H, W) and of their mirrors: (N, V, D) float32."""
    shifts, (tall, wide), averaged = zip(*map(_steps, images.shape[-2:]))
    both = torch.cat([images, images.flip(-1)]).float()
    averages = avg_pool2d(both, averaged, 1)
    height, width = (side - 2 * shift for side, shift in zip(averages.shape[-2:], shifts))
    views = [
        averages[..., y : y + height : tall, x : x + width : wide].flatten(1)
        for y in range(2 * shifts[0] + 1)
        for x in range(2 * shifts[1] + 1)
    ]
    return _standardised(torch.cat(torch.stack(views, dim=1).chunk(2), dim=1))


def _standardised(vectors: Tensor) -> Tensor:
    """Without their mean, and of length 1 where they are not flat."""
    vectors = vectors - vectors.mean(dim=-1, keepdim=True)
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=FLAT * vectors.shape[-1] ** 0.5)


def _distances(windows: Tensor, centres: Tensor) -> Tensor:
    """The least distance of any of windows (N, V, D) to each of centres (N, K, D): (N, K), 0 for the same and 1 for
    unrelated images."""
    squares = windows.square().sum(-1)[:, :, None] + centres.square().sum(-1)[:, None]
    squares = (squares - 2 * windows @ centres.mT).amin(dim=1)
    return (squares.clamp(min=0) / 2).sqrt()


def _shifted(pixels: Tensor, by: int, generator: Generator) -> Tensor:
    """Each image to a side of its own, by so many pixels along at least one axis; the border is repeated."""
    height, width = pixels.shape[-2:]
    wide = pad(pixels.float(), (by,) * 4, mode="replicate").byte()
    ring = [(y, x) for y in range(2 * by + 1) for x in range(2 * by + 1) if by in (abs(y - by), abs(x - by))]
    places = torch.randint(len(ring), (len(pixels),), generator=generator).tolist()
    return torch.stack([image[:, y:, x:][:, :height, :width] for image, (y, x) in zip(wide, (ring[i] for i in places))])


def _compressed(pixels: Tensor, generator: Generator) -> Tensor:
    return torch.stack([_as_jpeg(image) for image in pixels])


def _as_jpeg(pixels: Tensor) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "JPEG", quality=75)
    return torch.from_numpy(np.array(Image.open(file))).view(*pixels.shape[1:], -1).permute(2, 0, 1)


def _noisy(pixels: Tensor, generator: Generator) -> Tensor:
    noise = 5 * torch.randn(pixels.shape, generator=generator)
    return (pixels + noise).round().clamp(0, 255).byte()


# Kind -> images (N, C, H, W) uint8 altered so.
ALTERED: Mapping[str, Callable[[Tensor, Generator], Tensor]] = {
    "shifted by 1 pixel": lambda pixels, generator: _shifted(pixels, 1, generator),
    "shifted by 2 pixels": lambda pixels, generator: _shifted(pixels, 2, generator),
    "mirrored": lambda pixels, generator: pixels.flip(-1),
    "10% brighter": lambda pixels, generator: (pixels * 1.1).round().clamp(0, 255).byte(),
    "JPEG of quality 75": _compressed,
    "noise of 5 in 255": _noisy,
}


@dataclass(frozen=True)
class Threshold:
    """The closeness below which an image is called a near-duplicate of a training image."""

    value: float
    n: int  # real images that it comes from
    duplicates: Tensor  # (N,) bool: which of all real images are near-duplicates themselves

    @classmethod
    def of(cls, real: Tensor, planted: Tensor) -> "Threshold":
        """From the first half of real images' closeness (N,), beside that of planted near-duplicates (M,).

        The k-th smallest of n: a fresh image is closer with the probability k / (n + 1), at most 1% from n = 99 on.
        """
        near = planted.quantile(NEAR_SHARE).clamp(max=NEAR_MOST)
        duplicates, half = real <= near, len(real) // 2
        fresh = real[:half][~duplicates[:half]]
        if len(fresh) < FEWEST:
            return cls(near.item(), 0, duplicates)
        return cls(fresh.kthvalue(max(1, int(ALARM * (len(fresh) + 1)))).values.item(), len(fresh), duplicates)


def near_duplicates(samples: Tensor, training: Tensor, held_out: Tensor) -> Result:
    """The share of samples (N, C, H, W) that are closer to one of training images (M, C, H, W) than 99% of fresh real
    images are, all uint8: held-out ones, or where those are few, training images, each held against the others.

    `real` and `false_alarm` are of the other half of them: all, and without those that are near-duplicates of training
    images themselves. `threshold_n` is 0 where nearly all are; the threshold is that of planted
    near-duplicates then. The power is that of other planted ones than those that tell what is near.
    BadInput with fewer than 2 training images.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(training), generator=generator)
    few = len(held_out) < FEW_HELD_OUT
    real = (training[order[:MOST_REAL]] if few else held_out[:MOST_REAL]).cpu()
    altered = [alter(training[order[:PLANTED]].cpu(), generator) for alter in ALTERED.values()]
    searched = [samples.cpu(), torch.cat(altered), real]
    own = torch.full((sum(map(len, searched)),), -1)
    if few:
        own[-len(real) :] = order[: len(real)]
    closeness = nearest(torch.cat(searched), training, own).closeness.split([len(images) for images in searched])

    planted = closeness[1].unflatten(0, (len(ALTERED), -1))
    threshold, half = Threshold.of(closeness[2], planted[:, ::2].flatten()), len(real) // 2
    hits, alarms = (values < threshold.value for values in (closeness[0], closeness[2]))
    found, false_alarms = planted[:, 1::2] < threshold.value, alarms[half:][~threshold.duplicates[half:]]
    details = {
        "searched_n": len(training),
        "threshold": threshold.value,
        "threshold_n": threshold.n,
        "threshold_of": "training images, each against the others" if few else "held-out real images",
        "false_alarm": share_true(false_alarms) if len(false_alarms) else None,
        "false_alarm_n": len(false_alarms),
        "false_alarm_ci95": list(wilson(false_alarms)) if len(false_alarms) else None,
        "duplicates": share_true(threshold.duplicates),  # of real images, which have no say in false_alarm
        "duplicates_n": len(real),
        "power": {kind: share_true(hits) for kind, hits in zip(ALTERED, found)},
        "power_n": found.shape[1],
    }
    return Result(
        share_true(hits), len(hits), share_true(alarms[half:]), wilson(hits), "pixels", len(real) - half, details
    )


def memorisation(inputs: MetricInputs) -> Result:
    """Of samples, beside what the model was trained on."""
    real = inputs.real
    result = near_duplicates(inputs.samples.pixels, real.copied.pixels, real.reference.pixels)
    return replace(result, details={"searched": real.copied.name} | result.details)
