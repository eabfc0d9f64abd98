"""The `hfdiff` command."""

import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro

from hfdiff.checkpoint import load_pipeline, write_file
from hfdiff.config import command_line, parse
from hfdiff.errors import BadInput, folder_to_write, run_program
from hfdiff.pictures import Grid, class_style_grid, save_picture
from hfdiff.pipelines.class_style import PLAIN, ClassStylePipeline
from hfdiff.plan import measure
from hfdiff.training import TrainConfig

MAX_IMAGES = 10_000


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
    num_inference_steps: int | None = None
    seed: int = 0

    def main(self) -> int:
        out = folder_to_write(self.output_dir)
        if not 1 <= self.num_images <= MAX_IMAGES:
            raise BadInput(f"num_images is {self.num_images}; valid: 1 to {MAX_IMAGES}")
        pipeline = load_pipeline(self.model)
        pipeline.to(torch.accelerator.current_accelerator() or "cpu")
        given = {key: getattr(self, key) for key in ("guidance_scale", "style_guidance_scale", "num_inference_steps")}
        arguments = {key: value for key, value in given.items() if value is not None}
        try:
            grid = self.draw(pipeline, arguments)
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
        settings: dict[str, Any] = {"model": self.model, "seed": self.seed, **arguments}
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
class Plan(TrainConfig):
    """Say what training with these flags, or with --config FILE, costs on this machine; writes nothing."""

    def main(self) -> int:
        print(measure(self).describe())
        return 0


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


COMMANDS = {"sample": Sample, "plan": Plan}


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
