"""From noise to images: the loop over the scheduler's steps."""

import inspect
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from .grammar import UNSPECIFIED
from .guidance import Branch, ClipGuidance, Guidance
from .images import ImageInput, dead_zone, one_for_each, read_images, split_images
from .inpainting import RepaintSampler
from .noise_levels import noise_levels, predicted_clean
from .prompts import PromptTarget
from .scores import STOPPING_SHARE, Choice, Scorer, score_images
from .timesteps import set_timesteps

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
