"""Augmentation, above all a non-leaking one: the model is conditioned on what was done to each image.

After Karras et al. 2022 (https://arxiv.org/abs/2206.00364), Appendix F.2; sampling conditions it on nothing done.
"""

import math

import torch
import torch.nn.functional as F
from kornia.geometry.transform import warp_affine
from torch import Tensor

NUM_AUGMENTS = 6  # labels: mirror, zoom, cos - 1 and sin of the turn, shift right, shift down
NUM_DRAWS = 9  # five chances (mirror, zoom, turn, right, down) and four amounts


def augment(pixels: Tensor, draw: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Mirror, zoom, turn and shift images (B, C, H, W); each change happens with `probability`.

    `draw` is uniform (B, NUM_DRAWS). Returns the images and the labels (B, 6), 0 where nothing was done.
    """
    height, width = pixels.shape[-2:]
    chance = draw[:, :5] < probability
    amount = (2 * draw[:, 5:] - 1) * chance[:, 1:]  # in [-1, 1]
    mirror = chance[:, 0].float()
    zoom = 0.2 * amount[:, 0]  # log2 of the scale
    turn = math.radians(15) * amount[:, 1]
    right, down = 0.125 * amount[:, 2], 0.125 * amount[:, 3]
    labels = torch.stack([mirror, zoom, turn.cos() - 1, turn.sin(), right, down], dim=1)
    scale, side = torch.exp2(zoom), 1 - 2 * mirror
    linear = torch.stack(
        [scale * side * turn.cos(), -scale * turn.sin(), scale * side * turn.sin(), scale * turn.cos()]
    )
    linear = linear.T.reshape(-1, 2, 2)
    centre = pixels.new_tensor([(width - 1) / 2, (height - 1) / 2])
    shift = torch.stack([right * width, down * height], dim=1)
    offset = centre + shift - linear @ centre
    warped = warp_affine(
        pixels, torch.cat([linear, offset[..., None]], dim=2), (height, width), padding_mode="reflection"
    )
    changed = chance.any(dim=1).reshape(-1, 1, 1, 1)
    return torch.where(changed, warped, pixels), labels


def invisible_noise(pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Change images (B, C, H, W) in [0, 1] by a random amount from 0 to what nobody sees.

    Half of them get noise of a standard deviation up to 5/255, and half, drawn apart from it, dust: 5 to 40% of the
    values within 16/255 of black or white are put 1/255 to at most 15/255 from there.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=pixels.device)

    noised, dusted, amount, share, reach = uniform(5, len(pixels), 1, 1, 1)
    ground = pixels.round()
    dusty = (dusted < 0.5) & ((pixels - ground).abs() < 16 / 255) & (uniform(*pixels.shape) < 0.05 + 0.35 * share)
    specks = (1 + 14 * reach * uniform(*pixels.shape)) / 255
    pixels = pixels.where(~dusty, ground + (1 - 2 * ground) * specks)
    scale = (noised < 0.5) * amount * 5 / 255
    noise = torch.randn(pixels.shape, generator=generator, device=pixels.device)
    return (pixels + scale * noise).clamp(0, 1)


def shift(images: Tensor, flip: bool = False) -> Tensor:
    """Shift each of the images (B, C, H, W) by up to two pixels; `flip` mirrors half of them first."""
    count, _, height, width = images.shape
    if flip:
        mirrored = torch.rand(count, 1, 1, 1, device=images.device) < 0.5
        images = images.where(~mirrored, images.flip(-1))
    down, right = torch.randint(0, 5, (2, count, 1), device=images.device)
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    image = torch.arange(count, device=images.device)[:, None, None]
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate").permute(0, 2, 3, 1)
    return padded[image, (down + rows)[:, :, None], (right + columns)[:, None, :]].permute(0, 3, 1, 2)
