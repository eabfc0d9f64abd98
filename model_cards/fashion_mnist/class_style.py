"""A diffusion pipeline that is steered by class and by style.

What is drawn, how, and from which words stands in the modules beside this one; `bundle` joins them into the one file
that travels with a model.
"""

from PIL import ExifTags, Image, ImageOps
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from functools import partial
from graphlib import CycleError, TopologicalSorter
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, TypeAlias
import ast
import contextlib
import copy
import hashlib
import importlib
import inspect
import json
import math
import numpy as np
import os
import sys
import torch
import torch.nn.functional as F
import unicodedata
import zlib


def number(name: str, value: Any, low: float, high: float, above: bool = False) -> float:
    """A number of any kind (Python's, numpy's, a tensor of one element) from `low`, or only `above` it, to `high`."""
    given = value.item() if hasattr(value, "item") and math.prod(value.shape) == 1 else value
    valid = isinstance(given, Real) and not isinstance(given, bool)
    if not valid or not low <= given <= high or (above and given == low):
        raise ValueError(f"{name} {value}; valid: {f'above {low},' if above else low} to {high}")
    return given


def count(name: str, value: Any, low: float, high: float = math.inf) -> int:
    """The same of a whole number: 2, 2.0 and numpy's 2 are one."""
    try:
        given = number(name, value, low, high)
        whole = given == int(given)
    except (ValueError, OverflowError):
        whole = False
    if not whole:
        most = f"to {high}" if high < math.inf else "or more"
        raise ValueError(f"{name} {value!r}; valid: a whole number, {low} {most}")
    return int(given)


def check_interval(name: str, interval: Any) -> None:
    """ValueError for what is no pair of noise levels (sigma / alpha), the lower first."""
    try:
        valid = len(interval) == 2 and 0 <= interval[0] < interval[1]
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(f"{name} {interval}; valid: two noise levels, 0 <= low < high")


def is_size(size: Any) -> bool:
    """Is it a side in pixels, or (height, width), of 1 to 4096?"""
    sides = size if isinstance(size, list | tuple) else [size, size]
    return len(sides) == 2 and all(isinstance(side, int) and 1 <= side <= 4096 for side in sides)


PLAIN = "plain"
UNSPECIFIED = -1.0  # a strength that stands for "unspecified"

StyleSpec = str | Mapping[str, float] | None


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


def canonical(name: str) -> str:
    """How names are compared: composed (NFC), and without space around them."""
    return unicodedata.normalize("NFC", name).strip()


def shown(name: str) -> str:
    """How a name is printed: canonical, and with escapes for what is no printable character."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in canonical(name))


def find_name(name: str, valid: Sequence[str]) -> str | None:
    """The valid name that is `name`: to the letter, by its canonical form, or alone without regard to case; or None."""
    if name in valid:
        return name
    asked, forms = canonical(name), [canonical(v) for v in valid]
    if asked in forms:
        return valid[forms.index(asked)]
    alike = [v for v, form in zip(valid, forms) if form.lower() == asked.lower()]
    return alike[0] if len(alike) == 1 else None


def match_name(what: str, name: str, valid: Iterable[str]) -> str:
    """The valid name that equals `name`, else without regard to case; ValueError with the valid names otherwise."""
    valid = list(valid)
    found = find_name(name, valid)
    if found is not None:
        return found
    by_lower = {v.lower(): v for v in valid}
    near = get_close_matches(name.lower(), by_lower, n=1)
    hint = f" (did you mean '{shown(by_lower[near[0]])}'?)" if near else ""
    raise ValueError(f"unknown {what} '{shown(name)}'{hint}; valid: {', '.join(map(shown, valid)) or 'none'}")


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


# Karras et al. 2022 (https://arxiv.org/abs/2206.00364), Table 1: the data's deviation, and noise levels sigma / alpha.
SIGMA_DATA = 0.5
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
Coefficient: TypeAlias = torch.Tensor | float
Target: TypeAlias = Callable[[Any, Any], tuple[Coefficient, Coefficient]]

# What a model predicts, in diffusers' words: alpha, sigma -> (a, b) of the target a x_0 + b e.
TARGETS: Mapping[str, Target] = {
    "epsilon": lambda alpha, sigma: (0.0, 1.0),  # Ho et al. 2020, Equation 14
    "v_prediction": lambda alpha, sigma: (-sigma, alpha),  # Salimans & Ho 2022, Appendix D
    "sample": lambda alpha, sigma: (1.0, 0.0),
    "flow_prediction": lambda alpha, sigma: (-1.0, 1.0),  # Liu et al. 2022
    # (x_0 - c_skip x) / c_out of Karras et al. 2022, Equation 8, where alpha = c_in and sigma / alpha is their sigma.
    "edm": lambda alpha, sigma: (sigma / SIGMA_DATA, -SIGMA_DATA * alpha),
}


def noise_levels(scheduler: SchedulerMixin, timestep: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, sigma) of the network's input alpha x_0 + sigma e at timesteps as the network takes them.

    timestep: of any shape, fractions welcome; alpha and sigma: float64 of that shape, on the CPU. At pure noise alpha
    may be 0: divide by it as a tensor, and the noise level is infinite. ValueError for an unknown kind of scheduler.
    """
    t = torch.as_tensor(timestep).detach().cpu().double()
    config = scheduler.config
    kind = kind_of(scheduler)
    if kind == "flow":
        sigma = (t / config.num_train_timesteps).clamp(0, 1)
        return 1 - sigma, sigma
    if kind == "discrete":
        angle = table_angles(scheduler)  # alpha = cos, sigma = sin, even at alpha = 0
        t = t.clamp(0, len(angle) - 1)
        angle = torch.lerp(angle[t.floor().long()], angle[t.ceil().long()], t.frac())
        return angle.cos(), angle.sin()
    if kind == "edm":  # Karras et al. 2022, Table 1: c_noise = ln(sigma) / 4, c_in
        sigma = (4 * t).exp()
        c_in = (sigma**2 + config.sigma_data**2).rsqrt()
        return c_in, c_in * sigma
    raise ValueError(f"noise levels of {type(scheduler).__name__} are unknown; valid: discrete, flow or EDM schedulers")


def timestep_at(scheduler: SchedulerMixin, level: torch.Tensor) -> torch.Tensor:
    """The timesteps, of any shape, at which the network's input has these noise levels: `noise_levels` inverted.

    level: sigma / alpha, 0 to infinity; float64 on the CPU. A table of betas gives fractions, within its own ends.
    """
    level, kind = level.cpu().double(), kind_of(scheduler)
    if kind == "flow":
        return scheduler.config.num_train_timesteps * (1 - 1 / (1 + level))
    if kind == "edm":
        return level.log() / 4
    angle = table_angles(scheduler).numpy()
    return torch.from_numpy(np.interp(level.arctan().numpy(), angle, np.arange(len(angle))))


def table_angles(scheduler: SchedulerMixin) -> torch.Tensor:
    """arctan(sigma / alpha) of each timestep of a table of betas, (T,) float64; between two it is a straight line."""
    alpha_bar = scheduler.alphas_cumprod.cpu().double()
    return torch.atan2((1 - alpha_bar).sqrt(), alpha_bar.sqrt())


def own_setting(scheduler: SchedulerMixin, setting: str) -> Any:
    """A setting that this kind of scheduler obeys: `from_config` keeps those of the other kind, too."""
    return scheduler.config.get(setting) if setting in inspect.signature(type(scheduler)).parameters else None


def is_a(scheduler: SchedulerMixin, kind: str) -> bool:
    return any(base.__name__.startswith(kind) for base in type(scheduler).__mro__)


def kind_of(scheduler: SchedulerMixin) -> str | None:
    if own_setting(scheduler, "prediction_type") == "flow_prediction" or is_a(scheduler, "FlowMatch"):
        return "flow"
    if getattr(scheduler, "alphas_cumprod", None) is not None:
        return "discrete"
    return "edm" if own_setting(scheduler, "sigma_data") else None


def reversed_process(scheduler: SchedulerMixin) -> dict[str, Any]:
    """What a scheduler takes a model to predict, and the share of noise, sigma^2 / (alpha^2 + sigma^2), that it takes
    there to be at three timesteps; the name alone of a scheduler whose noise levels are unknown."""
    if kind_of(scheduler) is None:
        return {"prediction_type": type(scheduler).__name__}
    if kind_of(scheduler) == "edm":
        timesteps = torch.tensor([-0.5, 0.0, 0.5])
    else:
        timesteps = torch.tensor([0.25, 0.5, 0.75]) * scheduler.config.get("num_train_timesteps", 1000)
    alpha, sigma = noise_levels(scheduler, timesteps)
    shares = (sigma**2 / (alpha**2 + sigma**2)).tolist()
    return {"prediction_type": prediction_type(scheduler), **{f"noise_{i}": share for i, share in enumerate(shares, 1)}}


def check_process(scheduler: SchedulerMixin, process: Mapping[str, Any]) -> None:
    """ValueError for a scheduler that cannot reverse the process that a model was trained for."""
    found = reversed_process(scheduler)
    if found["prediction_type"] != process["prediction_type"]:
        what = f"takes the model to predict {found['prediction_type']}; valid: one for {process['prediction_type']}"
    elif any(abs(found[key] - process[key]) > 0.01 for key in process.keys() - {"prediction_type"}):
        what = "has other noise levels than the model was trained with; valid: one that is made from its own scheduler"
    else:
        return
    raise ValueError(f"the scheduler {type(scheduler).__name__} {what}")


