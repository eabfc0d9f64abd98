"""What scores of images go with: rank correlations with properties of the images, and how large chance alone makes
them, which among few candidates is large."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from kornia.filters import laplacian, sobel
from torch import Tensor

from hfdiff.data.table import NEAR_END, to_bytes

EDGE = 0.1  # of the gradient of images in [0, 1], from which on a pixel is an edge
SHUFFLES, AT_ONCE = 1000, 100

Table: TypeAlias = dict[str, dict[str, float | None]]


def image_properties(images: Tensor) -> dict[str, Tensor]:
    """What a score may secretly go with: properties of images (n, C, H, W) in [0, 1]: (n,) each."""
    grey = images.mean(dim=1, keepdim=True)
    return {
        "contrast": grey.std(dim=(1, 2, 3)),
        "sharpness": laplacian(grey, 3).var(dim=(1, 2, 3)),
        "edge_density": (sobel(grey) > EDGE).float().mean(dim=(1, 2, 3)),
        "brightness": grey.mean(dim=(1, 2, 3)),
        "near_black": near_black_share(to_bytes(images)),
    }


def near_black_counts(pixels: Tensor) -> Tensor:
    """Of each image: how many values lie in 1 to 15, and how many in 0 to 15; pixels (N, C, H, W) uint8 -> (N, 2)
    float64."""
    values = pixels.flatten(1)
    dark = values < NEAR_END
    return torch.stack([(dark & (values > 0)).sum(dim=1), dark.sum(dim=1)], dim=1).double()


def near_black_share(pixels: Tensor) -> Tensor:
    """Of the values of images (n, C, H, W) uint8 that look black, the share that is not: (n,), 0 where none is dark.
    Nobody sees it, and networks do."""
    part, whole = near_black_counts(pixels).unbind(dim=1)
    return (part / whole.clamp(min=1)).float()


@dataclass(frozen=True)
class Correlations:
    """Spearman's rank correlations of S scores with P properties of the same images, or means of such."""

    scores: list[str]
    properties: list[str]
    values: Tensor  # (S, P) float64, NaN where one of the two does not vary
    shuffled: Tensor  # (SHUFFLES, S, P) the same where each image has the properties of a random one; 0 for NaN

    @classmethod
    def of(
        cls, scores: Mapping[str, Tensor], properties: Mapping[str, Tensor], generator: torch.Generator
    ) -> "Correlations":
        """Of scores and properties (n,) of n images. Scores keep their own ties, as properties do theirs."""
        a, b = (unit_ranks(torch.stack(list(given.values()))) for given in (scores, properties))
        vary = a.any(dim=1)[:, None] & b.any(dim=1)
        parts = (torch.rand(AT_ONCE, a.shape[1], generator=generator) for _ in range(SHUFFLES // AT_ONCE))
        return cls(
            list(scores),
            list(properties),
            (a @ b.T).where(vary, torch.nan),
            torch.cat([torch.einsum("sn,pkn->ksp", a, b[:, keys.argsort(dim=1)]) for keys in parts]),
        )

    @property
    def chance95(self) -> float | None:
        """What the largest of the table, of either sign, is at most in 95% of shuffles; None where nothing is known.
        Scores resemble each other, and so do properties: shuffled together they still do."""
        if self.values.isnan().all():
            return None
        return self.shuffled.abs().amax(dim=(1, 2)).quantile(0.95).item()

    @property
    def table(self) -> Table:
        """By score and property; None for what is not known."""
        rows = [[None if value != value else value for value in row] for row in self.values.tolist()]
        return {score: dict(zip(self.properties, row)) for score, row in zip(self.scores, rows)}


def mean_correlations(cells: Sequence[Correlations]) -> Correlations:
    """Over cells whose shuffles are independent: each entry over the cells where it is known."""
    values = torch.stack([cell.values for cell in cells])
    known = (~values.isnan()).sum(dim=0)
    shuffled = torch.stack([cell.shuffled for cell in cells]).sum(dim=0) / known.clamp(min=1)
    return Correlations(cells[0].scores, cells[0].properties, values.nanmean(dim=0), shuffled)


def unit_ranks(values: Tensor) -> Tensor:
    """Ranks in each row of (k, n), ties sharing their mean, centred and of unit length, float64; 0 in a row that does
    not vary. Their products are Spearman's correlations."""
    ranks = torch.stack([_mean_ranks(row) for row in values])
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    return torch.nn.functional.normalize(centred, dim=1)


def _mean_ranks(row: Tensor) -> Tensor:
    _, place, count = row.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2).double()[place]
