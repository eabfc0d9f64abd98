"""Which half an image belongs to, and what it is known again by: decided by the image as seen, not by its bytes.

Both are bins of a few low frequencies of the luminance that are even from left to right, every other bin one and the
rest zero: the quantiser of universal embeddings (Boufounos & Rane 2013, https://arxiv.org/abs/1305.6235, Equation 3).
Re-encoding moves these frequencies by a hundredth of a bin, and two images, even of one class, differ by whole bins.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as JPEG and PIL have it
ORDERS_DOWN, ORDERS_ACROSS = range(6), range(0, 8, 2)  # of the DCT-II; odd ones across would tell an image's mirror
# Bins of the half for each grey level of a frequency's mean, by order down and across; found on the training images of
# Fashion-MNIST and CIFAR-10, so that re-encoding moves least and no class falls into one half.
HALF_WEIGHTS = (
    (-24, 37, -19, 8),
    (-30, -5, -3, 4),
    (20, -100, 36, -41),
    (-17, 36, -39, 24),
    (2, 22, -8, 19),
    (9, -1, -14, 4),
)
HALF_BIN, HALF_OFFSET = 1000.0, 0.05
HALVES = 2  # version of the halves, which networks trained on one carry; in the first, bytes decided
HASH_BITS = 63
HASH_BIN = 12.0  # grey levels
NEAR_BITS = 6  # images whose hashes differ in no more are taken for one


def _basis(channels: int, height: int, width: int) -> Tensor:
    """Luminance's frequencies as means over an image's values, (channels * height * width, 24) float64."""

    def cosines(orders: range, side: int) -> Tensor:
        place = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        return torch.cos(math.pi * torch.tensor(list(orders))[:, None] * place) / side

    weights = torch.tensor(LUMINANCE if channels == 3 else (1.0,), dtype=torch.float64)
    down, across = cosines(ORDERS_DOWN, height), cosines(ORDERS_ACROSS, width)
    return torch.einsum("c,uh,vw->chwuv", weights, down, across).reshape(channels * height * width, -1)


def low_frequencies(pixels: Tensor) -> Tensor:
    """Pixels (N, C, H, W) uint8, grey or RGB, of any size -> (N, 24) float64 in grey levels, on the CPU; equal for an
    image and its mirror."""
    basis = _basis(*pixels.shape[1:])
    return torch.cat([part.cpu().flatten(1).double() @ basis for part in pixels.split(1000)])


def in_second_half(pixels: Tensor) -> Tensor:
    """Pixels (N, C, H, W) uint8 -> is each image of the second half? (N,) bool, on the CPU.

    Of the first 6,000 test images of Fashion-MNIST and CIFAR-10, fewer than 1% change sides by JPEG 90 or by resizing
    from 28 to 30 and from 32 to 36 pixels, in each of Pillow's bilinear, bicubic and Lanczos filters.
    """
    weights = torch.tensor(HALF_WEIGHTS, dtype=torch.float64).flatten()
    return (low_frequencies(pixels) @ weights / HALF_BIN + HALF_OFFSET).floor() % 2 == 1


def _hash_weights() -> Tensor:
    """Signs of the frequencies in each bit, rows of a Hadamard matrix, (63, 24) float64; brightness, which resizing
    moves most, counts a quarter."""
    columns = [(37 * k + 5) % 64 for k in range(len(ORDERS_DOWN) * len(ORDERS_ACROSS))]
    signs = [[(-1.0) ** (row & column).bit_count() for column in columns] for row in range(1, HASH_BITS + 1)]
    weights = torch.tensor(signs, dtype=torch.float64)
    weights[:, 0] /= 4
    return weights


def perceptual_hashes(pixels: Tensor) -> Tensor:
    """Pixels (N, C, H, W) uint8 -> hashes of 63 bits (N,) int64, equal for an image and its mirror.

    JPEG 90 changes 1.3 bits in the mean (Fashion-MNIST; 0.3 CIFAR-10; n = 1,000), bicubic resizing as above 1.9 (0.2).
    Of other images, 0.15% (0.09%) have one within `NEAR_BITS` among the 29,000 (24,000) of the other half.
    """
    bins = (low_frequencies(pixels) @ _hash_weights().T / HASH_BIN).floor().long() % 2
    return (bins << torch.arange(HASH_BITS)).sum(dim=1)


def near(hashes: Tensor, known: Tensor, bits: int = NEAR_BITS) -> Tensor:
    """Hashes (N,) and known ones (M,), int64 -> does each differ from any of the known in at most `bits`? (N,) bool.

    Two that do are equal in one at least of `bits` + 1 parts (Norouzi et al. 2012, https://arxiv.org/abs/1307.2982,
    Proposition 1), so only those that share a part are compared.
    """
    asked, held = hashes.cpu().numpy(), known.cpu().numpy()
    found = np.zeros(len(asked), dtype=bool)
    edges = np.linspace(0, HASH_BITS, bits + 2).astype(int)
    for low, high in pairwise(edges):
        parts = [(value >> low) & ((1 << int(high - low)) - 1) for value in (asked, held)]
        order = parts[1].argsort(kind="stable")
        first, last = (np.searchsorted(parts[1][order], parts[0], side) for side in ("left", "right"))
        for rows in np.array_split(np.arange(len(asked)), max(1, (last - first).sum() // 4_000_000)):
            count = last[rows] - first[rows]
            row = rows.repeat(count)
            place = np.arange(count.sum()) - (count.cumsum() - count).repeat(count) + first[rows].repeat(count)
            found[row[np.bitwise_count(asked[row] ^ held[order[place]]) <= bits]] = True
    return torch.from_numpy(found)
