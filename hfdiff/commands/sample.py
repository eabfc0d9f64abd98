"""`hfdiff sample`."""

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hfdiff.commands.flags import SampleFlags
from hfdiff.commands.options import MAX_IMAGES, open_clip, open_model, settings_of, stated
from hfdiff.core.errors import BadInput, as_bad_input, check_range, first_line
from hfdiff.core.files import folder_to_write, slug, write_file, write_json
from hfdiff.core.locks import write_lock
from hfdiff.data.decoding import open_image
from hfdiff.figures.grids import Grid, class_style_grid, save_figure
from hfdiff.models.samplers import sampler_of
from hfdiff.models.sampling import sample_tensors
from hfdiff.pipelines import PLAIN, ClassStylePipeline, to_8bit


def main(flags: SampleFlags) -> int:
    out = folder_to_write(flags.output_dir)
    check_range("num_images", flags.num_images, 1, MAX_IMAGES)
    if flags.clip_guidance_scale is None and (flags.clip_prompt or flags.clip):
        raise BadInput("clip_prompt and clip go with clip_guidance_scale; give it, 0.5 for example")
    files = {key: file for key, file in (("image", flags.image), ("mask", flags.mask)) if file is not None}
    given_images = {key: _read_image(key, file) for key, file in files.items()}
    with write_lock(out):
        return save_samples(flags, out, files, given_images)


def save_samples(flags: SampleFlags, out: Path, files: dict[str, str], given_images: dict[str, Image.Image]) -> int:
    """Draw what is asked for into the folder."""
    pipeline = open_model(flags)
    own = ("strength", "num_resamples", "clip_guidance_scale", "clip_prompt")
    arguments = settings_of(flags) | {key: getattr(flags, key) for key in own if getattr(flags, key) is not None}
    if flags.clip_guidance_scale is not None:
        open_clip(flags.clip, pipeline, None)
    with as_bad_input():
        grid = draw(flags, pipeline, arguments | given_images)
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
    save_figure(out / "grid.png", grid.figure())
    settings = {"sampler": sampler_of(pipeline.scheduler), **files, **arguments, **stated(flags)}
    write_json(out / "samples.json", {**settings, "images": records})
    print(f"{len(images)} images in {out}; all of them on one sheet: {out / 'grid.png'}")
    return 0


def draw(flags: SampleFlags, pipeline: ClassStylePipeline, arguments: dict[str, Any]) -> Grid:
    """The whole table of classes and styles where nothing was chosen, else the labels asked for."""
    if not flags.class_labels and not flags.styles:
        return class_style_grid(pipeline, per_cell=flags.num_images, seed=flags.seed, **arguments)
    labels = list(flags.class_labels or pipeline.class_names)
    out = sample_tensors(
        pipeline,
        labels,
        styles=list(flags.styles) or None,
        num_images_per_label=flags.num_images,
        generator=torch.Generator().manual_seed(flags.seed),
        **arguments,
    )
    styles = (flags.styles or (PLAIN,)) * (len(labels) if len(flags.styles) < 2 else 1)
    rows = [f"{label}, {style}" for label, style in zip(labels, styles, strict=True)]
    return Grid(out.images, rows, [""], flags.num_images, out.class_labels, out.styles)


def _read_image(flag: str, file: str) -> Image.Image:
    """The image in a file, turned as in training; BadInput names the file."""
    try:
        if Path(file).exists() and not Path(file).is_file():  # reading a pipe would wait for ever
            raise ValueError("it is no regular file; valid: an image")
        with open_image(file) as image:
            return to_8bit(image)
    except Exception as error:  # Pillow raises many kinds for a broken file
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise BadInput(f"{flag} {file!r} cannot be read: {reason}") from error
