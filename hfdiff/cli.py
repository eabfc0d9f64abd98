"""The `hfdiff` command."""

import io
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

# Before torch: threads that spin while they wait stall each other on a machine that is shared (5 times here).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
import tyro
from PIL import Image

from hfdiff.checkpoint import load_pipeline
from hfdiff.config import command_line, parse
from hfdiff.data import open_picture, upright
from hfdiff.errors import BadInput, first_line, folder_to_write, run_program
from hfdiff.files import write_file
from hfdiff.pictures import Grid, class_style_grid, save_picture
from hfdiff.pipelines.class_style import PLAIN, ClassStylePipeline
from hfdiff.plan import measure
from hfdiff.samplers import Spacing, make_scheduler, process_of, sampler_of
from hfdiff.show import make_subject, show
from hfdiff.training import TrainConfig

MAX_IMAGES = 10_000
# Flags that are the pipeline's arguments of the same name; absent, the pipeline's own defaults hold.
PIPELINE_FLAGS = (
    "guidance_scale",
    "style_guidance_scale",
    "autoguidance_scale",
    "guidance_rescale",
    "guidance_interval",
    "num_inference_steps",
    "strength",
)


@dataclass(frozen=True)
class Sample:
    """Draw pictures from a trained model."""

    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    output_dir: str
    """Where the pictures go."""
    class_labels: tuple[str, ...] = ()
    """Names or ids of classes; by default all."""
    styles: tuple[str, ...] = ()
    """One for all or one for each label: "plain", "thick:0.8+slanted"; by default, and without labels, every style."""
    num_images: int = 4
    """Pictures for each label."""
    guidance_scale: float | None = None
    style_guidance_scale: float | None = None
    autoguidance_scale: float | None = None
    """Guidance by the model's weaker companion, where it has one."""
    guidance_rescale: float | None = None
    """0 to 1: how far the contrast that guidance adds is taken back."""
    guidance_interval: tuple[float, float] | None = None
    """LOW HIGH: guide only between these noise levels (sigma / alpha), for example 0.2 5."""
    num_inference_steps: int | None = None
    sampler: str | None = None
    """Another sampler than the one saved with the model, ipndm for example."""
    spacing: Spacing = "auto"
    """Spacing of the sampler's steps in noise."""
    image: str | None = None
    """Begin with this picture: to vary it, restyle it, change its class, or repair a part."""
    strength: float | None = None
    """How far from the picture to go: above 0, to 1. By default 0.6, with a mask 1."""
    mask: str | None = None
    """A picture, white where the image is drawn anew and black where it is kept."""
    seed: int = 0

    def main(self) -> int:
        out = folder_to_write(self.output_dir)
        _check_numbers(self.num_images, self.seed)
        files = {key: file for key, file in (("image", self.image), ("mask", self.mask)) if file is not None}
        pictures = {key: _read_picture(key, file) for key, file in files.items()}
        pipeline = load_pipeline(self.model)
        pipeline.to(torch.accelerator.current_accelerator() or "cpu")
        if self.sampler is not None or self.spacing != "auto":
            name = sampler_of(pipeline.scheduler) if self.sampler is None else self.sampler
            pipeline.scheduler = make_scheduler(process_of(pipeline.scheduler), name, self.spacing)
        arguments = {key: getattr(self, key) for key in PIPELINE_FLAGS if getattr(self, key) is not None}
        try:
            grid = self.draw(pipeline, arguments | pictures)
        except ValueError as error:
            raise BadInput(str(error)) from error
        out.mkdir(parents=True, exist_ok=True)
        records = []
        images = pipeline.numpy_to_pil(grid.images.permute(0, 2, 3, 1).numpy())
        for i, (image, label, weights) in enumerate(zip(images, grid.class_labels, grid.styles, strict=True)):
            style = "+".join(f"{name}-{strength:g}" for name, strength in weights.items()) or "plain"
            class_name = "any" if label is None else pipeline.class_names[label]
            name = f"{i:04d}-{_slug(class_name)}-{_slug(style)}.png"
            png = io.BytesIO()
            image.save(png, "PNG")
            write_file(out / name, png.getvalue())
            records.append({"file": name, "class": class_name, "styles": weights})
        save_picture(out / "grid.png", grid.figure())
        settings: dict[str, Any] = {"model": self.model, "seed": self.seed, "sampler": sampler_of(pipeline.scheduler)}
        settings |= {"spacing": self.spacing, **files, **arguments}
        if self.guidance_interval:  # JSON knows no infinity
            settings["guidance_interval"] = [v if math.isfinite(v) else str(v) for v in self.guidance_interval]
        write_file(out / "samples.json", (json.dumps({**settings, "images": records}, indent=2) + "\n").encode())
        print(f"{len(images)} pictures in {out}; all of them on one sheet: {out / 'grid.png'}")
        return 0

    def draw(self, pipeline: ClassStylePipeline, arguments: dict[str, Any]) -> Grid:
        """The whole table of classes and styles where nothing was chosen, else the labels asked for."""
        if not self.class_labels and not self.styles:
            return class_style_grid(pipeline, per_cell=self.num_images, seed=self.seed, **arguments)
        labels = list(self.class_labels or pipeline.class_names)
        out = pipeline(
            class_labels=labels,
            styles=list(self.styles) or None,
            num_images_per_label=self.num_images,
            generator=torch.Generator().manual_seed(self.seed),
            output_type="pt",
            **arguments,
        )
        styles = (self.styles or (PLAIN,)) * (len(labels) if len(self.styles) < 2 else 1)
        rows = [f"{label}, {style}" for label, style in zip(labels, styles, strict=True)]
        return Grid(out.images, rows, [""], self.num_images, out.class_labels, out.styles)


