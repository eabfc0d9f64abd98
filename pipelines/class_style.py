"""A diffusion pipeline that is steered by class and by style.

This file is saved beside the weights and loaded from there, so it imports nothing of the project.

Guidance, with v the model's prediction, c the class, s the styles and 0 for "unspecified":
    v(0,0) + w_c [v(c,0) - v(0,0)] + w_s [v(c,s) - v(c,0)]
is classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598) with one scale for each condition
(Brooks et al. 2023, https://arxiv.org/abs/2211.09800, Equation 3).
"""

import inspect
import json
import math
import operator
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

PLAIN = "plain"
UNSPECIFIED = -1.0  # a strength that stands for "not told"

StyleSpec = str | Mapping[str, float] | None


@dataclass
class ClassStylePipelineOutput(BaseOutput):
    """Pictures, label by label.

    `images`: a list of PIL pictures, or NHWC numpy, or NCHW torch, in [0, 1]; `class_labels`: the class id of each
    (None: unspecified); `styles`: the strengths of each, by name.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    class_labels: list[int | None]
    styles: list[dict[str, float]]


def parse_styles(spec: StyleSpec) -> dict[str, float]:
    """Read the style grammar: "thick:0.8+slanted" or {"thick": 0.8, "slanted": 1} -> strengths by name.

    A bare name means strength 1; "plain", "" and None mean no style. ValueError for a strength outside [0, 1].
    """
    if spec is None:
        return {}
    pairs: list[tuple[str, Any]]
    if isinstance(spec, str):
        words = [part.partition(":") for part in spec.split("+") if part.strip().lower() not in ("", PLAIN)]
        pairs = [(name, strength if colon else 1.0) for name, colon, strength in words]
    elif isinstance(spec, Mapping) and all(isinstance(name, str) for name in spec):
        pairs = list(spec.items())
    else:
        raise ValueError(f'style {spec!r}; valid: a text like "thick:0.8+slanted", or strengths by name')
    strengths: dict[str, float] = {}
    for name, value in ((name.strip(), value) for name, value in pairs):
        if not name or name.lower() == PLAIN or "+" in name or ":" in name:
            raise ValueError(f"style {name!r} has no name that the grammar can hold: not empty, not 'plain', no + or :")
        if name.lower() in map(str.lower, strengths):
            raise ValueError(f"{spec!r} names the style {name!r} twice")
        strengths[name] = _strength(name, value)
    return strengths


def _strength(name: str, value: Any) -> float:
    try:
        strength = float(value)
    except (TypeError, ValueError):
        strength = math.nan
    if not 0 <= strength <= 1:
        raise ValueError(f"strength {value!r} of style {name!r}; valid: a number from 0 to 1")
    return strength


def find_name(name: str, valid: Sequence[str]) -> str | None:
    """The first valid name that equals `name` to the letter, else without regard to case, else None."""
    name = name.strip()
    if name in valid:
        return name
    return next((v for v in valid if v.lower() == name.lower()), None)


def match_name(what: str, name: str, valid: Iterable[str]) -> str:
    """The valid name that equals `name`, else without regard to case; ValueError with the valid names otherwise."""
    valid = list(valid)
    found = find_name(name, valid)
    if found is not None:
        return found
    by_lower = {v.lower(): v for v in valid}
    near = get_close_matches(name.lower(), by_lower, n=1)
    hint = f" (did you mean {by_lower[near[0]]!r}?)" if near else ""
    raise ValueError(f"unknown {what} {name!r}{hint}; valid: {', '.join(valid) or 'none'}")


def resolve_styles(spec: StyleSpec, styles: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Strengths by the model's own style names; ValueError for unknown styles or two of one exclusive group."""
    strengths = {match_name("style", name, styles): value for name, value in parse_styles(spec).items()}
    taken: dict[str, str] = {}
    for name in (name for name, strength in strengths.items() if strength > 0):
        group = styles[name].get("group")
        if group and group in taken:
            raise ValueError(f"styles {taken[group]!r} and {name!r} exclude each other; give one of them")
        if group:
            taken[group] = name
    return strengths


def guidance_branches(class_scale: float, style_scale: float, styled: bool) -> list[tuple[float, bool, bool]]:
    """The conditions that one step needs: (weight, class given, styles given), the weightless ones left out.

    Equal scales need two branches, scales of 1 only one.
    """
    if not styled:
        style_scale = class_scale
    branches = [
        (1 - class_scale, False, False),
        (class_scale - style_scale, True, False),
        (style_scale, True, True),
    ]
    return [branch for branch in branches if branch[0] != 0]


