"""Precision, recall, density, coverage: how samples and real images lie among each other's nearest neighbours."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hfdiff.evaluation.statistics import cut

NEIGHBOURS = 3  # of precision and recall (Kynkaanniemi et al. 2019, Section 3)
DENSITY_NEIGHBOURS = 5  # of density and coverage (Naeem et al. 2020, Section 4)


def radii(distances: Tensor, neighbours: int) -> Tensor:
    """The distance of each of N images to its neighbour of this number, from those among them (N, N): (N,)."""
    nearest = distances.topk(neighbours + 1, dim=1, largest=False).values
    return nearest[:, -1]  # the first is the image itself


@dataclass(frozen=True)
class Neighbourhood:
    """Distances among N samples, from them to M reference images, and among these."""

    samples: Tensor  # (N, N)
    across: Tensor  # (N, M)
    reference: Tensor  # (M, M)

    @classmethod
    def of(cls, samples: Tensor, reference: Tensor) -> "Neighbourhood":
        """Of features (N, F) and (M, F)."""
        return cls(*(torch.cdist(a, b) for a, b in ((samples, samples), (samples, reference), (reference, reference))))

    def part(self, samples: Tensor, reference: Tensor) -> "Neighbourhood":
        """Of these rows (n,) and (m,) int64."""
        pairs = (
            (self.samples, samples, samples),
            (self.across, samples, reference),
            (self.reference, reference, reference),
        )
        return Neighbourhood(*(cut(distances, rows, columns) for distances, rows, columns in pairs))

    def precise(self) -> Tensor:
        """Which samples lie within the third-neighbour distance of a reference image: (N,) bool (Kynkaanniemi et al.
        2019, https://arxiv.org/abs/1904.06991, Equation 1)."""
        return (self.across <= radii(self.reference, NEIGHBOURS)).any(dim=1)

    def recalled(self) -> Tensor:
        """Which reference images lie within the third-neighbour distance of a sample: (M,) bool (there)."""
        return (self.across <= radii(self.samples, NEIGHBOURS)[:, None]).any(dim=0)

    def densities(self) -> Tensor:
        """In how many reference images' fifth-neighbour distances each sample lies, over 5: (N,) float64; the mean is
        1 for samples of the reference's distribution (Naeem et al. 2020, https://arxiv.org/abs/2002.09797,
        Equation 4)."""
        near = self.across <= radii(self.reference, DENSITY_NEIGHBOURS)
        return near.sum(dim=1).double() / DENSITY_NEIGHBOURS

    def covered(self) -> Tensor:
        """Which reference images have a sample within their fifth-neighbour distance: (M,) bool (there, Equation
        5)."""
        return (self.across <= radii(self.reference, DENSITY_NEIGHBOURS)).any(dim=0)
