"""A diffusion pipeline that is steered by class and by style.

This file is saved beside the weights and loaded from there, so it imports nothing of the project.

Guidance, with v the model's prediction, c the class, s the styles and 0 for "unspecified":
    v(0,0) + w_c [v(c,0) - v(0,0)] + w_s [v(c,s) - v(c,0)] + (w_a - 1) [v(c,s) - g(c,s)]
is classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598) with one scale for each condition
(Brooks et al. 2023, https://arxiv.org/abs/2211.09800, Equation 3), and autoguidance by the prediction g of a weaker
model (Karras et al. 2024, https://arxiv.org/abs/2406.02507, Equation 3).

Noise: the network's input at timestep t is alpha x_0 + sigma e, with x_0 the clean picture and e standard normal; the
noise level is sigma / alpha, EDM's sigma.
"""

import importlib
import inspect
import json
import math
import operator
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

PLAIN = "plain"
UNSPECIFIED = -1.0  # a strength that stands for "not told"

# Leaf file, as a saved pipeline names it -> the same code where hfdiff is installed.
INSTALLED = {"unet": "hfdiff.unet", "multistep": "hfdiff.pipelines.multistep"}
LIBRARIES = ("diffusers", "transformers")  # what every user has; any other component travels with its source

StyleSpec = str | Mapping[str, float] | None
Pictures: TypeAlias = Image.Image | np.ndarray | torch.Tensor | Sequence[Image.Image | np.ndarray | torch.Tensor]


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


def noise_levels(scheduler: SchedulerMixin, timestep: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, sigma) of the network's input alpha x_0 + sigma e at timesteps as the network is told them.

    timestep: of any shape, fractions welcome; alpha and sigma: float64 of that shape, on the CPU. At pure noise alpha
    may be 0: divide by it as a tensor, and the noise level is infinite. ValueError for an unknown kind of scheduler.
    """
    t = torch.as_tensor(timestep).detach().cpu().double()
    config = scheduler.config
    if config.get("prediction_type") == "flow_prediction" or type(scheduler).__name__.startswith("FlowMatch"):
        sigma = (t / config.num_train_timesteps).clamp(0, 1)
        return 1 - sigma, sigma
    if getattr(scheduler, "alphas_cumprod", None) is not None:
        alpha_bar = scheduler.alphas_cumprod.cpu().double()
        angle = torch.atan2((1 - alpha_bar).sqrt(), alpha_bar.sqrt())  # alpha = cos, sigma = sin, even at alpha = 0
        t = t.clamp(0, len(angle) - 1)
        angle = torch.lerp(angle[t.floor().long()], angle[t.ceil().long()], t.frac())
        return angle.cos(), angle.sin()
    if "sigma_data" in config:  # Karras et al. 2022, Table 1: c_noise = ln(sigma) / 4, c_in
        sigma = (4 * t).exp()
        c_in = (sigma**2 + config.sigma_data**2).rsqrt()
        return c_in, c_in * sigma
    raise ValueError(f"noise levels of {type(scheduler).__name__} are unknown; valid: discrete, flow or EDM schedulers")


class Branch(NamedTuple):
    """One condition that a step evaluates: its share of the prediction, what the UNet is told, and which UNet."""

    weight: float
    class_told: bool = True
    styles_told: bool = True
    by_guide: bool = False


@dataclass(frozen=True)
class Guidance:
    """The scales of the module's formula (w_c, w_s, w_a), where they act, and how far their contrast is undone.

    `guidance_interval`: the noise levels, both ends included, outside which v(c,s) alone is evaluated.
    """

    guidance_scale: float = 1.0
    style_guidance_scale: float = 1.0
    autoguidance_scale: float = 1.0
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        for name in ("guidance_scale", "style_guidance_scale", "autoguidance_scale"):
            _check_range(name, getattr(self, name), -1000, 1000)
        _check_range("guidance_rescale", self.guidance_rescale, 0, 1)
        interval = self.guidance_interval
        try:
            valid = len(interval) == 2 and 0 <= interval[0] < interval[1]
        except TypeError:
            valid = False
        if not valid:
            raise ValueError(f"guidance_interval {interval}; valid: two noise levels, 0 <= low < high")

    def branches(self, styled: bool = True) -> list[Branch]:
        """The conditions that a guided step needs, the weightless ones left out, the main UNet's first.

        Equal scales need two branches, scales of 1 only one.
        """
        w_c, w_s, w_a = self.guidance_scale, self.style_guidance_scale, self.autoguidance_scale
        if not styled:
            w_s = w_c
        told = Branch(w_s + (w_a - 1))
        branches = [Branch(1 - w_c, False, False), Branch(w_c - w_s, True, False), told, Branch(1 - w_a, by_guide=True)]
        return [branch for branch in branches if branch.weight or (branch is told and self.guidance_rescale)]

    def plan(self, scheduler: SchedulerMixin, timesteps: torch.Tensor, styled: bool = True) -> list[list[Branch]]:
        """The branches of each timestep."""
        low, high = self.guidance_interval
        if (low, high) == (0, math.inf):  # whatever the scheduler
            return [self.branches(styled)] * len(timesteps)
        alpha, sigma = noise_levels(scheduler, timesteps)
        return [self.branches(styled) if low <= level <= high else [Branch(1.0)] for level in (sigma / alpha).tolist()]

    def rescale(self, guided: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Bring the contrast of a guided prediction (B, C, H, W) back towards that of v(c,s).

        Lin et al. 2023, https://arxiv.org/abs/2305.08891, Equations 15 and 16.
        """
        before, after = (p.std(dim=(1, 2, 3), keepdim=True) for p in (told, guided))  # (B, 1, 1, 1)
        rescaled = guided * (before / after.clamp_min(torch.finfo(after.dtype).tiny))
        return self.guidance_rescale * rescaled + (1 - self.guidance_rescale) * guided