@dataclass(frozen=True)
class Show:
    """Explain a trained model in pictures, with a text for each: noise, its reverse, when a judge sees the class."""

    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    output_dir: str
    """Where the pictures go, and show.json with their texts and numbers."""
    dataset: str | None = None
    """Real pictures of the model's classes; by default those that the run was trained on."""
    num_images: int = 20
    """Pictures for each class, where they are counted."""
    num_inference_steps: int = 50
    """Steps of the reverse process that is watched."""
    guidance_scale: float | None = None
    style_guidance_scale: float | None = None
    seed: int = 0

    def main(self) -> int:
        out = folder_to_write(self.output_dir)
        _check_numbers(self.num_images, self.seed)
        scales = {key: getattr(self, key) for key in ("guidance_scale", "style_guidance_scale")}
        subject = make_subject(
            self.model,
            self.dataset,
            num_images=self.num_images,
            num_inference_steps=self.num_inference_steps,
            seed=self.seed,
            guidance={key: scale for key, scale in scales.items() if scale is not None},
        )
        records = {}
        for shown in show(subject):
            shown.write(out)
            records[shown.file] = {"alt": shown.alt, **shown.numbers}
        write_file(out / "show.json", (json.dumps(records, indent=2, ensure_ascii=False) + "\n").encode())
        print(f"{len(records)} pictures in {out}; what they show, in words and numbers: {out / 'show.json'}")
        return 0


@dataclass(frozen=True)
class Plan(TrainConfig):
    """Say what training with these flags, or with --config FILE, costs on this machine; writes nothing."""

    def main(self) -> int:
        print(measure(self).describe())
        return 0


def _check_numbers(num_images: int, seed: int) -> None:
    if not 1 <= num_images <= MAX_IMAGES:
        raise BadInput(f"num_images is {num_images}; valid: 1 to {MAX_IMAGES}")
    if not 0 <= seed < 2**63:
        raise BadInput(f"seed is {seed}; valid: 0 to {2**63 - 1}")


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


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


COMMANDS = {"sample": Sample, "show": Show, "plan": Plan}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console command."""
    words = sys.argv[1:] if argv is None else list(argv)
    run_program(lambda: _run(words))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print("usage: hfdiff COMMAND ...   (hfdiff COMMAND --help tells more)\n")
        print("\n".join(f"  {name:<10} {command.__doc__}" for name, command in COMMANDS.items()))
        return 0
    if words[0] not in COMMANDS:
        raise BadInput(f"unknown command {words[0]!r}; valid: {', '.join(COMMANDS)}")
    command = COMMANDS[words[0]]
    read: Any = parse if issubclass(command, TrainConfig) else command_line
    return read(command, words[1:], command.__doc__ or "", prog=f"hfdiff {words[0]}").main()
