"""Guidance by the model's own conditions, and by a prompt."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import SchedulerMixin

from .checks import check_interval, number
from .noise_levels import TARGETS, moved, noise_levels, prediction_type, solve_clean
from .scores import Scorer

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
