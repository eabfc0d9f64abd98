"""Thick and thin: strokes of a figure on a plain ground are widened or narrowed, the edges of a photograph outlined.

On a plain ground the outline moves along its normal and the inside keeps its values, as in a level set (Osher & Sethian
1988). On a ridge the normals cancel, so that no stroke breaks; and light or dark makes no difference.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d, spatial_gradient
from kornia.geometry.transform import remap
from kornia.utils import create_meshgrid
from torch import Tensor

Change: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # images, strengths -> images

PLAIN_TOLERANCE, PLAIN_SHARE = 0.02, 0.5  # so near to the ground is so much of the border of an image with a figure
MAX_THICKER, MAX_THINNER = 2 / 28, 0.69 / 28  # of the shorter side: how far an outline moves at strength 1
NARROWEST = 0.35  # of a figure's mean half width: `thin` moves the outline no farther
STEPS = 3  # in which an outline moves outwards: its normals are known for about a pixel
BOLD, FINE = 3 / 32, 1.5 / 32  # of the shorter side: width of the outlines in a photograph
BOLD_DARKER, FINE_DARKER = 0.3, 0.38  # at strength 1, by its root; darker hides the class from a judge


def ground_of(pixels: Tensor) -> Tensor:
    """The median colour of the border of images (B, C, H, W): (B, C, 1, 1)."""
    values = _border(pixels).sort(dim=-1).values
    middle = values.shape[-1]
    return ((values[..., (middle - 1) // 2] + values[..., middle // 2]) / 2)[..., None, None]


def has_plain_ground(pixels: Tensor) -> Tensor:
    """Which images (B, C, H, W) are figures on a ground of one colour: (B,) bool."""
    away = (_border(pixels) - ground_of(pixels)[..., 0]).abs().amax(dim=1)
    return (away <= PLAIN_TOLERANCE).float().mean(dim=1) >= PLAIN_SHARE


def _border(pixels: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, number of pixels in the outermost ring)."""
    sides = (pixels[:, :, 0], pixels[:, :, -1], pixels[:, :, 1:-1, 0], pixels[:, :, 1:-1, -1])
    return torch.cat(sides, dim=2)


