"""A mixture of two-dimensional Gaussians, whose exact denoiser stands for a model: images (B, 2, 1, 1) in float64."""

import inspect
from functools import cache

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from hfdiff.models.objectives import Objective
from hfdiff.models.samplers import Process

MEANS = torch.tensor([[-0.6, 0.4], [0.5, 0.5], [0.1, -0.6]], dtype=torch.float64)
SHARES = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.0225, 0.0075], [0.0075, 0.0125]], dtype=torch.float64)


def mean() -> Tensor:
    return SHARES @ MEANS


def covariance() -> Tensor:
    spread = MEANS - mean()
    return COVARIANCE + (SHARES[:, None] * spread).T @ spread


def denoise(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """E[x_0 | alpha x_0 + sigma e = x], (B, 2) -> (B, 2), by Bayes' rule."""
    precision = torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64))
    away = x[:, None] - alpha * MEANS  # (B, 3, 2)
    likelihood = SHARES.log() - torch.einsum("bki,ij,bkj->bk", away, precision, away) / 2
    centres = MEANS + alpha * away @ (COVARIANCE @ precision).T
    return (likelihood.softmax(dim=1)[..., None] * centres).sum(dim=1)


@cache
def angles(betas: tuple[float, ...]) -> Tensor:
    """arctan(sigma / alpha) of each timestep of a table."""
    alpha_bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)
    return torch.atan2((1 - alpha_bar).sqrt(), alpha_bar.sqrt())


def levels(objective: Objective, betas: tuple[float, ...], timestep: float) -> tuple[float, float]:
    """alpha and sigma; between two timesteps of a table, the angle is a straight line."""
    if not betas:
        alpha, sigma = objective.path(torch.tensor([timestep], dtype=torch.float64))
        return alpha.item(), sigma.item()
    low = min(int(timestep), len(betas) - 2)
    below, above = angles(betas)[low : low + 2]
    angle = torch.lerp(below, above, timestep - low)
    return angle.cos().item(), angle.sin().item()


def sample(objective: Objective, process: Process, scheduler: SchedulerMixin, steps: int, noise: Tensor) -> Tensor:
    """The scheduler's answer (B, 2) to noise (B, 2), with the exact prediction in place of a model's."""
    scheduler.set_timesteps(steps)
    x = noise.reshape(-1, 2, 1, 1) * getattr(scheduler, "init_noise_sigma", 1.0)
    generator = torch.Generator().manual_seed(0)
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in scheduler.timesteps:
        entering = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        alpha, sigma = levels(objective, process.betas, float(t))
        clean = denoise(entering.reshape(-1, 2), alpha, sigma).reshape(x.shape)
        a, b = objective.target(torch.tensor(alpha), torch.tensor(sigma))
        x = scheduler.step(a * clean + b * (entering - alpha * clean) / sigma, t, x, **extra).prev_sample
    return x.reshape(-1, 2).double()
