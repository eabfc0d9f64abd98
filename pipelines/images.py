"""Images as people give them, as tensors."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

ImageInput: TypeAlias = Image.Image | np.ndarray | torch.Tensor | Sequence[Image.Image | np.ndarray | torch.Tensor]


def read_images(what: str, images: ImageInput, channels: int, height: int, width: int) -> torch.Tensor:
    """PIL, numpy NHWC, torch NCHW, one image or a list, of any size -> (N, channels, height, width) in [0, 1].

    diffusers' `VaeImageProcessor` resizes arrays by the nearest neighbour, converts the channels of PIL images only,
    and takes what has four channels for latents; here every kind of input goes one way.
    """
    items = list(split_images(images, several=4))
    if not items:
        raise ValueError(f"{what} is an empty list; valid: one image or more")
    return torch.cat([fit_to_size(_to_pixels(what, item, channels)[None], height, width) for item in items])


def split_images(images: Any, several: int = 3) -> Any:
    """A list of single images; arrays of `several` dimensions and more hold many."""
    if isinstance(images, np.ndarray | torch.Tensor):
        return list(images) if images.ndim >= several else [images]
    return images if isinstance(images, list | tuple) else [images]


def _to_pixels(what: str, image: Any, channels: int) -> torch.Tensor:
    """One image, PIL or array (H, W), (H, W, C) numpy or (C, H, W) torch -> (channels, H, W) float32 in [0, 1]."""
    if isinstance(image, Image.Image):
        image = _decode(what, image, channels)
    if isinstance(image, np.ndarray) and image.ndim in (2, 3):
        pixels = torch.tensor(image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)
    elif isinstance(image, torch.Tensor) and image.ndim in (2, 3):
        pixels = (image if image.ndim == 3 else image[None]).cpu()
    else:
        raise ValueError(f"{what} of type {type(image).__name__}; valid: PIL, numpy NHWC, torch NCHW, or a list")
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if not pixels.numel() or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"{what} with values outside [0, 1]; valid: [0, 1], or uint8")
    return with_channels(what, pixels, channels)


def with_channels(what: str, pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """(..., C, H, W) grey or in colour -> (..., channels, H, W)."""
    given = pixels.shape[-3]
    if given == 1:
        pixels = pixels.expand(*pixels.shape[:-3], channels, -1, -1)
    elif given == 3 and channels == 1:
        luma = pixels.new_tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)  # as PIL has it
        pixels = (luma * pixels).sum(dim=-3, keepdim=True)
    if pixels.shape[-3] != channels:
        raise ValueError(f"{what} with {given} channels; valid: {channels}, grey or colour")
    return pixels


def _decode(what: str, image: Image.Image, channels: int) -> np.ndarray:
    """PIL -> uint8 (H, W) or (H, W, 3), as in training."""
    if image.mode == "F":
        raise ValueError(f"{what} of mode F; valid: 8 or 16 bits a channel")
    return np.array(to_8bit(image).convert("L" if channels == 1 else "RGB"))


def to_8bit(image: Image.Image) -> Image.Image:
    """PIL of any mode -> L or RGB; transparent parts become white, 16 bits become 8."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((values >> 8 if values.max() > 255 else values).clip(0, 255).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def fit_to_size(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut (N, C, H, W) at the centre to the aspect asked for, as in training, and resize it without aliasing."""
    h, w = pixels.shape[-2:]
    if (h, w) == (height, width):
        return pixels
    scale = min(h / height, w / width)
    cut_h, cut_w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (h - cut_h) // 2, (w - cut_w) // 2
    cut = pixels[..., top : top + cut_h, left : left + cut_w]
    return F.interpolate(cut, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)


def one_for_each(what: str, images: torch.Tensor, count: int, num_images_per_label: int) -> torch.Tensor:
    """One for all, one for each label, or one for each image -> one for each of `count` images."""
    if len(images) == count // num_images_per_label:
        return images.repeat_interleave(num_images_per_label, dim=0)
    if len(images) not in (1, count):
        raise ValueError(
            f"{len(images)} {what} for {count // num_images_per_label} labels and {count} images; "
            "valid: one for all, one for each label, or one for each image"
        )
    return images.expand(count, -1, -1, -1)
