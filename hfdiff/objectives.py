"""Objectives: how a picture is noised, what the model is to predict, and which scheduler samples it.

Notation: x_0 clean picture, e standard normal noise, x_t = alpha_t x_0 + sigma_t e. Every target is a linear
combination a x_0 + b e, so one row of `OBJECTIVES` gives the path (alpha, sigma), the coefficients (a, b), and the way
times are drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from torch import Tensor

from hfdiff.errors import BadInput, unknown

NUM_TIMESTEPS = 1000

# Name -> diffusers' `beta_schedule`.
SCHEDULES: dict[str, str] = {
    "linear": "linear",  # Ho et al. 2020
    "cosine": "squaredcos_cap_v2",  # Nichol & Dhariwal 2021
}


@cache
def _alphas_cumprod(schedule: str) -> Tensor:
    return DDPMScheduler(NUM_TIMESTEPS, beta_schedule=SCHEDULES[schedule]).alphas_cumprod.double()


@dataclass(frozen=True)
class Noised:
    """A noised batch: what goes into the model, at which time, and what should come out."""

    sample: Tensor  # (B, C, H, W) float32
    timestep: Tensor  # (B,) float32, as the UNet takes it: 0 (clean) to 1000 (noise)
    target: Tensor  # (B, C, H, W) float32


@dataclass(frozen=True)
class Objective:
    """A row of the table, with its schedule chosen."""

    path: Callable[[Tensor], tuple[Tensor, Tensor]]  # timestep (B,) -> alpha, sigma (B,)
    target: Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float]]  # alpha, sigma -> a, b
    quantile: Callable[[Tensor], Tensor]  # uniform (B,) in (0, 1) -> timestep (B,)
    scheduler: Callable[[], SchedulerMixin]

    def noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Noised:
        """Noise clean pictures (B, C, H, W) in [-1, 1] to their timesteps (B,)."""
        alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in self.path(timestep))
        a, b = self.target(alpha, sigma)
        return Noised(alpha * clean + sigma * noise, timestep, a * clean + b * noise)

    def clean(self, sample: Tensor, prediction: Tensor, timestep: Tensor) -> Tensor:
        """The clean picture that a prediction means: solve x_t = alpha x_0 + sigma e, target = a x_0 + b e."""
        alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in self.path(timestep))
        a, b = self.target(alpha, sigma)
        return (b * sample - sigma * prediction) / (alpha * b - sigma * a)


def _flow(schedule: str) -> Objective:
    """Rectified flow (Liu et al. 2022): x_t = (1 - t) x_0 + t e, target e - x_0; logit-normal times
    (Esser et al. 2024, Section 3.1)."""
    return Objective(
        path=lambda timestep: (1 - timestep / NUM_TIMESTEPS, timestep / NUM_TIMESTEPS),
        target=lambda alpha, sigma: (-1.0, 1.0),
        quantile=lambda u: torch.special.ndtri(u).sigmoid() * NUM_TIMESTEPS,
        scheduler=lambda: DPMSolverMultistepScheduler(
            NUM_TIMESTEPS, prediction_type="flow_prediction", use_flow_sigmas=True, final_sigmas_type="zero"
        ),
    )


def _epsilon(schedule: str) -> Objective:
    """DDPM (Ho et al. 2020, Equation 14): alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), target e; uniform
    times."""

    def path(timestep: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = _alphas_cumprod(schedule)
        alpha, sigma = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
        return alpha.to(timestep.device)[timestep.long()], sigma.to(timestep.device)[timestep.long()]

    return Objective(
        path=path,
        target=lambda alpha, sigma: (0.0, 1.0),
        quantile=lambda u: (u * NUM_TIMESTEPS).floor().clamp(max=NUM_TIMESTEPS - 1),
        scheduler=lambda: DPMSolverMultistepScheduler(
            NUM_TIMESTEPS,
            beta_schedule=SCHEDULES[schedule],
            prediction_type="epsilon",
            timestep_spacing="trailing",
            # Cosine ends at alpha = 5e-5, where a small error of the prediction becomes a huge one of the picture.
            lambda_min_clipped=-5.1 if schedule == "cosine" else -float("inf"),
        ),
    )


# Name -> (the objective for a schedule, its schedules with the default first; none where the path is fixed).
OBJECTIVES: dict[str, tuple[Callable[[str], Objective], Sequence[str]]] = {
    "flow": (_flow, ()),
    "epsilon": (_epsilon, ("cosine", "linear")),
}


def make_objective(name: str, schedule: str = "auto") -> Objective:
    """The objective of this name; `schedule` "auto" takes its first one. BadInput lists what is valid."""
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    build, schedules = OBJECTIVES[name]
    if schedule == "auto":
        return build(schedules[0] if schedules else "")
    if schedule not in schedules:
        raise BadInput(
            f"schedule {schedule!r} does not go with objective {name!r}; valid: {', '.join(['auto', *schedules])}"
        )
    return build(schedule)