def prediction_type(scheduler: SchedulerMixin) -> str:
    """The entry in `TARGETS` that the model of a saved scheduler predicts; ValueError for another."""
    given = own_setting(scheduler, "prediction_type")
    if given not in (*TARGETS, None):
        raise ValueError(f"unknown prediction_type {given!r}; valid: {', '.join(TARGETS)}")
    return "flow_prediction" if is_a(scheduler, "FlowMatch") else "edm" if is_a(scheduler, "EDM") else str(given)


def predicted_clean(
    scheduler: SchedulerMixin, model_input: torch.Tensor, prediction: torch.Tensor, timestep: torch.Tensor | float
) -> torch.Tensor:
    """The clean images (B, C, H, W) that a model's predictions at its inputs mean, whatever it predicts.

    At an input without signal, a predicted noise says nothing of the image: the quotient is not finite.
    """
    alpha, sigma = (level.to(model_input) for level in noise_levels(scheduler, timestep))
    return solve_clean(TARGETS[prediction_type(scheduler)], model_input, prediction, alpha, sigma)


def solve_clean(
    target: Target, sample: torch.Tensor, prediction: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """Solve x_t = alpha x_0 + sigma e, target = a x_0 + b e for x_0."""
    a, b = target(alpha, sigma)
    return (b * sample - sigma * prediction) / (alpha * b - sigma * a)


def moved(
    target: Target, prediction: torch.Tensor, change: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """The prediction (B, C, H, W), at the same input, that means clean images with this `change`: as
    e = (x_t - alpha x_0) / sigma, the target a x_0 + b e grows by (a - b alpha / sigma) of x_0's."""
    a, b = target(alpha, sigma)
    return prediction + (a - b * alpha / sigma) * change


# Template of a prompt -> is it a positive prompt (or a negative one)? {} is the subject, "a thick sneaker".
QUALITY_PROMPTS: Mapping[str, bool] = {
    "a good photo of {}": True,
    "a clear photo of {}": True,
    "a blurry photo of {}": False,
    "a noisy photo of {}": False,
}


def subject(class_name: str, strengths: Mapping[str, float], phrases: Mapping[str, str]) -> str:
    """What a prompt is about: ("Sneaker", {"thick": 0.8}, {"thick": "thick"}) -> "a thick sneaker"."""
    words = [("slightly " if value < 1 / 3 else "") + phrases[name] for name, value in strengths.items() if value > 0]
    return with_article(" ".join([*words, class_name.lower()]))


def prompt(subject: str, quality: str = "clear") -> str:
    """("a thick sneaker", "clear") -> "a clear photo of a thick sneaker"."""
    return with_article(f"{quality} photo of {subject}".strip())


def with_article(words: str) -> str:
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class PromptTarget:
    """What an image should show, in words."""

    subjects: tuple[str, ...]  # of each class in these styles: "a thick sneaker"
    class_id: int
    quality_prompts: Mapping[str, bool]

    @property
    def subject(self) -> str:
        return self.subjects[self.class_id]


LONGEST_LINE = 120


def has_siblings(source: str) -> bool:
    """Does the text of a module import others of its folder?"""
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.parse(source).body)


def bundle(file: Path) -> str:
    """The module with all siblings that it imports, each before the first that needs it: the same text every time.

    Library imports come first, merged and sorted. ValueError for what could change its meaning: one name defined by
    two modules, a sibling that is imported under another name, as a module, or inside a function.
    """
    owners: dict[str, str] = {}  # top-level name -> the module or the import that defines it
    imports: dict[tuple[str, str], set[str]] = {}  # ("import" or "from", module) -> names, with "as" where given
    bodies = []
    for path in in_order(file):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        dropped = set()
        for number, node in enumerate(tree.body):
            docstring = number == 0 and ast.get_docstring(tree) is not None
            if docstring or isinstance(node, ast.Import | ast.ImportFrom):
                dropped |= set(range(node.lineno - 1, node.end_lineno or node.lineno))
            for name, what in defined(node, path.stem).items():
                if owners.setdefault(name, what) != what:
                    raise ValueError(f"{path.name}: {name} is {what}, and {owners[name]} elsewhere; give another name")
            collect(node, imports)
        lines = [line for i, line in enumerate(source.splitlines()) if i not in dropped]
        bodies.append("\n".join(lines).strip("\n"))
    heading = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")), clean=False)
    statements = "\n".join(statement(*key, names) for key, names in sorted(imports.items()))
    last = "globals().update(own_names(__name__, __file__))" if "own_names" in owners else ""
    return "\n\n\n".join(filter(None, [f'"""{heading}"""\n\n{statements}', *bodies, last])) + "\n"


def own_names(name: str, file: str) -> dict[str, Any]:
    """What the text of a bundled file defines, from a module of that text's own, which keeps it as `SOURCE`."""
    text = Path(file).read_text(encoding="utf-8")
    suffix = digest(text)
    if name.endswith(suffix):  # this is that module
        return {"SOURCE": text}
    own = f"{name}{suffix}"
    if own not in sys.modules:
        module = ModuleType(own)
        vars(module).update(__file__=file, SOURCE=text)
        sys.modules[own] = module
        exec(compile(text, file, "exec"), vars(module))
        if name.startswith("diffusers_modules."):  # another process, that gets a pickled pipeline, imports it there
            write_once(Path(file).with_name(f"{Path(file).stem}{suffix}.py"), text)
    return {key: value for key, value in vars(sys.modules[own]).items() if not key.startswith("__")}


def digest(text: str) -> str:
    """What is added to the name of a bundle's own module."""
    return f"_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def write_once(target: Path, text: str) -> None:
    """Write a file, so that it is there whole or not at all."""
    with contextlib.suppress(OSError):  # a folder that cannot be written
        if not target.exists():
            fresh = target.with_name(f".{target.name}.{os.getpid()}")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(target)


def in_order(file: Path) -> list[Path]:
    """The file and its siblings, each after those that it imports; ValueError for a circle."""
    graph: dict[Path, list[Path]] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop(0)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        check_siblings(tree, path)
        froms = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level]
        graph[path] = [path.with_name(f"{node.module}.py") for node in froms]
        waiting += [sibling for sibling in graph[path] if sibling not in graph]
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ValueError(f"modules import each other: {' -> '.join(path.name for path in error.args[1])}") from error


def check_siblings(tree: ast.Module, path: Path) -> None:
    """ValueError for a relative import that joining would not resolve."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            plain = node in tree.body and node.level == 1 and node.module and "." not in node.module
            if not plain or any(alias.asname or alias.name == "*" for alias in node.names):
                where = f"{path.name}:{node.lineno}"
                raise ValueError(f"{where}: {ast.unparse(node)}; valid: names of a sibling, at the top of the file")


def defined(node: ast.AST, module: str) -> dict[str, str]:
    """Names that a top-level statement defines, or one in its branches -> what they are."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: f"import {alias.name}" for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        here = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        return {} if node.level else here
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name: f"of {module}"}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    here = {name.id: f"of {module}" for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    branches = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler)]
    return here | {name: what for child in branches for name, what in defined(child, module).items()}


def collect(node: ast.stmt, imports: dict[tuple[str, str], set[str]]) -> None:
    """Add the library imports of a top-level statement."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            imports.setdefault(("import", ast.unparse(alias)), set())
    if isinstance(node, ast.ImportFrom) and not node.level:
        imports.setdefault(("from", node.module or ""), set()).update(map(ast.unparse, node.names))


def statement(kind: str, module: str, names: set[str]) -> str:
    """An import, in as many lines as it takes."""
    if kind == "import":
        return f"import {module}"
    line = f"from {module} import {', '.join(sorted(names))}"
    if len(line) <= LONGEST_LINE:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in sorted(names)), ")"])


RHO = 7.0  # Karras et al. 2022, Equation 5


def set_timesteps(
    scheduler: SchedulerMixin,
    num_inference_steps: int,
    strength: float = 1.0,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Make a scheduler ready, without memory; the timesteps of its evaluations, (n,), on the device.

    `strength`: begin where the share of noise sigma / (alpha + sigma) is the nearest to it, whatever the process.
    ValueError for a scheduler that does not draw.

    diffusers' nodes are mended in three places. Its FlowMatch schedulers end with an evaluation at t = 0.001: here t
    falls evenly to 1 / n, and the last step to 0 is Euler's (Karras et al. 2022, Algorithm 1). Spacings of a table of
    betas begin where it is pure noise, or end far above its least noise: here they run from `SIGMA_MAX` to its own
    end. Multistep solvers round the timestep that the network is given: here it is that of the noise level itself.
    """
    scheduler.set_timesteps(num_inference_steps, device=device, **_even(scheduler, num_inference_steps))
    if scheduler.timesteps[0] < scheduler.timesteps[-1]:
        raise ValueError(f"the scheduler {type(scheduler).__name__} goes from images to noise; valid: one that draws")
    _place(scheduler, num_inference_steps)
    first = _start(scheduler, strength)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler.timesteps[first:]


def _even(scheduler: SchedulerMixin, n: int) -> dict[str, Any]:
    """t = 1, ..., 1 / n, where a flow's scheduler takes it; it adds its own shift."""
    taken = is_a(scheduler, "FlowMatch") and "sigmas" in inspect.signature(scheduler.set_timesteps).parameters
    return {"sigmas": np.linspace(1, 1 / n, n).tolist()} if taken else {}


