"""`hfdiff sample`."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hfdiff.commands.drawing import MAX_IMAGES, Drawing, open_clip
from hfdiff.core.errors import BadInput, as_bad_input, check_range, first_line
from hfdiff.core.files import folder_to_write, slug, write_file
from hfdiff.data.decoding import open_picture, upright
from hfdiff.figures.grids import Grid, class_style_grid, save_picture
from hfdiff.models.samplers import sampler_of
from hfdiff.models.sampling import sample_tensors
from hfdiff.pipelines import PLAIN, ClassStylePipeline


@dataclass(frozen=True, kw_only=True)
class Sample(Drawing):
    output_dir: str
    """Where the pictures go."""
    class_labels: tuple[str, ...] = ()
    """Names or ids of classes; by default all."""
    styles: tuple[str, ...] = ()
    """One for all or one for each label: "plain", "thick:0.8+slanted"; by default, and without labels, every style."""
    num_images: int = 4
    """Pictures for each label."""
    image: str | None = None
    """Begin with this picture: to vary it, restyle it, change its class, or repair a part."""
    strength: float | None = None
    """How far from the picture to go: above 0, to 1. By default 0.6, with a mask 1."""
    mask: str | None = None
    """A picture, white where the image is drawn anew and black where it is kept."""
    clip_guidance_scale: float | None = None
    """Push every step towards clip_prompt by CLIP's gradient: 0.5, for example; from 1 on classes suffer."""
    clip_prompt: str | None = None
    """What to push to, with {} for "a thick sneaker"; by default "a clear photo of {}"."""
    clip: str | None = None
    """Folder or Hub id of a CLIP or SigLIP model for that; by default the pipeline's own."""

    def main(self) -> int:
        out = folder_to_write(self.output_dir)
        check_range("num_images", self.num_images, 1, MAX_IMAGES)
        if self.clip_guidance_scale is None and (self.clip_prompt or self.clip):
            raise BadInput("clip_prompt and clip go with clip_guidance_scale; give it, 0.5 for example")
        files = {key: file for key, file in (("image", self.image), ("mask", self.mask)) if file is not None}
        pictures = {key: _read_picture(key, file) for key, file in files.items()}
        pipeline = self.pipeline()
        own = ("strength", "clip_guidance_scale", "clip_prompt")
        arguments = self.given() | {key: getattr(self, key) for key in own if getattr(self, key) is not None}
        if self.clip_guidance_scale is not None:
            open_clip(self.clip, pipeline, None)
        with as_bad_input():
            grid = self.draw(pipeline, arguments | pictures)
        out.mkdir(parents=True, exist_ok=True)
        records = []
        images = pipeline.numpy_to_pil(grid.images.permute(0, 2, 3, 1).numpy())
        for i, (image, label, weights) in enumerate(zip(images, grid.class_labels, grid.styles, strict=True)):
            style = "+".join(f"{name}-{strength:g}" for name, strength in weights.items()) or "plain"
            class_name = "any" if label is None else pipeline.class_names[label]
            name = f"{i:04d}-{slug(class_name)}-{slug(style)}.png"
            png = io.BytesIO()
            image.save(png, "PNG")
            write_file(out / name, png.getvalue())
            records.append({"file": name, "class": class_name, "styles": weights})
        save_picture(out / "grid.png", grid.figure())
        settings = {"sampler": sampler_of(pipeline.scheduler), **files, **arguments, **self.stated()}
        write_file(out / "samples.json", (json.dumps({**settings, "images": records}, indent=2) + "\n").encode())
        print(f"{len(images)} pictures in {out}; all of them on one sheet: {out / 'grid.png'}")
        return 0

    def draw(self, pipeline: ClassStylePipeline, arguments: dict[str, Any]) -> Grid:
        """The whole table of classes and styles where nothing was chosen, else the labels asked for."""
        if not self.class_labels and not self.styles:
            return class_style_grid(pipeline, per_cell=self.num_images, seed=self.seed, **arguments)
        labels = list(self.class_labels or pipeline.class_names)
        out = sample_tensors(
            pipeline,
            labels,
            styles=list(self.styles) or None,
            num_images_per_label=self.num_images,
            generator=torch.Generator().manual_seed(self.seed),
            **arguments,
        )
        styles = (self.styles or (PLAIN,)) * (len(labels) if len(self.styles) < 2 else 1)
        rows = [f"{label}, {style}" for label, style in zip(labels, styles, strict=True)]
        return Grid(out.images, rows, [""], self.num_images, out.class_labels, out.styles)


def _read_picture(flag: str, file: str) -> Image.Image:
    """The picture in a file, turned as in training; BadInput names the file."""
    try:
        if Path(file).exists() and not Path(file).is_file():  # reading a pipe would wait for ever
            raise ValueError("it is no regular file; valid: a picture")
        with open_picture(file) as image:
            image.load()
            return upright(image)
    except Exception as error:  # Pillow raises many kinds for a broken file
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise BadInput(f"{flag} {file!r} cannot be read: {reason}") from error