@dataclass(frozen=True)
class _Request:
    """What is to be drawn, one row for each of B pictures."""

    noise: torch.Tensor  # (B, C, H, W), the e of the whole trajectory
    class_ids: torch.Tensor  # (B,)
    weights: torch.Tensor  # (B, S)
    generator: torch.Generator | list[torch.Generator] | None
    image: torch.Tensor | None = None  # (B, C, H, W) float32 in [0, 1]
    mask: torch.Tensor | None = None  # (B, 1, H, W) bool: True where the picture is drawn anew

    @property
    def clean(self) -> torch.Tensor:
        """`image` as the UNet sees pictures: (B, C, H, W) in [-1, 1]."""
        assert self.image is not None
        return (2 * self.image - 1).to(self.noise.dtype)

    def part(self, rows: slice) -> "_Request":
        rowwise: dict[str, Any] = {
            name: v[rows] for name, v in vars(self).items() if isinstance(v, torch.Tensor | list)
        }
        return replace(self, **rowwise)


class ClassStylePipeline(DiffusionPipeline):
    """Pictures from noise, by class and style.

    Args:
        unet: a `ClassStyleUNet2DModel`.
        scheduler: the diffusers scheduler of the objective that the UNet was trained for.
        guide_unet: a weaker UNet of the same data and objective (smaller, or trained for less), for autoguidance.
        id2label: {class id: class name}.
        styles: {style name: {"phrase": words for a prompt, "group": exclusive group or None, "index": column of the
            UNet}}; where no index is given, the columns are in the order of the dictionary.
    """

    model_cpu_offload_seq = "unet->guide_unet"
    _optional_components: ClassVar[list[str]] = ["guide_unet"]

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        id2label: dict | None = None,
        styles: dict | None = None,
        guide_unet: ModelMixin | None = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, guide_unet=guide_unet)
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
        if guide_unet is not None:
            for key in ("in_channels", "out_channels", "num_classes", "num_styles"):
                if guide_unet.config[key] != unet.config[key]:
                    raise ValueError(f"{key} of guide_unet is {guide_unet.config[key]}; valid: {unet.config[key]}")
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
        image: Pictures | None = None,
        strength: float | None = None,
        mask: Pictures | None = None,
        autoguidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, math.inf),
        callback_on_step_end: "StepCallback | None" = None,
    ) -> ClassStylePipelineOutput | tuple:
        """Draw pictures, from noise or from pictures given.

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
            image: begin with these pictures, to vary them, restyle them, change their class or repair a part: PIL,
                numpy NHWC or torch NCHW in [0, 1] (or uint8), or a list; one for all, one for each label, or one for
                each picture drawn. Another size is cut at the centre to the model's aspect and resized, transparency
                becomes white, and grey and colour are converted to what the model draws.
            strength: how far to go back to noise, from just above 0 (the picture as it is) to 1 (only a trace of it);
                the last `strength` of the steps are taken. By default 0.6, and 1 with a mask.
            mask: 1 where the picture is drawn anew, 0 where it is kept exactly (cut at 0.5): PIL, arrays (H, W) or
                (N, H, W), or a list; as many as of `image`.
            autoguidance_scale: w_a of the module's formula; other than 1 it needs a `guide_unet`.
            guidance_rescale: 0 to 1; how far the contrast that guidance adds is taken back (`Guidance.rescale`).
            guidance_interval: the noise levels (sigma / alpha) between which guidance acts; outside them the plain
                conditional prediction is used, which is cheaper (Kynkaanniemi et al. 2024,
                https://arxiv.org/abs/2404.07724).
            callback_on_step_end: called after every evaluation as callback(pipeline, index, timestep, tensors), with
                tensors (B, C, H, W): "model_input", the UNet's input alpha x_0 + sigma e; "prediction", what guidance
                made of its outputs; "latents", the scheduler's state after the step, which a returned dictionary may
                replace. What `max_batch_size` divides comes part by part, counted from 0 each time.
        """
        guidance = Guidance(
            guidance_scale, style_guidance_scale, autoguidance_scale, guidance_rescale, guidance_interval
        )
        if strength is None:
            strength = 0.6 if image is not None and mask is None else 1.0
        elif image is None:
            raise ValueError(f"strength {strength} without an image; give an image to begin with")
        self._check(guidance, num_inference_steps, output_type, max_batch_size, strength, image, mask)
        ids, strengths = self.conditions(class_labels, styles, num_images_per_label)
        request = self._request(ids, strengths, num_images_per_label, generator, image, mask)
        most = sum(not branch.by_guide for branch in guidance.branches(styled=bool(self.style_names)))
        rows = max(1, max_batch_size // max(1, most))
        images = torch.empty(request.noise.shape, dtype=torch.float32)
        num_evaluations = len(self._timesteps(num_inference_steps, strength)) * math.ceil(len(ids) / rows)
        with self.progress_bar(total=num_evaluations) as progress:
            for part in (slice(start, start + rows) for start in range(0, len(ids), rows)):
                images[part] = self._denoise(
                    request.part(part), guidance, num_inference_steps, strength, progress, callback_on_step_end
                ).cpu()
        images = (images / 2 + 0.5).clamp(0, 1)
        if request.image is not None and request.mask is not None:
            images = torch.where(request.mask.cpu(), images, request.image.cpu())
        return self._output(images, ids, strengths, output_type, return_dict)

    def check_settings(self, num_inference_steps: int | None = None, **guidance: Any) -> None:
        """ValueError for arguments of a call that this pipeline would refuse."""
        if num_inference_steps is not None:
            _check_range("num_inference_steps", num_inference_steps, 1, self.scheduler.config.num_train_timesteps)
        scales = Guidance(**guidance)
        if scales.autoguidance_scale != 1 and self.guide_unet is None:
            raise ValueError(f"autoguidance_scale {scales.autoguidance_scale} without a guide_unet; valid: 1")

    def _check(
        self,
        guidance: Guidance,
        num_inference_steps: int,
        output_type: str,
        max_batch_size: int,
        strength: float,
        image: Any,
        mask: Any,
    ) -> None:
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type {output_type!r}; valid: pil, np, pt")
        self.check_settings(num_inference_steps, **vars(guidance))
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size {max_batch_size}; valid: at least 1")
        if mask is not None and image is None:
            raise ValueError("mask without an image; give the image whose parts are kept")
        _check_range("strength", strength, 0, 1, above=True)

    def _request(
        self,
        ids: list[int | None],
        strengths: list[dict[str, float]],
        num_images_per_label: int,
        generator: torch.Generator | list[torch.Generator] | None,
        image: Pictures | None,
        mask: Pictures | None,
    ) -> _Request:
        """The conditions and pictures as tensors on the pipeline's device, and the noise of each."""
        if isinstance(generator, list) and len(generator) != len(ids):
            raise ValueError(
                f"{len(generator)} generators for {len(ids)} pictures; valid: one for all, or one for each"
            )
        config, device = self.unet.config, self._execution_device
        height, width = config.sample_size if isinstance(config.sample_size, Sequence) else [config.sample_size] * 2
        pixels = None if image is None else read_pictures("image", image, config.in_channels, height, width)
        repaint = None if mask is None else read_pictures("mask", _split(mask), 1, height, width) >= 0.5
        weights = [[given.get(name, 0.0) for name in self.style_names] for given in strengths]
        return _Request(
            noise=randn_tensor(
                (len(ids), config.in_channels, height, width), generator, device=device, dtype=self.unet.dtype
            ),
            class_ids=torch.tensor([config.num_classes if i is None else i for i in ids], device=device),
            weights=torch.tensor(weights, device=device).reshape(len(ids), config.num_styles),
            generator=generator,
            image=None if pixels is None else _for_each("images", pixels, len(ids), num_images_per_label).to(device),
            mask=None if repaint is None else _for_each("masks", repaint, len(ids), num_images_per_label).to(device),
        )

    def _timesteps(self, num_inference_steps: int, strength: float) -> torch.Tensor:
        """Make the scheduler ready for the last `strength` of its steps (at least one); the timesteps of those."""
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        # A second-order scheduler lists two timesteps for each step but one; some list fewer steps than were asked for.
        order = getattr(self.scheduler, "order", 1)
        listed = (len(self.scheduler.timesteps) + order - 1) // order
        first = order * min(num_inference_steps - int(num_inference_steps * strength), listed - 1)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        return self.scheduler.timesteps[first:]

    def _scaled(self, sample: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The scheduler's state -> the network's input; the FlowMatch schedulers know no difference."""
        return self.scheduler.scale_model_input(sample, t) if hasattr(self.scheduler, "scale_model_input") else sample

    def _noised(self, request: _Request, t: torch.Tensor) -> torch.Tensor:
        """The given pictures as the scheduler's state at t: the state that it scales to alpha x_0 + sigma e."""
        alpha, sigma = (float(level) for level in noise_levels(self.scheduler, t))
        scale = float(self._scaled(torch.ones(()), t))
        return (alpha * request.clean + sigma * request.noise) / scale

    def _denoise(
        self,
        request: _Request,
        guidance: Guidance,
        num_inference_steps: int,
        strength: float,
        progress: Any,
        callback: "StepCallback | None",
    ) -> torch.Tensor:
        """The clean pictures (B, C, H, W) in [-1, 1], nearly."""
        scheduler = self.scheduler
        timesteps = self._timesteps(num_inference_steps, strength)
        extra = {"generator": request.generator}
        extra = extra if "generator" in inspect.signature(scheduler.step).parameters else {}
        if request.image is None:
            sample = request.noise * getattr(scheduler, "init_noise_sigma", 1.0)
        else:
            sample = self._noised(request, timesteps[0])
        plan = guidance.plan(scheduler, timesteps, styled=bool(self.style_names))
        for index, (t, branches) in enumerate(zip(timesteps, plan, strict=True)):
            # Between the two evaluations of a second-order step, the state belongs to the scheduler.
            if request.mask is not None and getattr(scheduler, "state_in_first_order", True):
                sample = torch.where(request.mask, sample, self._noised(request, t))
            model_input = self._scaled(sample, t)
            prediction = self._predict(model_input, t, request, branches, guidance)
            sample = scheduler.step(prediction, t, sample, **extra).prev_sample
            progress.update()
            if callback is not None:
                tensors = {"model_input": model_input, "prediction": prediction, "latents": sample}
                sample = (callback(self, index, t, tensors) or {}).get("latents", sample)
        return sample

    def _predict(
        self, model_input: torch.Tensor, t: torch.Tensor, request: _Request, branches: list[Branch], guidance: Guidance
    ) -> torch.Tensor:
        """The weighted sum of the branches (B, C, H, W), by one forward of each UNet that they name."""
        main = [branch for branch in branches if not branch.by_guide]
        predictions = _evaluate(self.unet, model_input, t, request, main)
        if len(main) < len(branches):
            predictions += _evaluate(self.guide_unet, model_input, t, request, branches[len(main) :])
        prediction: Any = sum(branch.weight * p for branch, p in zip(branches, predictions, strict=True))
        if guidance.guidance_rescale and len(branches) > 1:
            prediction = guidance.rescale(prediction, told=predictions[len(main) - 1])
        return prediction

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
        """Save weights, configuration and source files, so that the folder loads without this package.

        The plain method loses the source of the pipeline and of each component that comes from neither diffusers nor
        transformers; the upload comes after they are in place.
        """
        folder = Path(save_directory)
        hub = {k: kwargs.pop(k) for k in ("repo_id", "commit_message", "private", "token", "create_pr") if k in kwargs}
        super().save_pretrained(folder, **kwargs)
        index_file = folder / self.config_name
        index = json.loads(index_file.read_text())
        index["_class_name"] = _copy_source(type(self), folder)
        for name, component in self.components.items():
            cls = type(getattr(component, "_orig_mod", component))  # what torch.compile wraps
            if component is not None and cls.__module__.partition(".")[0] not in LIBRARIES:
                index[name] = _copy_source(cls, folder / name)
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
            for name, value in config.items():
                if isinstance(value, list) and len(value) == 2 and value[0] in INSTALLED:
                    # diffusers takes a component of another library only where that is imported already.
                    importlib.import_module(INSTALLED[value[0]])
                    config[name] = [INSTALLED[value[0]], value[1]]
        return loaded


StepCallback = Callable[[ClassStylePipeline, int, torch.Tensor, dict[str, torch.Tensor]], Mapping | None]


def _evaluate(
    unet: ModelMixin, model_input: torch.Tensor, t: torch.Tensor, request: _Request, branches: list[Branch]
) -> list[torch.Tensor]:
    """What one UNet predicts for each branch, in one forward: a (B, C, H, W) for each."""
    if not branches:
        return []
    anything = torch.full_like(request.class_ids, unet.config.num_classes)
    untold = torch.full_like(request.weights, UNSPECIFIED)
    class_ids = torch.cat([request.class_ids if branch.class_told else anything for branch in branches])
    weights = torch.cat([request.weights if branch.styles_told else untold for branch in branches])
    rows = model_input.repeat(len(branches), 1, 1, 1)
    return list(unet(rows, t, class_ids, weights).sample.chunk(len(branches)))


def _check_range(name: str, value: Any, low: float, high: float, above: bool = False) -> None:
    """ValueError for what is no number from `low`, or only `above` it, to `high`."""
    try:
        valid = low <= float(value) <= high and not (above and value == low)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"{name} {value}; valid: {f'above {low},' if above else low} to {high}")


def read_pictures(what: str, pictures: Pictures, channels: int, height: int, width: int) -> torch.Tensor:
    """PIL, numpy NHWC, torch NCHW, one picture or a list, of any size -> (N, channels, height, width) in [0, 1].

    diffusers' `VaeImageProcessor` resizes arrays by the nearest neighbour, converts the channels of PIL pictures only,
    and takes what has four channels for latents; here every kind of input goes one way.
    """
    items = list(_split(pictures, several=4))
    if not items:
        raise ValueError(f"{what} is an empty list; valid: one picture or more")
    return torch.stack([_fit(_pixels(what, item, channels), height, width) for item in items])


def _split(pictures: Any, several: int = 3) -> Any:
    """A list of single pictures; arrays of `several` dimensions and more hold many."""
    if isinstance(pictures, np.ndarray | torch.Tensor):
        return list(pictures) if pictures.ndim >= several else [pictures]
    return pictures if isinstance(pictures, list | tuple) else [pictures]


def _pixels(what: str, picture: Any, channels: int) -> torch.Tensor:
    """One picture, PIL or array (H, W), (H, W, C) numpy or (C, H, W) torch -> (channels, H, W) float32 in [0, 1]."""
    if isinstance(picture, Image.Image):
        picture = _decode(what, picture, channels)
    if isinstance(picture, np.ndarray) and picture.ndim in (2, 3):
        pixels = torch.tensor(picture if picture.ndim == 3 else picture[..., None]).permute(2, 0, 1)
    elif isinstance(picture, torch.Tensor) and picture.ndim in (2, 3):
        pixels = (picture if picture.ndim == 3 else picture[None]).cpu()
    else:
        raise ValueError(f"{what} of type {type(picture).__name__}; valid: PIL, numpy NHWC, torch NCHW, or a list")
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if not pixels.numel() or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"{what} with values outside [0, 1]; valid: [0, 1], or uint8")
    if len(pixels) == 1:
        pixels = pixels.expand(channels, -1, -1)
    elif len(pixels) == 3 and channels == 1:
        pixels = torch.tensordot(torch.tensor([[0.299, 0.587, 0.114]]), pixels, dims=1)  # luma, as PIL has it
    if len(pixels) != channels:
        raise ValueError(f"{what} with {len(pixels)} channels; valid: {channels}, grey or colour")
    return pixels


