"""Rulers of the styles: numbers of an image, without a network, that a style moves and the others leave alone.

Each takes images (B, C, H, W) float32 in [0, 1] and gives (B,) float32; more of the style is more.
"""

import torch
from kornia.filters import gaussian_blur2d, spatial_gradient
from torch import Tensor

from hfdiff.data.strokes import figure_of


def boldness(pixels: Tensor) -> Tensor:
    """The figure's share of the image. Of a photograph nothing is known: only a judge tells the outlines that a style
    draws from its own lines."""
    return figure_of(pixels).mean(dim=(1, 2, 3))


def fineness(pixels: Tensor) -> Tensor:
    return -boldness(pixels)


def slant(pixels: Tensor) -> Tensor:
    """The shear that would make gradients level: how far upright edges lean to the right, pixel for pixel."""
    smooth = gaussian_blur2d(pixels.mean(dim=1, keepdim=True), (5, 5), (1.0, 1.0), border_type="replicate")
    right, down = spatial_gradient(smooth, "diff")[:, 0, :, 2:-2, 2:-2].unbind(dim=1)
    return (right * down).sum(dim=(1, 2)) / right.square().sum(dim=(1, 2)).clamp(min=1e-8)


def _ends(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The darkest and the lightest twentieth of the green channel, which `warm` leaves alone: (B,) each."""
    green = pixels[:, pixels.shape[1] // 2].flatten(1)
    dark, light = green.quantile(green.new_tensor([0.05, 0.95]), dim=1)
    return dark, light


def lightness(pixels: Tensor) -> Tensor:
    """Where the middle between the dark and the light end of the image's own histogram lies, 0 for grey."""
    dark, light = _ends(pixels)
    return dark + light - 1


def darkness(pixels: Tensor) -> Tensor:
    return -lightness(pixels)


def fade(pixels: Tensor) -> Tensor:
    """How far both ends of the histogram have come in."""
    dark, light = _ends(pixels)
    return torch.minimum(dark, 1 - light)


def greyness(pixels: Tensor) -> Tensor:
    """Less is more colour: the distance of pixels from their own grey, over the contrast of the image."""
    dark, light = _ends(pixels)
    colour = (pixels - pixels.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2, 3)).sqrt()
    return -colour / (light - dark + 0.05)


def warmth(pixels: Tensor) -> Tensor:
    """How much more red than blue there is, as the logarithm of the ratio."""
    red, blue = (pixels[:, channel].mean(dim=(1, 2)) + 0.02 for channel in (0, -1))
    return (red / blue).log()
