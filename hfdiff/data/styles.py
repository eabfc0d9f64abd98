"""Styles: named changes of an image with a strength in [0, 1], which the model is conditioned on.

`STYLES` is the table; an entry is a phrase for prompts, an exclusive group, a transform
(pixels (B, C, H, W) float32 in [0, 1], strength (B,) in (0, 1]) -> the same shape, and a ruler that reads it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from kornia.color import rgb_to_grayscale
from kornia.geometry.transform import get_shear_matrix2d, warp_affine
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.core.names import unknown
from hfdiff.data.rulers import boldness, darkness, fade, fineness, greyness, lightness, slant, warmth
from hfdiff.data.strokes import thicken, thin_out

MAX_SHEAR_DEGREES = 25.0
VISIBLE = 4 / 255  # change of an image, root mean square, from which on it can be seen
LOOKED_AT, SELDOM = 500, 0.1  # images; and the share of them below which a style is left out
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)  # strengths at which styles are measured


@dataclass(frozen=True)
class Style:
    """One entry in the table."""

    phrase: str
    transform: Callable[[Tensor, Tensor], Tensor]
    ruler: Callable[[Tensor], Tensor]  # images -> (B,)
    group: str | None = None  # at most one style of a group acts on an image
    colour_only: bool = False


def _slanted(pixels: Tensor, strength: Tensor) -> Tensor:
    height, width = pixels.shape[-2:]
    centre = pixels.new_tensor([[width - 1, height - 1]]).div(2).expand(len(pixels), 2)
    angle = strength * math.radians(MAX_SHEAR_DEGREES)
    matrix = get_shear_matrix2d(centre, sx=angle, sy=torch.zeros_like(angle))[:, :2]
    return warp_affine(pixels, matrix, (height, width), padding_mode="border")


def _bright(pixels: Tensor, strength: Tensor) -> Tensor:
    return pixels.lerp(torch.ones_like(pixels), 0.5 * strength.reshape(-1, 1, 1, 1))


def _dark(pixels: Tensor, strength: Tensor) -> Tensor:
    return pixels * (1 - 0.6 * strength.reshape(-1, 1, 1, 1))


def _faded(pixels: Tensor, strength: Tensor) -> Tensor:
    return pixels.lerp(torch.full_like(pixels, 0.5), 0.7 * strength.reshape(-1, 1, 1, 1))


def _grey(pixels: Tensor, strength: Tensor) -> Tensor:
    return pixels.lerp(rgb_to_grayscale(pixels).expand_as(pixels), strength.reshape(-1, 1, 1, 1))


def _warm(pixels: Tensor, strength: Tensor) -> Tensor:
    gain = pixels.new_tensor([0.25, 0.0, -0.45]).reshape(1, 3, 1, 1)
    return (pixels * (1 + gain * strength.reshape(-1, 1, 1, 1))).clamp(0, 1)


STYLES: dict[str, Style] = {
    "thick": Style("thick", thicken, boldness, group="stroke"),
    "thin": Style("thin", thin_out, fineness, group="stroke"),
    "slanted": Style("slanted", _slanted, slant),
    "bright": Style("bright", _bright, lightness, group="light"),
    "dark": Style("dark", _dark, darkness, group="light"),
    "faded": Style("faded", _faded, fade, group="light"),
    "grey": Style("black and white", _grey, greyness, group="colour", colour_only=True),
    "warm": Style("warm", _warm, warmth, group="colour", colour_only=True),
}


def fitting_styles(channels: int, data_styles: Sequence[str] = ()) -> list[str]:
    """The rows for images of so many channels whose names the data does not use itself."""
    taken = [name.lower() for name in data_styles]
    return [name for name, style in STYLES.items() if (channels == 3 or not style.colour_only) and name not in taken]


def check_styles(names: Sequence[str], channels: int, data_styles: Sequence[str] = ()) -> None:
    """BadInput for a name that is no row, a style of colour on grey images, or one that the data names too."""
    valid = fitting_styles(channels)
    for name in names:
        if name not in STYLES:
            raise unknown("style", name, valid)
        if name not in valid:
            raise BadInput(f"style {name!r} needs colour images; valid for grey ones: {', '.join(valid)}")
    both = [name.lower() for name in (*names, *data_styles)]
    if len(set(both)) < len(both):
        twice = sorted({name for name in both if both.count(name) > 1})
        raise BadInput(f"styles named twice, in the configuration or by the data: {', '.join(twice)}")


def apply_styles(pixels: Tensor, strengths: Tensor, names: Sequence[str]) -> Tensor:
    """Change images (B, C, H, W) float32 in [0, 1] by strengths (B, len(names)); strength 0 changes no bit.

    Strengths on the CPU spare a GPU the wait for the list of images to change.
    """
    for column, name in enumerate(names):
        rows = strengths[:, column].nonzero().squeeze(1)
        if len(rows):
            strength = strengths[rows, column].to(pixels.device)
            rows = rows.to(pixels.device)
            pixels = pixels.index_copy(0, rows, STYLES[name].transform(pixels[rows], strength))
    return pixels


def visible_shares(pixels: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Style -> the share of images (N, C, H, W) uint8 in which it can be seen at strength 1, of `LOOKED_AT` of them:
    where it changes pixels by `VISIBLE` or more, root mean square."""
    few = pixels[:: max(1, len(pixels) // LOOKED_AT)][:LOOKED_AT].cpu().float() / 255
    full = torch.ones(len(few), 1)
    changes = {name: apply_styles(few, full, [name]) - few for name in names}
    return {
        name: (change.square().mean(dim=(1, 2, 3)).sqrt() >= VISIBLE).double().mean().item()
        for name, change in changes.items()
    }


def shown_styles(shares: Mapping[str, float]) -> tuple[str, ...]:
    """The styles that more than hardly any image can show, of `visible_shares`."""
    return tuple(name for name, share in shares.items() if share >= SELDOM)


def describe_styles(own: Sequence[str], shares: Mapping[str, float], learned: Sequence[str]) -> str:
    """The styles that the data itself names, and those of the table with the share of images that show them; those that
    are not learned are left out for that."""
    seen = [f"{name} (seen in {shares[name]:.0%})" for name in learned]
    hidden = [f"{name} (seen in {share:.0%})" for name, share in shares.items() if name not in learned]
    left_out = f"; left out, as hardly any image shows it: {', '.join(hidden)}" if hidden else ""
    return f"styles: {', '.join([*own, *seen]) or 'none'}{left_out}"


def draw_styles(batch_size: int, names: Sequence[str], share: float, generator: torch.Generator) -> Tensor:
    """Strengths (batch_size, len(names)) for training: plain images, and a `share` of styled ones.

    A styled image gets one or two styles, at most one of each exclusive group, at strengths uniform in (0, 1].
    """
    shape = (batch_size, len(names))
    draw = torch.rand((batch_size, 2 + 2 * len(names)), generator=generator, device=generator.device)
    styled, two, order, strength = draw[:, :1], draw[:, 1:2], draw[:, 2 : 2 + shape[1]], draw[:, 2 + shape[1] :]
    for group in {STYLES[name].group for name in names} - {None}:
        members = [i for i, name in enumerate(names) if STYLES[name].group == group]
        loser = order[:, members] < order[:, members].amax(dim=1, keepdim=True)
        order[:, members] = order[:, members].masked_fill(loser, -1.0)
    rank = order.argsort(dim=1, descending=True).argsort(dim=1)
    active = (rank < 1 + (two < 0.5)) & (order >= 0) & (styled < share)
    return (1 - strength) * active