def _decode(what: str, picture: Image.Image, channels: int) -> np.ndarray:
    """PIL -> uint8 (H, W) or (H, W, 3), as in training."""
    if picture.mode == "F":
        raise ValueError(f"{what} of mode F; valid: 8 or 16 bits a channel")
    return np.array(plain_picture(picture).convert("L" if channels == 1 else "RGB"))


def plain_picture(picture: Image.Image) -> Image.Image:
    """PIL of any mode -> L or RGB; transparent parts become white, 16 bits become 8."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((values >> 8 if values.max() > 255 else values).clip(0, 255).astype(np.uint8))
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode in ("L", "RGB"):
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _fit(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut (C, H, W) at the centre to the aspect asked for, as in training, and resize it without aliasing."""
    h, w = pixels.shape[1:]
    if (h, w) == (height, width):
        return pixels
    scale = min(h / height, w / width)
    cut_h, cut_w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (h - cut_h) // 2, (w - cut_w) // 2
    cut = pixels[None, :, top : top + cut_h, left : left + cut_w]
    return F.interpolate(cut, size=(height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)


def _for_each(what: str, pictures: torch.Tensor, count: int, num_images_per_label: int) -> torch.Tensor:
    """One for all, one for each label, or one for each picture -> one for each of `count` pictures."""
    if len(pictures) == count // num_images_per_label:
        return pictures.repeat_interleave(num_images_per_label, dim=0)
    if len(pictures) not in (1, count):
        raise ValueError(
            f"{len(pictures)} {what} for {count // num_images_per_label} labels and {count} pictures; "
            "valid: one for all, one for each label, or one for each picture"
        )
    return pictures.expand(count, -1, -1, -1)


def _is_size(size: Any) -> bool:
    sides = size if isinstance(size, list | tuple) else [size, size]
    return len(sides) == 2 and all(isinstance(side, int) and 1 <= side <= 4096 for side in sides)


def _copy_source(cls: type, folder: Path) -> list[str]:
    """Copy the file that defines `cls` into `folder`; returns what names the class in model_index.json."""
    source = Path(inspect.getfile(cls))
    target = folder / source.name
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)
    return [source.stem, cls.__name__]