def figure_of(pixels: Tensor) -> Tensor:
    """How far each pixel belongs to the figure, (B, 1, H, W) in [0, 1]: its distance to the ground, 1 from half of that
    of the figure's strongest 2% on."""
    away = (pixels - ground_of(pixels)).abs().amax(dim=1, keepdim=True)
    strongest = away.flatten(1).topk(max(1, away[0].numel() // 50), dim=1).values.mean(dim=1)
    return (2 * away / strongest.clamp(min=1e-6).reshape(-1, 1, 1, 1)).clamp(max=1)


def half_width(figure: Tensor) -> Tensor:
    """Mean half width of the strokes of a figure (B, 1, H, W), in pixels: area over length of the outline, (B,)."""
    right, down = F.pad(figure.diff(dim=-1), (0, 1)), F.pad(figure.diff(dim=-2), (0, 0, 0, 1))
    outline = (right.square() + down.square()).sqrt().sum(dim=(1, 2, 3))
    return figure.sum(dim=(1, 2, 3)) / outline.clamp(min=1e-6)


def thicken(pixels: Tensor, strength: Tensor) -> Tensor:
    """Wider strokes, or bold outlines in a photograph: images (B, C, H, W) in [0, 1], strengths (B,)."""

    def widen(figures: Tensor, strength: Tensor) -> Tensor:
        return _moved(figures, strength * MAX_THICKER * min(pixels.shape[-2:]), STEPS)

    return _by_ground(
        pixels, strength, widen, lambda photos, given: _outlined(photos, given.sqrt() * BOLD_DARKER, BOLD)
    )


def thin_out(pixels: Tensor, strength: Tensor) -> Tensor:
    """Narrower strokes, or fine outlines in a photograph: images (B, C, H, W) in [0, 1], strengths (B,)."""

    def narrow(figures: Tensor, strength: Tensor) -> Tensor:
        farthest = (NARROWEST * half_width(figure_of(figures))).clamp(max=MAX_THINNER * min(pixels.shape[-2:]))
        return _moved(figures, -strength * farthest, steps=1)

    return _by_ground(
        pixels, strength, narrow, lambda photos, given: _outlined(photos, given.sqrt() * FINE_DARKER, FINE)
    )


def _by_ground(pixels: Tensor, strength: Tensor, of_figure: Change, of_photo: Change) -> Tensor:
    """One change for images with a plain ground, another for the others."""
    plain = has_plain_ground(pixels)
    for chosen, change in ((plain, of_figure), (~plain, of_photo)):
        rows = chosen.nonzero().squeeze(1)
        if len(rows):
            pixels = pixels.index_copy(0, rows, change(pixels[rows], strength[rows]))
    return pixels


def _moved(pixels: Tensor, distance: Tensor, steps: int) -> Tensor:
    """Move the figure's outline outwards by distances (B,) in pixels."""
    height, width = pixels.shape[-2:]
    grid = create_meshgrid(height, width, False, device=pixels.device, dtype=pixels.dtype)  # (1, H, W, 2): x, y
    for _ in range(steps):
        source = grid - (distance / steps).reshape(-1, 1, 1, 1) * _normals(figure_of(pixels)).permute(0, 2, 3, 1)
        # Bilinear interpolation blurs by the fraction of a pixel, which would tell the strength before the strokes do.
        moved = remap(pixels, source[..., 0], source[..., 1], "bicubic", "border", align_corners=True)
        pixels = moved.clamp(pixels.amin((-2, -1), keepdim=True), pixels.amax((-2, -1), keepdim=True))
    return pixels


def _normals(figure: Tensor) -> Tensor:
    """Unit vectors (B, 2, H, W), x and y, out of the figure; shorter where the outline is faint."""
    smooth = gaussian_blur2d(figure, (5, 5), (0.8, 0.8), border_type="replicate")
    slope = spatial_gradient(smooth, "diff")[:, 0]
    size = torch.hypot(*slope.split(1, dim=1))
    return -slope / size.clamp(min=1e-8) * (size / 0.15).clamp(max=1)


def _outlined(pixels: Tensor, darker: Tensor, width: float) -> Tensor:
    """Draw lines of `width` of the shorter side along the strong edges, in the image's own colour darkened by (B,)."""
    line, radius = strong_edges(pixels), (width * min(pixels.shape[-2:]) - 1) / 2
    for i in range(math.ceil(radius)):
        line = line.lerp(F.max_pool2d(line, 3, stride=1, padding=1), min(radius - i, 1.0))
    return pixels * (1 - darker.reshape(-1, 1, 1, 1) * line)


def strong_edges(pixels: Tensor) -> Tensor:
    """Lines of one pixel along the edges of images (B, C, H, W) that are strong beside their own strongest twentieth:
    (B, 1, H, W) in [0, 1]. Edges are ridges of the gradient, as in Canny 1986."""
    scale = max(0.6, min(pixels.shape[-2:]) / 32)
    side = 2 * math.ceil(3 * scale) + 1
    if side // 2 >= min(pixels.shape[-2:]):
        return torch.zeros_like(pixels[:, :1])
    smooth = gaussian_blur2d(pixels, (side, side), (scale, scale), border_type="replicate")
    slopes = spatial_gradient(smooth, "diff")  # (B, C, 2, H, W)
    size, channel = torch.hypot(*slopes.unbind(2)).max(dim=1, keepdim=True)  # (B, 1, H, W)
    slope = slopes.gather(1, channel[:, :, None].expand(-1, -1, 2, -1, -1))[:, 0]
    across = (slope / size.clamp(min=1e-8)).permute(0, 2, 3, 1)  # (B, H, W, 2)
    grid = create_meshgrid(*pixels.shape[-2:], False, device=pixels.device, dtype=pixels.dtype)
    beside = [
        remap(size, place[..., 0], place[..., 1], padding_mode="border", align_corners=True)
        for place in (grid + across, grid - across)
    ]
    ridge = (size >= beside[0]) & (size >= beside[1])
    strongest = size.flatten(1).quantile(0.93, dim=1).clamp(min=1e-6).reshape(-1, 1, 1, 1)
    return ridge * ((size / strongest - 0.4) / 0.3).clamp(0, 1)
