"""A run's samples as an animation."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont


def evolution(files: Sequence[Path], seconds: float = 0.8) -> bytes:
    """The samples of a run, images-NUMBER.png, as an animated WebP that says after how many images each was drawn."""
    images = [Image.open(file).convert("RGB") for file in files]
    width, height = (max(image.size[i] for image in images) for i in (0, 1))
    bar = max(24, width // 20)
    frames = []
    for file, image in zip(files, images, strict=True):
        frame = Image.new("RGB", (width, height + bar), "white")
        frame.paste(image, (width - image.width, bar))
        count = int(file.stem.partition("-")[2])
        text = f"after {count:,} training images"
        ImageDraw.Draw(frame).text((bar // 3, bar // 6), text, "black", ImageFont.load_default(size=bar * 0.65))
        frames.append(frame)
    durations = [round(1000 * seconds)] * (len(frames) - 1) + [round(3000 * seconds)]
    webp = io.BytesIO()
    frames[0].save(webp, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=80)
    return webp.getvalue()