def _place(scheduler: SchedulerMixin, n: int) -> None:
    """Put the nodes of diffusers' scheduler, and the timesteps, where they belong."""
    kind, config = kind_of(scheduler), scheduler.config
    spaced = own_setting(scheduler, "use_karras_sigmas") or own_setting(scheduler, "use_exponential_sigmas")
    at_nodes = getattr(scheduler, "order", 1) == 1 or is_a(scheduler, "Heun")  # others evaluate between them
    if is_a(scheduler, "FlowMatchHeun"):
        t = torch.linspace(1, 1 / n, n, dtype=torch.float64)
        _set_nodes(scheduler, config.shift * t / (1 + (config.shift - 1) * t))
    elif kind == "discrete" and spaced and at_nodes and hasattr(scheduler, "sigmas"):
        _set_nodes(scheduler, _spaced(scheduler, n))
    elif kind != "flow" or scheduler.timesteps.is_floating_point():
        return
    nodes = scheduler.sigmas[: len(scheduler.timesteps)].double()
    levels = nodes / (1 - nodes) if kind == "flow" else nodes
    scheduler.timesteps = timestep_at(scheduler, levels).to(scheduler.timesteps.device, torch.float32)


def _set_nodes(scheduler: SchedulerMixin, nodes: torch.Tensor) -> None:
    """s_0 > ... > s_(n-1), then 0; a second-order scheduler evaluates twice at each but the first."""
    order = getattr(scheduler, "order", 1)
    evaluated = torch.cat([nodes[:1], nodes[1:].repeat_interleave(order)])
    scheduler.sigmas = torch.cat([evaluated, nodes.new_zeros(1)]).to(scheduler.sigmas)
    scheduler.timesteps = scheduler.timesteps[:1].expand(len(evaluated))


def _spaced(scheduler: SchedulerMixin, n: int) -> torch.Tensor:
    """Noise levels (n,) from the table's most noise to its least, even in s^(1/7) or in ln s."""
    alpha, sigma = noise_levels(scheduler, torch.tensor([0.0, len(scheduler.alphas_cumprod) - 1.0]))
    low, high = (sigma / alpha).clamp(SIGMA_MIN, SIGMA_MAX)
    if own_setting(scheduler, "use_exponential_sigmas"):
        return even_logs(high, low, n)
    return torch.lerp(high ** (1 / RHO), low ** (1 / RHO), torch.linspace(0, 1, n, dtype=torch.float64)) ** RHO


def even_logs(high: torch.Tensor, low: torch.Tensor, n: int) -> torch.Tensor:
    """(n,) float64 from `high` to `low`, even in the logarithm."""
    return torch.lerp(high.log(), low.log(), torch.linspace(0, 1, n, dtype=torch.float64)).exp()


def _start(scheduler: SchedulerMixin, strength: float) -> int:
    """The index of the evaluation that a step begins with, where the share of noise is nearest to `strength`."""
    if strength == 1:  # whatever the scheduler
        return 0
    # A second-order scheduler lists two evaluations for each step but the last.
    order = getattr(scheduler, "order", 1)
    alpha, sigma = noise_levels(scheduler, scheduler.timesteps[::order])
    return order * int((sigma / (alpha + sigma) - strength).abs().argmin())


SURVIVING_SHARE, STOPPING_SHARE = 0.3, 0.3  # of the candidates, after this share of the evaluations
SCORE_WEIGHTS: Mapping[str, float] = {"class": 1.0, "quality": 1.0}


class Scorer:
    """What a CLIP or SigLIP model of transformers says of images and prompts; images are prepared in torch, so that
    scores have a gradient. A model of half precision on the CPU becomes one of float32: it is ten times as fast.

    ValueError for a model or a processor that has no way from images or prompts to one common space.
    """

    def __init__(self, model: Any, processor: Any):
        if not all(hasattr(model, name) for name in ("get_image_features", "get_text_features", "logit_scale")):
            raise ValueError(
                f"{type(model).__name__} is not CLIP-like: valid are models with get_image_features, "
                "get_text_features and logit_scale (CLIP, SigLIP, VisionTextDualEncoder)"
            )
        if not all(hasattr(processor, name) for name in ("image_processor", "tokenizer")):
            raise ValueError(f"{type(processor).__name__}; valid: a processor with image_processor and tokenizer")
        if model.device.type == "cpu":
            model.float()
        self.model, self.processor = model, processor
        self._texts: dict[str, torch.Tensor] = {}
        self._in_torch = self._prepares_alike()

    @property
    def scale(self) -> torch.Tensor:
        """What cosines are multiplied by before a softmax."""
        return self.model.logit_scale.detach().float().exp()

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) in [0, 1] -> unit vectors (B, D) float32; what nobody sees moves none (`dead_zone`)."""
        channels = getattr(self.model.config.vision_config, "num_channels", 3)
        images = dead_zone(with_channels("images", images.float(), channels))
        if self._in_torch:
            pixels = prepare_in_torch(self.processor.image_processor, images)
        elif images.requires_grad:
            name = type(self.processor.image_processor).__name__
            raise ValueError(f"images as {name} prepares them have no gradient; valid: another CLIP for guidance")
        else:
            pixels = prepare_as_pil(self.processor.image_processor, images)
        return _unit(self.model.get_image_features(pixel_values=pixels.to(self.model.device, self.model.dtype)))

    def _prepares_alike(self) -> bool:
        """Does `prepare_in_torch` do what the processor does, for wide and for tall images?"""
        channels = getattr(self.model.config.vision_config, "num_channels", 3)
        wave = torch.linspace(0, 9, 60)[:, None] + torch.linspace(0, 4, 36) + torch.arange(channels)[:, None, None]
        tall = (wave.sin() / 2 + 0.5)[None]  # (1, C, 60, 36)
        for images in (tall, tall.transpose(2, 3)):
            try:
                own = prepare_in_torch(self.processor.image_processor, images)
            except (AttributeError, TypeError, KeyError, ValueError):  # a processor of other steps
                return False
            given = prepare_as_pil(self.processor.image_processor, images)
            if own.shape != given.shape or (own - given).abs().mean() > 0.02:
                return False
        return True

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Prompts -> unit vectors (P, D) float32, each computed once; ValueError for one that is too long."""
        new = [text for text in dict.fromkeys(prompts) if text not in self._texts]
        if new:
            self._texts |= dict(zip(new, self.encode(new)))
        return torch.stack([self._texts[text] for text in prompts]).to(self.model.device)

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Prompts -> unit vectors (P, D) float32, with a gradient."""
        return _unit(self.model.get_text_features(**self._tokens(prompts)))

    def forget(self) -> None:
        """Drop what is kept of prompts: the model has changed."""
        self._texts.clear()

    def _tokens(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        most = self.model.config.text_config.max_position_embeddings
        tokenizer = self.processor.tokenizer
        unknown = tokenizer.unk_token_id
        if unknown in (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id):
            unknown = None  # as in OpenAI's, which spells every word
        for text, ids in zip(prompts, tokenizer(prompts)["input_ids"]):
            if len(ids) > most:
                raise ValueError(f"the prompt {text!r} has {len(ids)} tokens; valid: up to {most}")
            if unknown is not None and unknown in ids:
                words = [word for word in text.split() if unknown in tokenizer(word)["input_ids"]]
                raise ValueError(f"the CLIP model does not know {', '.join(map(repr, words))} of the prompt {text!r}")
        # SigLIP reads its last position, and was trained with all of them filled.
        siglip = self.model.config.model_type.startswith("siglip")
        tokens = tokenizer(
            prompts, padding="max_length" if siglip else True, max_length=most if siglip else None, return_tensors="pt"
        )
        keys = ("input_ids",) if siglip else ("input_ids", "attention_mask")
        return {key: tokens[key].to(self.model.device) for key in keys}

    def softmax(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Unit vectors of images (B, D) -> the share of each prompt (B, P)."""
        return (self.scale * images @ self.texts(prompts).T).softmax(dim=1)


