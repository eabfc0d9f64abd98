"""Images with classes and styles in one uint8 tensor."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.data.config import Half
from hfdiff.data.halves import in_second_half
from hfdiff.pipelines import shown

NEAR_END = 16  # values of 255 that look black, or as far from white


@dataclass(frozen=True)
class ImageTable:
    """N images with one class each and the strengths of the styles that the data itself names."""

    pixels: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64 in [0, len(class_names))
    style_weights: Tensor  # (N, S) float32 in [0, 1]; S = 0 where the data names no styles
    class_names: tuple[str, ...]
    style_names: tuple[str, ...]
    name: str
    split: str = "train"
    notes: tuple[str, ...] = ()  # of the reading: what was found, left out and decided

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[2], self.pixels.shape[3]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels, style strengths and names, the first 16 hex digits."""
        digest = hashlib.sha256(repr((self.class_names, self.style_names, tuple(self.pixels.shape))).encode())
        for tensor in (self.pixels, self.labels, self.style_weights):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def class_counts(self) -> list[int]:
        return torch.bincount(self.labels.cpu(), minlength=len(self.class_names)).tolist()

    def part(self, index: slice | Tensor) -> "ImageTable":
        """The images at `index`; a slice shares the memory, a tensor of int64 copies."""
        return replace(
            self, pixels=self.pixels[index], labels=self.labels[index], style_weights=self.style_weights[index]
        )

    def half(self, half: Half) -> "ImageTable":
        """The images of one half. What they show decides (`in_second_half`), so that an image is in the same half in
        whatever dataset, order, split, encoding or size it comes."""
        if half == "whole":
            return self
        wanted = in_second_half(self.pixels) == (half == "second")
        return self.part(wanted.nonzero().squeeze(1))

    def to(self, device: torch.device) -> "ImageTable":
        """On the device, or where it is if that would take more than half of a GPU's free memory."""
        if device.type == "cuda" and self.pixels.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        return replace(
            self,
            pixels=self.pixels.to(device),
            labels=self.labels.to(device),
            style_weights=self.style_weights.to(device),
        )


def to_model_range(pixels: Tensor) -> Tensor:
    """NCHW uint8 -> NCHW float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_unit_range(pixels: Tensor) -> Tensor:
    """NCHW uint8 -> NCHW float32 in [0, 1]."""
    return pixels.float() / 255


def to_bytes(images: Tensor) -> Tensor:
    """Images (N, C, H, W) float32 in [0, 1] -> uint8 on the CPU; BadInput for what is no number."""
    if not images.isfinite().all():
        row = int((~images.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise BadInput(f"image {row} holds pixels that are no numbers (NaN or infinite); nothing was measured")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def has_clean_ground(pixels: Tensor) -> bool:
    """Is what looks black in images (N, C, H, W) uint8 quite black, or what looks white quite white, as in drawings and
    cut-outs? Of values within `NEAR_END`, a twentieth of all at least."""
    values = pixels[:: max(1, len(pixels) // 1000)].flatten()
    for away in (values, 255 - values):
        near = away[away < NEAR_END]
        if len(near) > len(values) / 20 and (near == 0).double().mean().item() > 0.8:
            return True
    return False


def describe(table: ImageTable, validation: ImageTable | None = None) -> str:
    """What was found and what was read: sizes, classes with counts, and the notes of the reading."""
    height, width = table.size
    kind = {1: "grey", 3: "colour"}[table.channels]
    counts = table.class_counts()
    names = [shown(name) for name in table.class_names]
    wide = max(map(len, names))
    held_out = validation.class_counts() if validation is not None and validation is not table else None
    beside = f", {len(validation or ()):,} for validation" if held_out else ""
    lines = [f"{shown(table.name)}: {len(table):,} images{beside}, {height}x{width} {kind}, {len(counts)} classes"]
    for i, (name, n) in enumerate(zip(names, counts)):
        lines.append(f"  {i:>3}  {name:<{wide}}  {n:>7,}" + (f"  {held_out[i]:>6,}" if held_out else ""))
    return "\n".join([*lines, *table.notes])


def alike(first: ImageTable, second: ImageTable) -> tuple[ImageTable, ImageTable]:
    """Two splits with as many channels, grey made colour where only one is; BadInput where their sizes differ."""
    if first.size != second.size:
        raise BadInput(
            f"dataset {first.name!r}: {first.split} and {second.split} images differ in size; give --resolution"
        )
    if first.channels == second.channels:
        return first, second
    colour = (replace(table, pixels=table.pixels.expand(-1, 3, -1, -1).contiguous()) for table in (first, second))
    return next(colour), next(colour)