class ClassStylePipeline(DiffusionPipeline):
    """Pictures from noise, by class and style.

    Args:
        unet: a `ClassStyleUNet2DModel`.
        scheduler: the diffusers scheduler of the objective that the UNet was trained for.
        id2label: {class id: class name}.
        styles: {style name: {"phrase": words for a prompt, "group": exclusive group or None, "index": column of the
            UNet}}; where no index is given, the columns are in the order of the dictionary.
    """

    model_cpu_offload_seq = "unet"

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        id2label: dict | None = None,
        styles: dict | None = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        id2label = {int(i): name for i, name in (id2label or {}).items()}
        # A saved configuration is sorted by name, so each style carries its column.
        styles = {name: {"index": i, **style} for i, (name, style) in enumerate((styles or {}).items())}
        if not all(isinstance(name, str) for name in (*id2label.values(), *styles)):
            raise ValueError(f"names of classes {list(id2label.values())[:5]}; valid: texts")
        if not _is_size(unet.config.sample_size):
            raise ValueError(
                f"sample_size {unet.config.sample_size}; valid: pixels a side, or (height, width), to 4096"
            )
        if sorted(id2label) != list(range(unet.config.num_classes)):
            raise ValueError(f"id2label names {len(id2label)} classes, the UNet has {unet.config.num_classes}")
        if sorted(style["index"] for style in styles.values()) != list(range(unet.config.num_styles)):
            raise ValueError(f"{len(styles)} styles are named, the UNet has {unet.config.num_styles}")
        self.register_to_config(id2label={str(i): name for i, name in id2label.items()}, styles=styles)

    @property
    def class_names(self) -> list[str]:
        return [self.config.id2label[str(i)] for i in range(self.unet.config.num_classes)]

    @property
    def style_names(self) -> list[str]:
        return sorted(self.config.styles, key=lambda name: self.config.styles[name]["index"])

    def class_id(self, label: int | str | None) -> int | None:
        """A class id from a name (case does not matter), an id, or an id written as text; None stays None."""
        if label is None:
            return None
        names = self.class_names
        if isinstance(label, str) and (find_name(label, names) or not label.isdecimal()):
            return names.index(match_name("class", label, names))
        try:
            number = int(label) if isinstance(label, str) else operator.index(label)
        except TypeError as error:
            raise ValueError(f"class {label!r}; valid: a name, a whole number, or None") from error
        if not 0 <= number < len(names):
            raise ValueError(f"class id {number} out of range; valid: 0 to {len(names) - 1}")
        return number

    def conditions(
        self, class_labels: Any, styles: Any, num_images_per_label: int = 1
    ) -> tuple[list[int | None], list[dict[str, float]]]:
        """One class id and one dictionary of strengths for each picture, label by label; see `__call__`."""
        if class_labels is None or isinstance(class_labels, str | Integral):
            class_labels = [class_labels]
        ids = [self.class_id(label) for label in list(class_labels)]
        specs = list(styles) if isinstance(styles, Sequence) and not isinstance(styles, str) else [styles]
        if not ids or num_images_per_label < 1:
            raise ValueError(f"{len(ids)} labels with {num_images_per_label} pictures each; valid: at least 1 of 1")
        if len(specs) not in (1, len(ids)):
            raise ValueError(f"{len(specs)} styles for {len(ids)} labels; valid: one for all, or one for each label")
        strengths = [resolve_styles(spec, self.config.styles) for spec in specs]
        if len(strengths) == 1:
            strengths = strengths * len(ids)
        repeat = range(num_images_per_label)
        return [i for i in ids for _ in repeat], [dict(s) for s in strengths for _ in repeat]

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int | str | None] | int | str | None = None,
        styles: Sequence[StyleSpec] | StyleSpec = None,
        num_images_per_label: int = 1,
        guidance_scale: float = 3.0,
        style_guidance_scale: float = 3.0,
        num_inference_steps: int = 10,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        max_batch_size: int = 256,
    ) -> ClassStylePipelineOutput | tuple:
        """Draw pictures.

        Args:
            class_labels: names or ids; None for a label means "any class".
            styles: None for plain pictures; "thick:0.8+slanted" or {"thick": 0.8}; one for all or one for each label.
            num_images_per_label: pictures for each label; they come label by label.
            guidance_scale, style_guidance_scale: w_c and w_s of the module's formula; 1 is no guidance.
            num_inference_steps: steps of the scheduler (second order: one evaluation each).
            generator: one for all pictures, or one for each picture.
            output_type: "pil", "np" (NHWC float32 in [0, 1]) or "pt" (NCHW float32 in [0, 1]).
            return_dict: False for the plain tuple (images,).
            max_batch_size: the most rows that go through the UNet at once; it bounds the memory.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type {output_type!r}; valid: pil, np, pt")
        most = self.scheduler.config.num_train_timesteps
        if not 1 <= num_inference_steps <= most:
            raise ValueError(f"num_inference_steps {num_inference_steps}; valid: 1 to {most}")
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size {max_batch_size}; valid: at least 1")
        if not all(abs(scale) <= 1000 for scale in (guidance_scale, style_guidance_scale)):
            raise ValueError(f"guidance scales {guidance_scale}, {style_guidance_scale}; valid: -1000 to 1000")
        ids, strengths = self.conditions(class_labels, styles, num_images_per_label)
        if isinstance(generator, list) and len(generator) != len(ids):
            raise ValueError(
                f"{len(generator)} generators for {len(ids)} pictures; valid: one for all, or one for each"
            )
        num_classes, num_styles = self.unet.config.num_classes, self.unet.config.num_styles
        device = self._execution_device
        class_ids = torch.tensor([num_classes if i is None else i for i in ids], device=device)  # (N,)
        weights = torch.tensor(
            [[given.get(name, 0.0) for name in self.style_names] for given in strengths], device=device
        ).reshape(len(ids), num_styles)  # (N, S)
        branches = guidance_branches(guidance_scale, style_guidance_scale, styled=num_styles > 0)

        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (len(ids), self.unet.config.in_channels, height, width)
        noise = randn_tensor(shape, generator=generator, device=device, dtype=self.unet.dtype)
        images = torch.empty(shape, dtype=torch.float32)
        rows = max(1, max_batch_size // len(branches))
        with self.progress_bar(total=num_inference_steps * math.ceil(len(ids) / rows)) as progress:
            for start in range(0, len(ids), rows):
                part = slice(start, start + rows)
                step_generator = generator[part] if isinstance(generator, list) else generator
                images[part] = self._denoise(
                    noise[part], class_ids[part], weights[part], branches, num_inference_steps, step_generator, progress
                ).cpu()
        images = (images / 2 + 0.5).clamp(0, 1)
        return self._output(images, ids, strengths, output_type, return_dict)

    def _denoise(
        self,
        sample: torch.Tensor,  # (B, C, H, W)
        class_ids: torch.Tensor,  # (B,)
        weights: torch.Tensor,  # (B, S)
        branches: list[tuple[float, bool, bool]],
        num_inference_steps: int,
        generator: torch.Generator | list[torch.Generator] | None,
        progress: Any,
    ) -> torch.Tensor:
        anything, untold = self.unet.config.num_classes, torch.full_like(weights, UNSPECIFIED)
        all_classes = torch.cat(
            [class_ids if told else torch.full_like(class_ids, anything) for _, told, _ in branches]
        )
        all_styles = torch.cat([weights if told else untold for _, _, told in branches])
        self.scheduler.set_timesteps(num_inference_steps, device=sample.device)
        sample = sample * self.scheduler.init_noise_sigma
        extra = {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        for t in self.scheduler.timesteps:
            model_input = self.scheduler.scale_model_input(sample, t).repeat(len(branches), 1, 1, 1)
            predictions = self.unet(model_input, t, all_classes, all_styles).sample.chunk(len(branches))
            prediction = sum(weight * p for (weight, _, _), p in zip(branches, predictions))
            sample = self.scheduler.step(prediction, t, sample, **extra).prev_sample
            progress.update()
        return sample

    def _output(
        self,
        images: torch.Tensor,
        ids: list[int | None],
        strengths: list[dict[str, float]],
        output_type: str,
        return_dict: bool,
    ) -> ClassStylePipelineOutput | tuple:
        result: Any = images
        if output_type != "pt":
            result = images.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            result = self.numpy_to_pil(result)
        return ClassStylePipelineOutput(images=result, class_labels=ids, styles=strengths) if return_dict else (result,)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save weights, configuration and the two source files, so that the folder loads without this package.

        The plain method loses the source files; the upload comes after they are in place.
        """
        folder = Path(save_directory)
        hub = {k: kwargs.pop(k) for k in ("repo_id", "commit_message", "private", "token", "create_pr") if k in kwargs}
        super().save_pretrained(folder, **kwargs)
        pipeline_file = _copy_source(type(self), folder)
        unet_file = _copy_source(type(self.unet), folder / "unet")
        index_file = folder / self.config_name
        index = json.loads(index_file.read_text())
        index["_class_name"] = [pipeline_file, type(self).__name__]
        index["unet"] = [unet_file, type(self.unet).__name__]
        index_file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", folder.name), **hub)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """The saved configuration; with the package installed, the saved class names mean the installed classes.

        So `ClassStylePipeline.from_pretrained(folder)` runs none of the code in the folder and needs no trust.
        """
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        if __name__ == "hfdiff.pipelines.class_style":
            config["_class_name"] = cls.__name__
            if isinstance(config.get("unet"), list) and config["unet"][0] == "unet":
                config["unet"] = ["hfdiff.unet", config["unet"][1]]
        return loaded


def _is_size(size: Any) -> bool:
    sides = size if isinstance(size, list | tuple) else [size, size]
    return len(sides) == 2 and all(isinstance(side, int) and 1 <= side <= 4096 for side in sides)


def _copy_source(cls: type, folder: Path) -> str:
    """Copy the file that defines `cls` into `folder`; returns the module's name."""
    source = Path(inspect.getfile(cls))
    target = folder / source.name
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)
    return source.stem