def prepare_as_pil(processor: Any, images: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) in [0, 1] as an image processor of transformers makes them ready: (B, C, h, w)."""
    arrays = (images.detach().clamp(0, 1) * 255).round().byte().cpu().permute(0, 2, 3, 1).numpy()
    pil = [Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array) for array in arrays]
    pixels = processor(images=pil, return_tensors="pt")["pixel_values"]
    return pixels[:, : images.shape[1]]


def prepare_in_torch(processor: Any, images: torch.Tensor) -> torch.Tensor:
    """The same with a gradient, for processors that resize, cut at the centre and normalise."""
    pixels = images
    if processor.do_resize:
        mode = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}[int(processor.resample)]
        size = _resized(dict(processor.size), *pixels.shape[-2:])
        smooth = mode != "nearest-exact"
        pixels = F.interpolate(pixels, size=size, mode=mode, antialias=smooth).clamp(0, 1)
    if getattr(processor, "do_center_crop", False):
        pixels = _centre(pixels, processor.crop_size["height"], processor.crop_size["width"])
    pixels = pixels * 255
    if processor.do_rescale:
        pixels = pixels * processor.rescale_factor
    if processor.do_normalize:
        mean, std = (pixels.new_tensor(v).reshape(-1, 1, 1) for v in (processor.image_mean, processor.image_std))
        pixels = (pixels - mean) / std
    return pixels


def _resized(size: Mapping[str, int | None], height: int, width: int) -> tuple[int, int]:
    """(height, width) for an image of that size: both given, or the shorter side, which keeps the aspect."""
    if size.get("height") and size.get("width"):
        return int(size["height"] or 0), int(size["width"] or 0)
    short = int(size["shortest_edge"] or 0)
    long = int(short * max(height, width) / min(height, width))
    return (short, long) if height <= width else (long, short)


def _centre(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of (B, C, H, W), black where the image is smaller."""
    h, w = pixels.shape[-2:]
    more_h, more_w = max(0, height - h), max(0, width - w)
    pixels = F.pad(pixels, (more_w // 2, more_w - more_w // 2, more_h // 2, more_h - more_h // 2))
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    return pixels[..., top : top + height, left : left + width]


def _prompt_score(scorer: Scorer, features: torch.Tensor, asked: PromptTarget) -> torch.Tensor:
    return features @ scorer.texts([prompt(asked.subject)])[0]


def _class_score(scorer: Scorer, features: torch.Tensor, asked: PromptTarget) -> torch.Tensor:
    return scorer.softmax(features, [prompt(rival) for rival in asked.subjects])[:, asked.class_id]


def _quality_score(scorer: Scorer, features: torch.Tensor, asked: PromptTarget) -> torch.Tensor:
    shares = scorer.softmax(features, [template.replace("{}", asked.subject) for template in asked.quality_prompts])
    return shares[:, list(asked.quality_prompts.values())].sum(dim=1)


# Name -> score of images' unit vectors (B, D), float32 (B,); more is better.
SCORES: Mapping[str, Callable[[Scorer, torch.Tensor, PromptTarget], torch.Tensor]] = {
    "prompt": _prompt_score,  # cosine with the prompt of class and styles
    "class": _class_score,  # probability of the class among all
    "quality": _quality_score,  # share of the positive prompts
}


@dataclass(frozen=True)
class Choice:
    """How the best of several candidates for each label are chosen; the arguments of `ClassStylePipeline.__call__`."""

    num_candidates: int
    top_k: int
    early_stopping: bool
    score_weights: Mapping[str, float]
    quality_prompts: Mapping[str, bool]

    def __post_init__(self) -> None:
        for name in ("num_candidates", "top_k"):
            object.__setattr__(self, name, count(name, getattr(self, name), 1))
        if not 1 <= self.top_k <= self.num_candidates:
            raise ValueError(f"top_k {self.top_k} of num_candidates {self.num_candidates}; valid: 1 to num_candidates")
        for name, weight in self.score_weights.items():
            if name not in SCORES:
                raise ValueError(f"unknown score {name!r}; valid: {', '.join(SCORES)}")
            number(f"weight of score {name!r}", weight, -1000, 1000)
        if not any(self.score_weights.values()):
            raise ValueError(f"score_weights {dict(self.score_weights)}; valid: one at least that is not 0")
        if len(set(self.quality_prompts.values())) < 2 or not all("{}" in text for text in self.quality_prompts):
            raise ValueError(
                f"quality_prompts {dict(self.quality_prompts)}; valid: templates with {{}} for the subject, one at "
                "least that is positive (True) and one that is negative (False)"
            )

    def survivors(self, labels: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
        """Which of a part's B candidates are worth finishing: of each label (B,) the best by their totals (B,), so many
        that `top_k` are left of all parts together."""
        kept = []
        for label in labels.unique():
            rows = (labels == label).nonzero().squeeze(1)
            share = max(SURVIVING_SHARE, self.top_k / self.num_candidates)  # a label may lie in several parts
            most = math.ceil(round(len(rows) * share, 6))
            kept.append(rows[totals[rows].argsort(descending=True)[:most]])
        return torch.cat(kept).sort().values


def score_images(
    scorer: Scorer,
    images: torch.Tensor,
    asked: Sequence[PromptTarget],
    labels: torch.Tensor,
    weights: Mapping[str, float],
) -> torch.Tensor:
    """Images (B, C, H, W) in [0, 1], each asked for by one of the labels (B,) -> (B, len(SCORES) + 1): every score,
    and their weighted sum; float32, on the CPU."""
    features = scorer.images(images)
    scores = torch.empty(len(images), len(SCORES) + 1)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().squeeze(1)
        for column, score in enumerate(SCORES.values()):
            scores[rows.cpu(), column] = score(scorer, features[rows.to(features.device)], asked[label]).cpu()
    weighting = torch.tensor([weights.get(name, 0.0) for name in SCORES])
    scores[:, -1] = scores[:, :-1] @ weighting
    return scores


def _unit(features: Any) -> torch.Tensor:
    return F.normalize(getattr(features, "pooler_output", features).float(), dim=-1)


# Standalone file, as a saved pipeline names it -> the same code where hfdiff is installed.
INSTALLED = {"unet": "hfdiff.models.unet", "multistep": "hfdiff.pipelines.multistep"}
LIBRARIES = ("diffusers", "transformers")  # what every user has; any other component travels with its source
STAND_IN = "Stands in for a file of a model while its pipeline is loaded."
BUNDLE = "class_style"  # the file that the installed modules are joined into


def save_sources(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write the source of a saved pipeline, and of each component that comes from no library, beside the weights."""
    index_file = folder / pipeline.config_name
    index = json.loads(index_file.read_text(encoding="utf-8"))
    index["_class_name"] = write_source(type(pipeline), folder)
    index.pop("_name_or_path", None)  # where it was loaded from is nobody else's business
    for name, component in pipeline.components.items():
        cls = type(getattr(component, "_orig_mod", component))  # what torch.compile wraps
        if component is not None and cls.__module__.partition(".")[0] not in LIBRARIES:
            index[name] = write_source(cls, folder / name)
        forget_origin(folder / name / "config.json")
    index_file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_source(cls: type, folder: Path) -> list[str]:
    """Write what defines `cls` into one file of `folder`; returns what names the class in model_index.json."""
    source = Path(inspect.getfile(cls))
    text = getattr(sys.modules[cls.__module__], "SOURCE", None) or source.read_text(encoding="utf-8")
    joined = has_siblings(text)
    target = folder / f"{BUNDLE if joined else source.stem.removesuffix(digest(text))}.py"
    target.write_text(bundle(source) if joined else text, encoding="utf-8")
    return [target.stem, cls.__name__]


def forget_origin(config_file: Path) -> None:
    """Take out of a component's configuration where it was loaded from."""
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def stand_in_for_files(config: dict[str, Any]) -> None:
    """Let components of a folder's own files be given to `from_pretrained`.

    diffusers looks for the class of such a component in an imported module of its file's name ("unet"), which there is
    none of. While a pipeline is loaded, an empty module stands in, unless a real one has the name.
    """
    for name, value in config.items():
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] in INSTALLED:
            base = SchedulerMixin if name == "scheduler" else ModelMixin
            module = ModuleType(value[0], STAND_IN)
            vars(module).update({base.__name__: base, value[1]: base})
            sys.modules.setdefault(value[0], module)


def without_stand_ins() -> None:
    for name in INSTALLED:
        if getattr(sys.modules.get(name), "__doc__", None) == STAND_IN:
            del sys.modules[name]


def name_installed(cls: type, config: dict[str, Any]) -> None:
    """With the package installed, let the class names of a saved configuration mean the installed classes."""
    if not __name__.startswith("hfdiff."):  # in the file that travels
        return
    config["_class_name"] = cls.__name__
    for name, value in config.items():
        if isinstance(value, list) and len(value) == 2 and value[0] in INSTALLED:
            # diffusers takes a component of another library only where that is imported already.
            importlib.import_module(INSTALLED[value[0]])
            config[name] = [INSTALLED[value[0]], value[1]]


LEAST_NOISE = 0.01  # of the last step but the one to none: what is kept is seen with so much noise at the end
RESAMPLED_NOISE = 5.0  # noise above it hides what is kept, and nothing is gained by taking a step again


class RepaintSampler:
    """A sampler, with the methods that a scheduler has, of y = x_0 + s e, s the noise level sigma / alpha.

    A step from s to r < s draws from DDPM's posterior, x^ the predicted clean image and w = (r / s)^2:
        y_r = x^ + w (y_s - x^) + r (1 - w)^(1/2) e    (Ho et al. 2020, Equation 7, in y);
    where it is taken again, noise brings y_r back to s; and what the mask keeps is x_0 + s e with fresh e each time.
    The network sees what is kept with noise, and noise hides what it says about the rest: the more often the steps
    with little noise are taken, the nearer the drawn part comes to the conditional distribution.

    Args:
        process: the scheduler whose noise levels and predictions the network knows.
        clean: the images, (B, C, H, W) in [-1, 1].
        mask: (B, 1, H, W) bool, True where they are drawn.
        num_inference_steps: noise levels, even in their logarithm.
        num_resamples: how often the step from a level is taken, the last and those of much noise apart.
        strength: the share of noise s / (1 + s) that is begun with.
    """

    def __init__(
        self,
        process: SchedulerMixin,
        clean: torch.Tensor,
        mask: torch.Tensor,
        num_inference_steps: int,
        num_resamples: int,
        strength: float = 1.0,
    ):
        self.process, self.clean, self.mask = process, clean, mask
        nodes = noise_nodes(process, num_inference_steps, strength)
        last = len(nodes) - 1
        times = [num_resamples if s <= RESAMPLED_NOISE and i < last else 1 for i, s in enumerate(nodes.tolist())]
        repeats = torch.tensor(times)
        self.levels = [*nodes.repeat_interleave(repeats).tolist(), 0.0]
        self.ends = torch.cat([nodes[1:], nodes.new_zeros(1)]).repeat_interleave(repeats).tolist()
        self.timesteps = timestep_at(process, torch.tensor(self.levels[:-1])).to(clean.device, torch.float32)
        self.step_index = 0

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """The images with the most noise (B, C, H, W), from standard normal noise."""
        return self.clean + self.levels[0] * noise

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """y -> the network's input alpha y."""
        alpha, _ = noise_levels(self.process, timestep)
        return float(alpha) * sample

    def step(
        self,
        prediction: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        generator: list[torch.Generator],
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """(y at the next level,), from the network's prediction at y, the sample (B, C, H, W)."""
        level, end, after = self.levels[self.step_index], self.ends[self.step_index], self.levels[self.step_index + 1]
        self.step_index += 1
        clean = predicted_clean(self.process, self.scale_model_input(sample, timestep), prediction, timestep)
        noise = randn_tensor(sample.shape, generator, sample.device, sample.dtype)
        w = (end / level) ** 2
        # The posterior's variance, and what brings `end` back to `after`: end^2 (1 - w) + after^2 - end^2.
        drawn = clean + w * (sample - clean) + (after**2 - w * end**2) ** 0.5 * noise
        return (torch.where(self.mask, drawn, self.clean + after * noise),)


def noise_nodes(process: SchedulerMixin, count: int, strength: float) -> torch.Tensor:
    """Noise levels (count,) float64 from the most to the least, within what the process knows."""
    most = min(SIGMA_MAX, strength / (1 - strength) if strength < 1 else SIGMA_MAX)
    wanted = torch.tensor([most, min(most, LEAST_NOISE)], dtype=torch.float64)
    alpha, sigma = noise_levels(process, timestep_at(process, wanted))
    high, low = sigma / alpha
    return even_logs(high, low, count)


# Steps and guidance of a call where neither it nor the model's configuration says.
SAMPLING_DEFAULTS: Mapping[str, Any] = {
    "num_inference_steps": 10,
    "guidance_scale": 3.0,
    "style_guidance_scale": 3.0,
    "autoguidance_scale": 1.0,
    "guidance_rescale": 0.0,
    "guidance_interval": (0.0, math.inf),
}


class Branch(NamedTuple):
    """One condition that a step evaluates: its share of the prediction, its conditions, and which UNet."""

    weight: float
    with_class: bool = True
    with_styles: bool = True
    by_guide: bool = False


@dataclass(frozen=True)
class Guidance:
    """Scales of guidance, where they act, and how far the contrast that they add is undone.

    With v the model's prediction, c the class, s the styles, 0 for "unspecified", and w_c `guidance_scale`, w_s
    `style_guidance_scale`, w_a `autoguidance_scale`:
        v(0,0) + w_c [v(c,0) - v(0,0)] + w_s [v(c,s) - v(c,0)] + (w_a - 1) [v(c,s) - g(c,s)]
    is classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598) with one scale for each condition
    (Brooks et al. 2023, https://arxiv.org/abs/2211.09800, Equation 3), and autoguidance by the prediction g of a weaker
    model (Karras et al. 2024, https://arxiv.org/abs/2406.02507, Equation 3).

    `guidance_interval`: the noise levels, both ends included, outside which v(c,s) alone is evaluated.
    """

    guidance_scale: float = 1.0
    style_guidance_scale: float = 1.0
    autoguidance_scale: float = 1.0
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        for name in ("guidance_scale", "style_guidance_scale", "autoguidance_scale"):
            object.__setattr__(self, name, number(name, getattr(self, name), -1000, 1000))
        object.__setattr__(self, "guidance_rescale", number("guidance_rescale", self.guidance_rescale, 0, 1))
        check_interval("guidance_interval", self.guidance_interval)

    def branches(self, styled: bool = True) -> list[Branch]:
        """The conditions that a guided step needs, the weightless ones left out, the main UNet's first.

        Equal scales need two branches, scales of 1 only one.
        """
        w_c, w_s, w_a = self.guidance_scale, self.style_guidance_scale, self.autoguidance_scale
        if not styled:
            w_s = w_c
        conditional = Branch(w_s + (w_a - 1))
        branches = [
            Branch(1 - w_c, False, False),
            Branch(w_c - w_s, True, False),
            conditional,
            Branch(1 - w_a, by_guide=True),
        ]
        return [branch for branch in branches if branch.weight or (branch is conditional and self.guidance_rescale)]

    def plan(self, scheduler: SchedulerMixin, timesteps: torch.Tensor, styled: bool = True) -> list[list[Branch]]:
        """The branches of each timestep."""
        low, high = self.guidance_interval
        if (low, high) == (0, math.inf):  # whatever the scheduler
            return [self.branches(styled)] * len(timesteps)
        alpha, sigma = noise_levels(scheduler, timesteps)
        return [self.branches(styled) if low <= level <= high else [Branch(1.0)] for level in (sigma / alpha).tolist()]

    def rescale(
        self,
        scheduler: SchedulerMixin,
        x: torch.Tensor,
        t: torch.Tensor,
        guided: torch.Tensor,
        conditional: torch.Tensor,
    ) -> torch.Tensor:
        """The guided prediction (B, C, H, W) at the network's inputs x with the contrast of the clean image that it
        means brought back towards that of v(c,s)'s, whatever the model predicts.

        Lin et al. 2024, https://arxiv.org/abs/2305.08891, Equations 15 and 16, on x_0.
        """
        alpha, sigma = (level.to(x) for level in noise_levels(scheduler, t))
        if alpha == 0 or sigma == 0:  # no image is predicted, or none can be changed
            return guided
        target = TARGETS[prediction_type(scheduler)]
        clean, plain = (solve_clean(target, x, p, alpha, sigma) for p in (guided, conditional))
        before, after = (p.std(dim=(1, 2, 3), keepdim=True) for p in (plain, clean))  # (B, 1, 1, 1)
        rescaled = clean * (before / after.clamp_min(torch.finfo(after.dtype).tiny))
        return moved(target, guided, self.guidance_rescale * (rescaled - clean), alpha, sigma)


@dataclass(frozen=True)
class ClipGuidance:
    """Guidance by the gradient of CLIP's cosine with a prompt (Bansal et al. 2023, https://arxiv.org/abs/2302.07121,
    Section 3.1, on the predicted clean image itself, so that no gradient goes through the UNet).

    `scale`: the root mean square of the push, of images in [-1, 1], is `scale` times the coefficient sigma of the
    noise in the network's input.
    """

    scale: float
    interval: tuple[float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", number("clip_guidance_scale", self.scale, -1000, 1000))
        check_interval("clip_guidance_interval", self.interval)

    def __call__(
        self,
        scorer: Scorer,
        wanted: torch.Tensor,
        scheduler: SchedulerMixin,
        x: torch.Tensor,
        prediction: torch.Tensor,
        t: torch.Tensor,
    ) -> torch.Tensor:
        """The prediction (B, C, H, W) at the network's inputs x that means the clean images pushed towards the unit
        vectors `wanted` (B, D)."""
        alpha, sigma = noise_levels(scheduler, t)
        if not (alpha > 0 and self.interval[0] <= sigma / alpha <= self.interval[1]):
            return prediction
        alpha, sigma, target = alpha.to(x), sigma.to(x), TARGETS[prediction_type(scheduler)]
        with torch.enable_grad():
            clean = solve_clean(target, x, prediction, alpha, sigma).detach().requires_grad_()
            cosines = (scorer.images(clean / 2 + 0.5) * wanted).sum()
            (slope,) = torch.autograd.grad(cosines, clean)
        size = slope.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return moved(target, prediction, self.scale * sigma * slope / size.clamp_min(1e-12), alpha, sigma)


# Called after every evaluation: index, timestep, tensors by name -> tensors that replace them, or None.
Watcher = Callable[[int, torch.Tensor, dict[str, torch.Tensor]], Mapping | None]


@dataclass(frozen=True)
class SamplingRequest:
    """What is to be drawn, one row for each of B images."""

    row: torch.Tensor  # (B,), from 0
    noise: torch.Tensor  # (B, C, H, W), the e of the whole trajectory
    class_ids: torch.Tensor  # (B,)
    weights: torch.Tensor  # (B, S)
    generators: list[torch.Generator]  # B, of each image's further noise
    image: torch.Tensor | None = None  # (B, C, H, W) float32 in [0, 1]
    mask: torch.Tensor | None = None  # (B, 1, H, W) bool: True where the image is drawn anew
    wanted: torch.Tensor | None = None  # (B, D): unit vector of the prompt that each is steered to

    @property
    def clean(self) -> torch.Tensor:
        """`image` as the UNet sees images: (B, C, H, W) in [-1, 1]."""
        assert self.image is not None
        return (2 * self.image - 1).to(self.noise.dtype)

    def part(self, rows: torch.Tensor) -> "SamplingRequest":
        rowwise: dict[str, Any] = {
            name: v[rows.to(v.device)] for name, v in vars(self).items() if isinstance(v, torch.Tensor)
        }
        return replace(self, **rowwise, generators=[self.generators[row] for row in rows.tolist()])


@dataclass(frozen=True)
class SamplingPlan:
    """How images are drawn; see `ClassStylePipeline.__call__`."""

    guidance: Guidance
    num_inference_steps: int
    strength: float
    num_resamples: int = 1
    choice: Choice | None = None
    clip_guidance: ClipGuidance | None = None
    clean_ends: bool = False  # put what nobody can tell from black and white there
    scorer: Scorer | None = None  # for the two before it
    asked: Sequence[PromptTarget] = ()  # of each label, for the choice
    watcher: Watcher | None = None


@dataclass(frozen=True)
class Samples:
    """Finished images, on the CPU."""

    rows: torch.Tensor  # (n,) of the request
    images: torch.Tensor  # (n, C, H, W) float32 in [0, 1]
    scores: torch.Tensor  # (n, K) float32, K columns where they are to be chosen from: `SCORES` and the total

    def joined(self, other: "Samples") -> "Samples":
        return Samples(*(torch.cat([getattr(self, key), value]) for key, value in vars(other).items()))

    def best(self, choice: Choice) -> "Samples":
        """The best `top_k` of each label, label by label, the best first."""
        order = self.scores[:, -1].argsort(descending=True, stable=True)
        order = order[(self.rows[order] // choice.num_candidates).argsort(stable=True)]
        label = self.rows[order] // choice.num_candidates
        place = torch.arange(len(order)) - torch.searchsorted(label, label)
        order = order[place < choice.top_k]
        return Samples(*(value[order] for value in vars(self).values()))


@dataclass(frozen=True)
class Denoiser:
    """What predicts: the UNet, and a weaker one for autoguidance."""

    unet: ModelMixin
    guide_unet: ModelMixin | None = None

    def predict(
        self,
        model_input: torch.Tensor,
        t: torch.Tensor,
        request: SamplingRequest,
        branches: list[Branch],
        guidance: Guidance,
        scheduler: SchedulerMixin,
    ) -> torch.Tensor:
        """The weighted sum of the branches (B, C, H, W), by one forward of each UNet that they name."""
        main = [branch for branch in branches if not branch.by_guide]
        predictions = predict_branches(self.unet, model_input, t, request, main)
        if len(main) < len(branches):
            predictions += predict_branches(self.guide_unet, model_input, t, request, branches[len(main) :])
        prediction: Any = sum(branch.weight * p for branch, p in zip(branches, predictions, strict=True))
        if guidance.guidance_rescale and len(branches) > 1:
            prediction = guidance.rescale(scheduler, model_input, t, prediction, predictions[len(main) - 1])
        return prediction


def make_request(
    unet: ModelMixin,
    device: torch.device,
    class_ids: Sequence[int | None],
    strengths: Sequence[Sequence[float]],
    num_images_per_label: int,
    generator: torch.Generator | list[torch.Generator] | None,
    image: ImageInput | None,
    mask: ImageInput | None,
) -> SamplingRequest:
    """The conditions and images as tensors on the device, and the noise of each; strengths: (B, num_styles)."""
    count, config = len(class_ids), unet.config
    generator = check_generators(generator, count)
    height, width = config.sample_size if isinstance(config.sample_size, Sequence) else [config.sample_size] * 2
    pixels = None if image is None else read_images("image", image, config.in_channels, height, width)
    repaint = None if mask is None else read_images("mask", split_images(mask), 1, height, width) >= 0.5
    noise = draw_noise(generator, (count, config.in_channels, height, width), device, unet.dtype)
    return SamplingRequest(
        row=torch.arange(count, device=device),
        noise=noise,
        class_ids=torch.tensor([config.num_classes if i is None else i for i in class_ids], device=device),
        weights=torch.tensor(strengths, device=device).reshape(count, config.num_styles),
        generators=[torch.Generator().manual_seed(zlib.crc32(e.tobytes())) for e in noise.float().cpu().numpy()],
        image=None if pixels is None else one_for_each("images", pixels, count, num_images_per_label).to(device),
        mask=None if repaint is None else one_for_each("masks", repaint, count, num_images_per_label).to(device),
    )


def check_generators(given: Any, count: int) -> torch.Generator | list[torch.Generator] | None:
    """One for all of `count` images, or a list with one for each; ValueError for what is neither."""
    if given is None or isinstance(given, torch.Generator):
        return given
    generators = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(generator, torch.Generator) for generator in generators):
        raise ValueError(
            f"generator {str(given)[:100]}; valid: torch.Generator().manual_seed(0), or one for each image"
        )
    if len(generators) != count:
        raise ValueError(f"{len(generators)} generators for {count} images; valid: one for all, or one for each")
    return generators


def draw_noise(
    generator: torch.Generator | list[torch.Generator] | None,
    shape: tuple[int, int, int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Standard normal (B, C, H, W), each image by itself: how many come after it changes none of its bits."""
    generators = generator if isinstance(generator, list) else [generator] * shape[0]
    return torch.cat([randn_tensor((1, *shape[1:]), own, device=device, dtype=dtype) for own in generators])


def scaled(scheduler: SchedulerMixin | RepaintSampler, sample: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The scheduler's state -> the network's input; the FlowMatch schedulers know no difference."""
    return scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample


def noised(scheduler: SchedulerMixin, request: SamplingRequest, t: torch.Tensor) -> torch.Tensor:
    """The given images as the scheduler's state at t: the state that it scales to alpha x_0 + sigma e."""
    alpha, sigma = (float(level) for level in noise_levels(scheduler, t))
    return (alpha * request.clean + sigma * request.noise) / float(scaled(scheduler, torch.ones(()), t))


def start(
    request: SamplingRequest, plan: SamplingPlan, scheduler: SchedulerMixin
) -> tuple[SchedulerMixin | RepaintSampler, torch.Tensor, torch.Tensor]:
    """The sampler, ready; its timesteps; and the state (B, C, H, W) that it begins with."""
    steps, device = plan.num_inference_steps, request.row.device
    if request.mask is not None:
        sampler = RepaintSampler(scheduler, request.clean, request.mask, steps, plan.num_resamples, plan.strength)
        return sampler, sampler.timesteps, sampler.start(request.noise)
    timesteps = set_timesteps(scheduler, steps, plan.strength, device)
    if request.image is None:
        return scheduler, timesteps, request.noise * getattr(scheduler, "init_noise_sigma", 1.0)
    return scheduler, timesteps, noised(scheduler, request, timesteps[0])


def finished(request: SamplingRequest, plan: SamplingPlan, clean: torch.Tensor) -> torch.Tensor:
    """The images in [0, 1] that clean ones (B, C, H, W) in [-1, 1] make, with what the mask keeps."""
    images = (clean.float() / 2 + 0.5).clamp(0, 1)
    images = dead_zone(images) if plan.clean_ends else images
    if request.image is None or request.mask is None:
        return images
    return torch.where(request.mask, images, request.image)


def score(request: SamplingRequest, plan: SamplingPlan, images: torch.Tensor) -> torch.Tensor:
    """Every score of images (B, C, H, W) in [0, 1] by the plan's choice, and the total: (B, K) on the CPU."""
    assert plan.choice is not None
    assert plan.scorer is not None
    labels = request.row // plan.choice.num_candidates
    return score_images(plan.scorer, images, plan.asked, labels, plan.choice.score_weights)


def draw_part(
    request: SamplingRequest, plan: SamplingPlan, scheduler: SchedulerMixin, denoiser: Denoiser, progress: Any
) -> Samples:
    """Finish a part of the images, or those of its candidates that are worth finishing."""
    choice = plan.choice
    sampler, timesteps, sample = start(request, plan, scheduler)
    random = "generator" in inspect.signature(sampler.step).parameters
    branches = plan.guidance.plan(scheduler, timesteps, styled=bool(denoiser.unet.config.num_styles))
    # Not at the first evaluation, where a model of the noise says nothing of the image.
    stop = max(1, math.ceil(STOPPING_SHARE * len(timesteps)) - 1) if choice and choice.early_stopping else None
    for index, (t, step_branches) in enumerate(zip(timesteps, branches, strict=True)):
        x = scaled(sampler, sample, t)
        prediction = denoiser.predict(x, t, request, step_branches, plan.guidance, scheduler)
        if plan.clip_guidance and plan.scorer and request.wanted is not None:
            prediction = plan.clip_guidance(plan.scorer, request.wanted, scheduler, x, prediction, t)
        if choice and index == stop:
            totals = score(request, plan, finished(request, plan, predicted_clean(scheduler, x, prediction, t)))[:, -1]
            rows = choice.survivors((request.row // choice.num_candidates).cpu(), totals)
            keep_rows(sampler, rows, len(x))
            sample, x, prediction = (tensor[rows.to(tensor.device)] for tensor in (sample, x, prediction))
            request = request.part(rows)
        more = {"generator": request.generators} if random else {}
        sample = sampler.step(prediction, t, sample, **more, return_dict=False)[0]
        progress.update()
        if plan.watcher is not None:
            tensors = {"model_input": x, "prediction": prediction, "latents": sample}
            sample = (plan.watcher(index, t, tensors) or {}).get("latents", sample)
    images = finished(request, plan, sample)
    rows = request.row.cpu()
    return Samples(rows, images.cpu(), score(request, plan, images) if choice else torch.empty(len(rows), 0))


def predict_branches(
    unet: ModelMixin, model_input: torch.Tensor, t: torch.Tensor, request: SamplingRequest, branches: list[Branch]
) -> list[torch.Tensor]:
    """What one UNet predicts for each branch, in one forward: a (B, C, H, W) for each."""
    if not branches:
        return []
    anything = torch.full_like(request.class_ids, unet.config.num_classes)
    unspecified = torch.full_like(request.weights, UNSPECIFIED)
    class_ids = torch.cat([request.class_ids if branch.with_class else anything for branch in branches])
    weights = torch.cat([request.weights if branch.with_styles else unspecified for branch in branches])
    rows = model_input.repeat(len(branches), 1, 1, 1)
    return list(unet(rows, t, class_ids, weights).sample.chunk(len(branches)))


def keep_rows(scheduler: SchedulerMixin | RepaintSampler, rows: torch.Tensor, count: int) -> None:
    """Drop what a scheduler remembers of all but these of `count` images."""

    def kept(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.ndim == 4 and len(value) == count:
            return value[rows.to(value.device)]
        return [kept(item) for item in value] if isinstance(value, list) else value

    for name, value in vars(scheduler).items():
        setattr(scheduler, name, kept(value))


@dataclass
class ClassStylePipelineOutput(BaseOutput):
    """Images, label by label.

    `images`: a list of PIL images, or NHWC numpy, or NCHW torch, in [0, 1]; `class_labels`: the class id of each
    (None: unspecified); `styles`: the strengths of each, by name. Chosen ones come best first for each label, with
    `scores`, an entry in `SCORES` and "total" each, and `candidates`, the number of each among its label's, from 0.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    class_labels: list[int | None]
    styles: list[dict[str, float]]
    scores: list[dict[str, float]] | None = None
    candidates: list[int] | None = None


class ClassStylePipeline(DiffusionPipeline):
    """Images from noise, by class and style.

    Args:
        unet: a `ClassStyleUNet2DModel`.
        scheduler: the diffusers scheduler of the objective that the UNet was trained for.
        guide_unet: a weaker UNet of the same data and objective (smaller, or trained for less), for autoguidance.
        id2label: {class id: class name}.
        styles: {style name: {"phrase": words for a prompt, "group": exclusive group or None, "index": column of the
            UNet}}; where no index is given, the columns are in the order of the dictionary.
        clip_model, clip_processor: a CLIP or SigLIP model of transformers and its processor, for choosing among
            candidates and for guidance by a prompt.
        process: what `reversed_process` says of the scheduler that the UNet was trained for; by default of `scheduler`.
        clean_ends: put what nobody can tell from black and white there (`dead_zone`), as where black is quite black in
            the data.
        sampling: what a call takes where nothing is given, in place of some of `SAMPLING_DEFAULTS`: chosen for this
            model.
    """

    model_cpu_offload_seq = "unet->guide_unet->clip_model"
    _optional_components: ClassVar[list[str]] = ["guide_unet", "clip_model", "clip_processor"]

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        id2label: dict | None = None,
        styles: dict | None = None,
        process: dict | None = None,
        clean_ends: bool = False,
        sampling: dict | None = None,
        guide_unet: ModelMixin | None = None,
        clip_model: Any = None,
        clip_processor: Any = None,
    ):
        super().__init__()
        without_stand_ins()
        self.register_modules(
            unet=unet,
            scheduler=scheduler,
            guide_unet=guide_unet,
            clip_model=clip_model,
            clip_processor=clip_processor,
        )
        id2label = {int(i): name for i, name in (id2label or {}).items()}
        # A saved configuration is sorted by name, so each style carries its column.
        styles = {name: {"index": i, **style} for i, (name, style) in enumerate((styles or {}).items())}
        if not all(isinstance(name, str) for name in (*id2label.values(), *styles)):
            raise ValueError(f"names of classes {list(id2label.values())[:5]}; valid: texts")
        if not is_size(unet.config.sample_size):
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
        self._scorer: Scorer | None = None
        self.register_to_config(
            id2label={str(i): name for i, name in id2label.items()},
            styles=styles,
            process=process or reversed_process(scheduler),
            clean_ends=clean_ends,
            sampling=sampling or {},
        )
        if unknown := self.config.sampling.keys() - SAMPLING_DEFAULTS.keys():
            raise ValueError(f"sampling sets {', '.join(sorted(unknown))}; valid: {', '.join(SAMPLING_DEFAULTS)}")
        if sampling:
            self.check_settings(**self.settings())

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
            class_id = count("class", int(label) if isinstance(label, str) else label, -math.inf)
        except ValueError as error:
            raise ValueError(f"class {label!r}; valid: a name, a whole number, or None") from error
        if not 0 <= class_id < len(names):
            raise ValueError(f"class id {class_id} out of range; valid: 0 to {len(names) - 1}")
        return class_id

    def conditions(
        self, class_labels: Any, styles: Any, num_images_per_label: int = 1
    ) -> tuple[list[int | None], list[dict[str, float]]]:
        """One class id and one dictionary of strengths for each image, label by label; see `__call__`."""
        several = isinstance(class_labels, Iterable) and not isinstance(class_labels, str | bytes)
        labels = list(class_labels) if several and getattr(class_labels, "ndim", None) != 0 else [class_labels]
        ids = [self.class_id(label) for label in labels]
        specs = list(styles) if isinstance(styles, Sequence) and not isinstance(styles, str) else [styles]
        if not ids:
            raise ValueError("class_labels are an empty list; valid: one label or more")
        if len(specs) not in (1, len(ids)):
            raise ValueError(f"{len(specs)} styles for {len(ids)} labels; valid: one for all, or one for each label")
        strengths = [resolve_styles(spec, self.config.styles) for spec in specs]
        if len(strengths) == 1:
            strengths = strengths * len(ids)
        repeat = range(count("num_images_per_label", num_images_per_label, 1))
        return [i for i in ids for _ in repeat], [dict(s) for s in strengths for _ in repeat]

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int | str | None] | int | str | None = None,
        styles: Sequence[StyleSpec] | StyleSpec = None,
        num_images_per_label: int = 1,
        guidance_scale: float | None = None,
        style_guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        max_batch_size: int = 256,
        image: ImageInput | None = None,
        strength: float | None = None,
        mask: ImageInput | None = None,
        num_resamples: int = 20,
        autoguidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        callback_on_step_end: "StepCallback | None" = None,
        num_candidates: int | None = None,
        top_k: int = 1,
        early_stopping: bool = False,
        score_weights: Mapping[str, float] = SCORE_WEIGHTS,
        quality_prompts: Mapping[str, bool] = QUALITY_PROMPTS,
        clip_guidance_scale: float = 0.0,
        clip_prompt: str = "a clear photo of {}",
        clip_guidance_interval: tuple[float, float] = (0.0, math.inf),
    ) -> ClassStylePipelineOutput | tuple:
        """Draw images, from noise or from images given.

        Steps and guidance that are not given are the model's own, chosen for it, else `SAMPLING_DEFAULTS` (`settings`).

        Args:
            class_labels: names or ids; None for a label means "any class".
            styles: None for plain images; "thick:0.8+slanted" or {"thick": 0.8}; one for all or one for each label.
            num_images_per_label: images for each label; they come label by label.
            guidance_scale, style_guidance_scale: w_c and w_s of `Guidance`; 1 is none.
            num_inference_steps: steps of the scheduler (second order: one evaluation each).
            generator: one for all images, or one for each image.
            output_type: "pil", "np" (NHWC float32 in [0, 1]) or "pt" (NCHW float32 in [0, 1]).
            return_dict: False for the plain tuple (images,).
            max_batch_size: the most rows that go through the UNet at once; it bounds the memory, but for the noise
                of all images, which is drawn first so that no batch size changes it.
            image: begin with these images, to vary them, restyle them, change their class or repair a part: PIL,
                numpy NHWC or torch NCHW in [0, 1] (or uint8), or a list; one for all, one for each label, or one for
                each image drawn. Another size is cut at the centre to the model's aspect and resized, transparency
                becomes white, and grey and colour are converted to what the model draws.
            strength: how far to go back to noise, from just above 0 (the image as it is) to 1 (only a trace of it):
                the share of noise sigma / (alpha + sigma) that is begun with, at the nearest step, whatever the
                process. By default 0.6, and 1 with a mask.
            mask: 1 where the image is drawn anew, 0 where it is kept exactly (cut at 0.5): PIL, arrays (H, W) or
                (N, H, W), or a list; as many as of `image`.
            num_resamples: with a mask, how often each step with some, not too much, noise is taken, so that what is
                drawn goes with what is kept: RePaint's resampling (`RepaintSampler`, which takes the scheduler's
                place). 10 steps take 124 evaluations of the network by default, and 10 with 1.
            autoguidance_scale: w_a of `Guidance`; other than 1 it needs a `guide_unet`.
            guidance_rescale: 0 to 1; how far the contrast that guidance adds is taken back (`Guidance.rescale`).
            guidance_interval: the noise levels (sigma / alpha) between which guidance acts; outside them the plain
                conditional prediction is used, which is cheaper (Kynkaanniemi et al. 2024,
                https://arxiv.org/abs/2404.07724).
            callback_on_step_end: called after every evaluation as callback(pipeline, index, timestep, tensors), with
                tensors (B, C, H, W): "model_input", the UNet's input alpha x_0 + sigma e; "prediction", what guidance
                made of its outputs; "latents", the scheduler's state after the step, which a returned dictionary may
                replace. What `max_batch_size` divides comes part by part, counted from 0 each time.
            num_candidates, top_k: draw so many images for each label and keep the best by the `clip_model`; then
                `generator` as a list holds one for each candidate, and num_images_per_label stays 1.
            early_stopping: score the predicted clean images after a third of the steps, and finish only the best
                third of the candidates, and top_k at least.
            score_weights: the weight of each entry in `SCORES` in the total; by default 1 for "class" and "quality".
            quality_prompts: {template: is it positive (or negative)?}, with {} for the subject, "a thick sneaker".
            clip_guidance_scale: how far each predicted clean image is pushed up the gradient of its cosine with
                `clip_prompt`, as a share of the noise at that step; 0 is no push.
            clip_prompt: what to steer to, with {} for the subject.
            clip_guidance_interval: the noise levels between which it acts.
        """
        num_images_per_label = count("num_images_per_label", num_images_per_label, 1)
        max_batch_size = count("max_batch_size", max_batch_size, 1)
        settings = self.settings(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            style_guidance_scale=style_guidance_scale,
            autoguidance_scale=autoguidance_scale,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
        )
        most = self.scheduler.config.num_train_timesteps
        steps = count("num_inference_steps", settings.pop("num_inference_steps"), 1, most)
        if strength is None:
            strength = 0.6 if image is not None and mask is None else 1.0
        elif image is None:
            raise ValueError(f"strength {strength} without an image; give an image to begin with")
        strength = number("strength", strength, 0, 1, above=True)
        choice = None
        if num_candidates is not None:
            choice = Choice(num_candidates, top_k, early_stopping, score_weights, quality_prompts)
        guidance = Guidance(**settings)
        clip_guidance = ClipGuidance(clip_guidance_scale, clip_guidance_interval) if clip_guidance_scale else None
        repeats = count("num_resamples", num_resamples, 1)
        plan = SamplingPlan(guidance, steps, strength, repeats, choice, clip_guidance, self.config.clean_ends)
        self._check(plan, output_type, num_images_per_label, image, mask)
        per_label = num_images_per_label if choice is None else choice.num_candidates
        ids, strengths = self.conditions(class_labels, styles, per_label)
        asked: list[PromptTarget] = []
        if choice or (clip_guidance and "{}" in clip_prompt):
            asked = [
                self.prompt_target(*label, quality_prompts) for label in zip(ids[::per_label], strengths[::per_label])
            ]
        if choice:
            self.check_prompts(asked)
        weights = [[given.get(name, 0.0) for name in self.style_names] for given in strengths]
        device = self._execution_device
        request = make_request(self.unet, device, ids, weights, per_label, generator, image, mask)
        if clip_guidance:
            subjects = [label.subject for label in asked] or [""] * (len(ids) // per_label)
            wanted = self.scorer.texts([clip_prompt.replace("{}", subject) for subject in subjects])
            request = replace(request, wanted=wanted.repeat_interleave(per_label, dim=0))
        if choice or clip_guidance:
            plan = replace(plan, scorer=self.scorer, asked=asked)
        # A scheduler holds the step that it is at: with one of its own, no call disturbs another on this pipeline.
        call = copy.copy(self)
        call.scheduler = copy.deepcopy(self.scheduler)
        if callback_on_step_end:
            plan = replace(plan, watcher=partial(callback_on_step_end, call))
        most = sum(not branch.by_guide for branch in guidance.branches(styled=bool(self.style_names)))
        parts = torch.arange(len(ids)).split(max(1, max_batch_size // max(1, most)))
        steps = len(start(request.part(parts[0][:1]), plan, call.scheduler)[1])
        drawn = Samples(parts[0][:0], request.noise[:0].float().cpu(), torch.empty(0, len(SCORES) + 1 if choice else 0))
        with self.progress_bar(total=steps * len(parts)) as progress:
            for part in parts:
                denoiser = Denoiser(self.unet, self.guide_unet)
                drawn = drawn.joined(draw_part(request.part(part), plan, call.scheduler, denoiser, progress))
                if choice:
                    drawn = drawn.best(choice)
        return self._output(drawn, ids, strengths, choice, output_type, return_dict)

    @property
    def scorer(self) -> Scorer:
        """What scores images; ValueError where the pipeline has no CLIP model."""
        if self.clip_model is None or self.clip_processor is None:
            raise ValueError(
                "this pipeline has no clip_model and clip_processor; give both, by hfdiff.load_clip() or transformers"
            )
        if self._scorer is None or (self._scorer.model, self._scorer.processor) != (
            self.clip_model,
            self.clip_processor,
        ):
            self._scorer = Scorer(self.clip_model, self.clip_processor)
        return self._scorer

    def prompt_target(
        self,
        class_id: int | None,
        strengths: Mapping[str, float],
        quality_prompts: Mapping[str, bool] = QUALITY_PROMPTS,
    ) -> PromptTarget:
        """What an image of this class and these styles should show."""
        if class_id is None:
            raise ValueError("images of class None cannot be scored; give each label a class")
        phrases = {name: style["phrase"] for name, style in self.config.styles.items()}
        return PromptTarget(
            tuple(subject(name, strengths, phrases) for name in self.class_names), class_id, dict(quality_prompts)
        )

    def predicted_clean(
        self, model_input: torch.Tensor, prediction: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """The clean images (B, C, H, W) in [-1, 1] that the tensors of a `callback_on_step_end` mean."""
        return predicted_clean(self.scheduler, model_input, prediction, timestep)

    def check_prompts(self, asked: Sequence[PromptTarget]) -> None:
        """ValueError for a prompt that the CLIP model cannot read whole, before anything is drawn."""
        for label in asked:
            self.scorer.texts([template.replace("{}", label.subject) for template in label.quality_prompts])
            self.scorer.texts([prompt(rival) for rival in label.subjects])

    def settings(self, **given: Any) -> dict[str, Any]:
        """Steps and guidance of a call that gives these, None or nothing for the model's own."""
        own = {**SAMPLING_DEFAULTS, **self.config.sampling}
        if self.guide_unet is None:  # it was taken away
            own["autoguidance_scale"] = 1.0
        return {key: own[key] if given.get(key) is None else given[key] for key in own}

    def check_settings(self, num_inference_steps: int | None = None, **guidance: Any) -> None:
        """ValueError for arguments of a call that this pipeline would refuse."""
        if num_inference_steps is not None:
            count("num_inference_steps", num_inference_steps, 1, self.scheduler.config.num_train_timesteps)
        scales = Guidance(**guidance)
        if scales.autoguidance_scale != 1 and self.guide_unet is None:
            raise ValueError(f"autoguidance_scale {scales.autoguidance_scale} without a guide_unet; valid: 1")

    def _check(
        self,
        plan: SamplingPlan,
        output_type: str,
        num_images_per_label: int,
        image: Any,
        mask: Any,
    ) -> None:
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type {output_type!r}; valid: pil, np, pt")
        check_process(self.scheduler, self.config.process)
        self.check_settings(plan.num_inference_steps, **vars(plan.guidance))
        if plan.choice and num_images_per_label != 1:
            raise ValueError(f"num_images_per_label {num_images_per_label} with num_candidates; give top_k instead")
        if mask is not None and image is None:
            raise ValueError("mask without an image; give the image whose parts are kept")

    def _output(
        self,
        drawn: Samples,
        ids: list[int | None],
        strengths: list[dict[str, float]],
        choice: Choice | None,
        output_type: str,
        return_dict: bool,
    ) -> ClassStylePipelineOutput | tuple:
        images: Any = drawn.images
        if output_type != "pt":
            images = images.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        if not return_dict:
            return (images,)
        rows = drawn.rows.tolist()
        return ClassStylePipelineOutput(
            images=images,
            class_labels=[ids[row] for row in rows],
            styles=[strengths[row] for row in rows],
            scores=[dict(zip((*SCORES, "total"), row)) for row in drawn.scores.tolist()] if choice else None,
            candidates=[row % choice.num_candidates for row in rows] if choice else None,
        )

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> "ClassStylePipeline":
        """The same components in a pipeline of their own, or those given in their place."""
        # Left to itself, diffusers takes over only components whose class is the very annotation.
        own = {name: value for name, value in pipeline.components.items() if name in inspect.signature(cls).parameters}
        return super().from_pipe(pipeline, **{**own, **kwargs})

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save weights, configuration and source files, so that the folder loads without this package.

        The plain method loses the source of the pipeline and of each component that comes from neither diffusers nor
        transformers; the upload comes after they are in place.
        """
        folder = Path(save_directory)
        hub = {k: kwargs.pop(k) for k in ("repo_id", "commit_message", "private", "token", "create_pr") if k in kwargs}
        super().save_pretrained(folder, **kwargs)
        save_sources(self, folder)
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", folder.name), **hub)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """What a saved configuration says of the components; from here on they may be given, too."""
        stand_in_for_files(config_dict)
        return super().extract_init_dict(config_dict, **kwargs)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """The saved configuration; with the package installed, the saved class names mean the installed classes.

        So `ClassStylePipeline.from_pretrained(folder)` runs none of the code in the folder and needs no trust.
        """
        loaded = super().load_config(*args, **kwargs)
        name_installed(cls, loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded


# diffusers' base class, `DiffusionPipeline.from_pretrained`, takes what has a default for a setting, and would ignore a
# component that is given, or None in its place: so the signature that it reads shows none.
_init = inspect.signature(ClassStylePipeline.__init__)
ClassStylePipeline.__init__.__signature__ = _init.replace(  # type: ignore[attr-defined]
    parameters=[
        value.replace(kind=value.KEYWORD_ONLY, default=value.empty)
        if name in ClassStylePipeline._optional_components
        else value
        for name, value in _init.parameters.items()
    ]
)

StepCallback = Callable[[ClassStylePipeline, int, torch.Tensor, dict[str, torch.Tensor]], Mapping | None]


globals().update(own_names(__name__, __file__))
