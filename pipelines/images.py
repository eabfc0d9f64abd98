"""Images as people give them, as tensors."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps

TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262  # tags of a TIFF: bits a channel, and what 0 stands for

DEAD_ZONE = 8 / 255  # distance from black and from white that nobody sees

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
    truth = what == "mask" and pixels.numel() and pixels.max() <= 1  # 0 and 1 of any type
    pixels = pixels / 255 if pixels.dtype == torch.uint8 and not truth else pixels.float()
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


def dead_zone(images: torch.Tensor) -> torch.Tensor:
    """Images of any shape, in [0, 1], as the networks that judge and score see them: values within `DEAD_ZONE` of black
    or white are put there, values further than twice that are kept, and those between rise twice as fast.

    Without it, specks of 1 to 7 of 255 on black grounds, which nobody sees, move distances more than collapse does.
    Continuous, with a gradient; values outside [0, 1] are kept.
    """
    black = torch.minimum(images, 2 * torch.relu(images - DEAD_ZONE))
    return torch.maximum(black, 1 - 2 * torch.relu(1 - DEAD_ZONE - images))


def _decode(what: str, image: Image.Image, channels: int) -> np.ndarray:
    """PIL -> uint8 (H, W) or (H, W, 3), as in training."""
    try:
        return np.array(to_8bit(image).convert("L" if channels == 1 else "RGB"))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def to_8bit(image: Image.Image) -> Image.Image:
    """PIL of any mode -> L or RGB: the one reading of an image, in training and wherever one is given.

    It is turned as its EXIF says, and put on white where it is transparent. 16 bits are scaled by what a file of its
    kind can hold, never by what this one does. Of an animation it is the first frame. ValueError for pixels of 32 bits,
    whose range no file tells, and of Lab, whose zero writers do not agree on.
    """
    clear = _clear_colour(image)
    image.load()
    grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
    plain = image
    if clear is not None:
        plain = image.copy()
        plain.info["transparency"] = clear
    if image.mode.startswith("I"):
        plain = _from_16bit(image)
    elif image.mode in ("F", "LAB"):
        raise ValueError(f"pixels of mode {image.mode}; valid: grey or RGB of 8 or 16 bits a channel, saved so")
    if plain.has_transparency_data:
        plain = (plain.convert("LA") if plain.mode == "La" else plain).convert("RGBA")
        plain = Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain)
    return _turned(plain.convert("L" if grey else "RGB"), _orientation(image))


def _from_16bit(image: Image.Image) -> Image.Image:
    """PIL of whole numbers -> L, or LA where one of them stands for transparent."""
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and image.format != "PPM":  # whose values Pillow scales to 16 bits
        raise ValueError("pixels of 32 bits, or with signs; valid: grey or RGB of 8 or 16 bits a channel, saved so")
    most = 2 ** tags.get(TIFF_BITS, (16,))[0] - 1
    values = np.asarray(image).astype(np.int64)
    if tags.get(TIFF_PHOTOMETRIC) == 0:  # white is zero, which Pillow turns for 8 bits only
        values = most - values
    plain = Image.fromarray(((values * 255 + most // 2) // most).clip(0, 255).astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):
        plain.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return plain


def _clear_colour(image: Image.Image) -> int | tuple[int, ...] | None:
    """What an opened PNG of 2, 4 or 3 x 16 bits calls transparent, in 8 bits; Pillow leaves it in those of the file."""
    kind, clear = image.tile[0][3] if getattr(image, "tile", None) else "", image.info.get("transparency")
    if kind in ("L;2", "L;4") and isinstance(clear, int):
        return clear * (85 if kind == "L;2" else 17)
    return tuple(v >> 8 for v in clear) if kind == "RGB;16B" and isinstance(clear, tuple) else None


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (as it is) to 8."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # what a broken EXIF raises is Pillow's affair; it gives no orientation
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.info = {"exif": exif.tobytes()}
    return ImageOps.exif_transpose(image)


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
