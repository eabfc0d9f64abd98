"""Distances between sets of images, in features and in pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from hfdiff.core.errors import BadInput, first_line
from hfdiff.evaluation.statistics import average, cut

PARTS = (1, 2, 3, 4)  # that samples are divided into, for the extrapolation to infinite n
SCALES = (0.25, 0.5, 1.0, 2.0)  # widths of the kernels, over the median distance
MMD_UNIT = 1000.0  # as CMMD is given (Jayasumana et al. 2024, Section 4)


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of Gaussians fitted to features (N, F) and (M, F), in float64 (Heusel et al. 2017)."""
    return frechet_to(b)(a)


def frechet_to(reference: Tensor) -> Callable[[Tensor], float]:
    """The Frechet distance to one reference (M, F), as a function of features (N, F): |m - m_r|^2 + tr C + tr C_r
    - 2 tr (C_r^1/2 C C_r^1/2)^1/2, with the same eigenvalues under the root as Heusel et al.'s C C_r."""
    mean, covariance = _moments(reference)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T

    def distance(features: Tensor) -> float:
        own_mean, own = _moments(features)
        overlap = torch.linalg.eigvalsh(root @ own @ root).clamp(min=0).sqrt().sum()
        return ((own_mean - mean).square().sum() + own.trace() + covariance.trace() - 2 * overlap).item()

    return distance


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,) and covariance (F, F) of features (N, F), float64."""
    features = features.double()
    return features.mean(dim=0), features.T.cov()


def at_infinite_n(distance: Callable[[Tensor], float], features: Tensor) -> float:
    """What a Frechet distance of features (N, F) tends to: it is linear in 1 / n, so the intercept of a line through
    the means over disjoint parts of N, N/2, N/3 and N/4 rows (Chong & Forsyth 2020,
    https://arxiv.org/abs/1911.07023, Section 3). Rows in random order."""
    n = len(features)
    sizes = [n // parts for parts in PARTS]
    means = [average([distance(part) for part in features.split(size)[: n // size]]) for size in sizes]
    inverse = torch.tensor([[1.0, 1 / size] for size in sizes], dtype=torch.float64)
    return torch.linalg.lstsq(inverse, torch.tensor(means, dtype=torch.float64)[:, None]).solution[0].item()


@dataclass(frozen=True)
class Kernels:
    """Sums of Gaussian kernels among N samples, from them to M reference images, and among these; float64."""

    samples: Tensor  # (N, N)
    across: Tensor  # (N, M)
    reference: Tensor  # (M, M)

    @classmethod
    def of(cls, samples: Tensor, reference: Tensor) -> "Kernels":
        """Of features (N, F) and (M, F), at widths of `SCALES` times the median distance in the reference."""
        samples, reference = samples.double(), reference.double()
        median = torch.pdist(reference).median().clamp(min=1e-6)
        pairs = (samples, samples), (samples, reference), (reference, reference)
        squared = [torch.cdist(a, b).square() / (2 * median**2) for a, b in pairs]
        return cls(*(sum((torch.exp(-d / scale**2) for scale in SCALES), torch.zeros(())) for d in squared))

    def distance(self, samples: Tensor, reference: Tensor) -> float:
        """1000 times the unbiased squared maximum mean discrepancy of these rows (n,) and (m,) int64 (Gretton et al.
        2012, http://jmlr.org/papers/v13/gretton12a.html, Equation 3).

        What samples repeat shows where kernels are narrow: among a atoms a share 1 / a of pairs are equal, which adds
        k(x, x) / a. The mean over ten parts of 200, with the cubic kernel (Binkowski et al. 2018) or one Gaussian of
        width 10 between unit vectors (Jayasumana et al. 2024), hid it: so wide a kernel compares little but means, and
        parts are noisier than their pool.
        """
        inside = [
            _mean_of_pairs(cut(kernel, rows, rows))
            for kernel, rows in ((self.samples, samples), (self.reference, reference))
        ]
        return MMD_UNIT * (sum(inside) - 2 * cut(self.across, samples, reference).mean().item())


def _mean_of_pairs(kernel: Tensor) -> float:
    """The mean of a kernel (n, n) off its diagonal."""
    n = len(kernel)
    return ((kernel.sum() - kernel.trace()) / (n * (n - 1))).item()


@cache
def inception_network() -> torch.nn.Module:
    """The network of `frechet_inception`; BadInput without its package or its weights."""
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        return NoTrainInceptionV3("inception-v3-compat", ["2048"]).eval()
    except Exception as error:  # a missing package, or no way to its weights
        reason = first_line(error)[:150]
        raise BadInput(
            f"frechet_inception needs pip install 'hfdiff[fid]' and a download of weights: {reason}"
        ) from error


def inception_features(pixels: Tensor) -> Tensor:
    """Pixels (N, C, H, W) uint8 -> features (N, 2048) of the network that the published distances are measured in."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    network = inception_network().to(device)
    colour = pixels.expand(-1, 3, -1, -1)
    with torch.no_grad():
        return torch.cat([network(part.to(device)).cpu() for part in colour.split(100)])
