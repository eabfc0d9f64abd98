"""The Vendi score: how many different images of a class there are, in effect."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hfdiff.evaluation.statistics import around

PER_CLASS = (50, 25, 10)  # images of each class that are counted: the score grows with their number
SPARE = 2  # times as many on average, so that hardly a class of random samples has too few
WIDTH = 0.5  # of the kernel, over the median distance between real images of the class


def number_per_class(*counts: int, num_classes: int) -> int:
    """The largest of `PER_CLASS` for which so many images suffice; `missing_inputs` tells where none does."""
    return max(number for number in PER_CLASS if SPARE * number * num_classes <= min(counts))


def kernel_widths(features: Tensor, labels: Tensor) -> dict[int, float]:
    """Class -> width of its kernel, from real images' features (N, F) and labels (N,)."""
    return {
        int(label): max(WIDTH * torch.pdist(features[labels == label]).median().item(), 1e-6)
        for label in labels.unique()
        if (labels == label).sum() > 1
    }


@dataclass(frozen=True)
class Variety:
    """The Vendi score of each class, and their mean with its standard error."""

    per_class: dict[int, float]
    value: float
    error: float

    @property
    def ci95(self) -> tuple[float, float]:
        return around(self.value, self.error, low=0)


def common_numbers(number: int, *labels: Tensor) -> dict[int, int]:
    """Class -> how many images of it are compared: `number`, or the fewest that a set has of it, of labels (N,) each;
    where a set has none, its score is 0."""
    classes = torch.cat(labels).unique().tolist()
    counts = {label: [int((own == label).sum()) for own in labels] for label in classes}
    return {label: min(number, *filter(None, given)) for label, given in counts.items()}


def variety(features: Tensor, labels: Tensor, widths: dict[int, float], numbers: dict[int, int]) -> Variety:
    """Of the first `numbers` images of each class that has a kernel, from features (N, F) and labels (N,); a class
    without images has 0. The error is the jackknife's, each image left out in turn: the score is smooth."""
    kernels = [_kernel(features[labels == label][: numbers[label]], width) for label, width in widths.items()]
    scores = [vendi_score(kernel) for kernel in kernels]
    variance = sum(_jackknife_variance(kernel) for kernel in kernels)
    count = len(kernels)
    return Variety(dict(zip(widths, scores)), sum(scores) / count, variance**0.5 / count)


def vendi_score(kernel: Tensor) -> float:
    """exp of the entropy of the eigenvalues of K / n (Friedman & Dieng 2023, https://arxiv.org/abs/2210.02410,
    Definition 3.1): n for n images that have nothing in common, 1 for n equal ones; kernel (n, n) with a diagonal of 1.
    """
    return _scores(kernel[None]).item() if len(kernel) else 0.0


def _scores(kernels: Tensor) -> Tensor:
    """The same of kernels (B, n, n): (B,)."""
    shares = torch.linalg.eigvalsh(kernels / kernels.shape[-1]).clamp(min=0)
    return torch.special.entr(shares).sum(dim=1).exp()


def _kernel(features: Tensor, width: float) -> Tensor:
    """exp(-d^2 / 2 w^2) of features (n, F): (n, n) float64."""
    distances = torch.cdist(features.double(), features.double())
    return torch.exp(-distances.square() / (2 * width**2))


def _jackknife_variance(kernel: Tensor) -> float:
    """Of the score, from those without each of the n images (Efron & Tibshirani 1993, Equation 11.5)."""
    n = len(kernel)
    if n < 2:
        return 0.0
    kept = torch.arange(n).repeat(n, 1)[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)
    without = _scores(kernel[kept[:, :, None], kept[:, None, :]])
    return ((n - 1) / n * (without - without.mean()).square().sum()).item()
