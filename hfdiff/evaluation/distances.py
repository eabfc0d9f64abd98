"""Distances between sets of images, in features."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from hfdiff.core.errors import BadInput, first_line
from hfdiff.evaluation.statistics import GROUPS

NEIGHBOURS = 3  # of precision and recall (Kynkaanniemi et al. 2019, Section 3)
CMMD_WIDTH, CMMD_SCALE = 10.0, 1000.0  # of the kernel and of the value (Jayasumana et al. 2024, Section 4)


class _Given(torch.nn.Identity):
    """Stands for the network of torchmetrics' distance: the features are computed already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of Gaussians fitted to features (N, F) and (M, F), in float64 (Heusel et al. 2017)."""
    distance = FrechetInceptionDistance(feature=_Given(a.shape[1]), sync_on_compute=False).set_dtype(torch.float64)
    distance.update(a.double(), real=False)
    distance.update(b.double(), real=True)
    return distance.compute().item()


def kernel_distances(mmd: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy, of ten disjoint parts of features (N, F) and (M, F) each: (10,)
    float64 (Binkowski et al. 2018, Section 4). `mmd`: of one part, `poly_mmd` for the cubic kernel."""
    size = part_size(a, b)
    parts = [slice(i * size, (i + 1) * size) for i in range(GROUPS)]
    return torch.stack([mmd(a[part].double(), b[part].double()) for part in parts])


def cmmd(a: Tensor, b: Tensor) -> Tensor:
    """The same of unit vectors (N, D) and (N, D) with the Gaussian kernel of width 10, times 1000 (Jayasumana et al.
    2024, https://arxiv.org/abs/2401.09603, Equation 5)."""
    inside = [torch.exp(-torch.pdist(x).square() / (2 * CMMD_WIDTH**2)).mean() for x in (a, b)]
    across = torch.exp(-torch.cdist(a, b).square() / (2 * CMMD_WIDTH**2)).mean()
    return CMMD_SCALE * (inside[0] + inside[1] - 2 * across)


def part_size(a: Tensor, b: Tensor) -> int:
    """Images in each part of `kernel_distances`."""
    return min(1000, len(a) // GROUPS, len(b) // GROUPS)


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


def covered(points: Tensor, manifold: Tensor) -> Tensor:
    """Which points (N, F) lie within the distance of a manifold point (M, F) to its third neighbour: (N,) bool
    (Kynkaanniemi et al. 2019, Equation 1)."""
    parts = manifold.split(1000)
    radii = torch.cat([torch.cdist(part, manifold).kthvalue(NEIGHBOURS + 1, dim=1).values for part in parts])
    return torch.cat([(torch.cdist(part, manifold) <= radii).any(dim=1) for part in points.split(1000)])


def spread(features: Tensor, labels: Tensor) -> float:
    """Root mean square distance between two images of one class, the mean over classes; features (N, F)."""
    classes = [features[labels == i].double() for i in labels.unique()]
    return torch.stack([(2 * own.var(dim=0).sum()).sqrt() for own in classes if len(own) > 1]).mean().item()
