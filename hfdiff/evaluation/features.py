"""The features that sets of images are compared in, and how many images are compared."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import torch
from torch import Tensor

from hfdiff.evaluation.distances import inception_features
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.reference_images import JudgedImages

# Samples, and reference images, of every metric whose value depends on their number: the largest that there are.
FIXED_NUMBERS = (1000, 500, 250)


@dataclass(frozen=True)
class Features:
    """Features of samples and of real images that stand for samples, as many; and of the reference."""

    samples: Tensor  # (n, F) float32
    others: Tensor  # (n, F)
    reference: Tensor  # (m, F)

    def at_fixed_number(self) -> "Features":
        """As many of each: the largest of `FIXED_NUMBERS` that there are, the first ones; m = n."""
        n = fixed_number(len(self.samples), len(self.others), len(self.reference))
        return Features(self.samples[:n], self.others[:n], self.reference[:n])


def fixed_number(*counts: int) -> int:
    """The largest of `FIXED_NUMBERS` that every count reaches; `missing_inputs` tells where none is."""
    return max(n for n in FIXED_NUMBERS if n <= min(counts))


def content_order(pixels: Tensor, labels: Tensor, seed: int) -> Tensor:
    """A permutation (N,) int64 of pixels (N, C, H, W) uint8 with labels (N,), by a hash of each image and the seed:
    whatever order they come in, the shuffled images are the same. Equal images are numbered, so that they lie apart."""
    contents, classes = [image.numpy().tobytes() for image in pixels.cpu().contiguous()], labels.tolist()
    repeats: Counter[bytes] = Counter()
    keys = {}
    for row in sorted(range(len(contents)), key=lambda row: (contents[row], classes[row])):
        content = contents[row]
        keys[row] = blake2b(content, digest_size=16, key=f"{seed} {repeats[content]}".encode()).digest()
        repeats[content] += 1
    return torch.tensor(sorted(keys, key=keys.__getitem__), dtype=torch.int64)


def shuffled_samples(inputs: MetricInputs) -> JudgedImages:
    """The plain samples in an order that only the run's seed decides."""
    samples = inputs.samples
    return inputs.kept("shuffled", lambda: samples[content_order(samples.pixels, samples.labels, inputs.seed)])


def _seen(extract: Callable[[JudgedImages], Tensor], inputs: MetricInputs) -> Features:
    """`extract` of the samples and of the real images that the judge never saw."""
    samples, real = shuffled_samples(inputs), inputs.real
    n = min(len(samples), len(real.others))
    return Features(*map(extract, (samples[:n], real.others[:n], real.reference)))


def _by_clip(inputs: MetricInputs) -> Features:
    """With real images of its own: those that the judge never saw are those that it was trained on."""
    clip_reference, samples = inputs.real.clip_reference, shuffled_samples(inputs).clip
    assert clip_reference is not None  # see `missing_inputs`
    assert samples is not None
    n = min(len(samples), len(clip_reference.others))
    return Features(samples[:n], clip_reference.others[:n], clip_reference.reference)


# Name -> the features that distances are measured in.
EXTRACTORS: Mapping[str, Callable[[MetricInputs], Features]] = {
    "judge": partial(_seen, lambda images: images.output.features),
    "inception": partial(_seen, lambda images: inception_features(images.pixels)),
    "clip": _by_clip,
}
