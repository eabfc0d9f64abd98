"""Mixtures of two-dimensional Gaussians, whose exact denoiser stands for a model: images (B, 2, 1, 1) in float64.

`WIDE` has components as broad as the gaps between them: what it asks of a sampler is the order. `CLOSE` has narrow ones
side by side, as images have: what lies between two of them is an error, and so is a width that is lost or added.
"""

import inspect
from dataclasses import dataclass
from functools import cache

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from hfdiff.models.objectives import Objective
from hfdiff.models.samplers import Process
from hfdiff.pipelines import set_timesteps

FAR = 5.0  # standard deviations; of a Gaussian in two dimensions exp(-FAR^2 / 2) = 4e-6 lie farther out


@dataclass(frozen=True)
class Mixture:
    """sum_k shares_k N(means_k, covariances_k)."""

    means: Tensor  # (K, 2) float64
    shares: Tensor  # (K,)
    covariances: Tensor  # (K, 2, 2)

    def mean(self) -> Tensor:
        return self.shares @ self.means

    def covariance(self) -> Tensor:
        spread = self.means - self.mean()
        return torch.einsum("k,kij->ij", self.shares, self.covariances) + (self.shares[:, None] * spread).T @ spread

    def denoise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x_0 | alpha x_0 + sigma e = x], (B, 2) -> (B, 2), by Bayes' rule."""
        noised = alpha**2 * self.covariances + sigma**2 * torch.eye(2, dtype=torch.float64)
        precision = torch.linalg.inv(noised)
        away = x[:, None] - alpha * self.means  # (B, K, 2)
        likelihood = self.shares.log() - torch.logdet(noised) / 2
        likelihood = likelihood - torch.einsum("bki,kij,bkj->bk", away, precision, away) / 2
        gain = alpha * self.covariances @ precision
        centres = self.means + torch.einsum("kij,bkj->bki", gain, away)
        return (likelihood.softmax(dim=1)[..., None] * centres).sum(dim=1)

    def distances(self, x: Tensor) -> Tensor:
        """From x (B, 2) to the nearest component, (B,), in its standard deviations."""
        away = x[:, None] - self.means
        return torch.einsum("bki,kij,bkj->bk", away, torch.linalg.inv(self.covariances), away).sqrt().amin(dim=1)

    def between(self, x: Tensor) -> float:
        """The share of x (B, 2) that belongs to no component."""
        return (self.distances(x) > FAR).double().mean().item()

    def width(self, x: Tensor) -> float:
        """The mean squared distance of x (B, 2) from the components; 1 where they are as wide as they should be."""
        return (self.distances(x).clamp(max=FAR) ** 2).mean().item() / 2


def _mixture(means: list[list[float]], shares: list[float], covariances: list[list[list[float]]]) -> Mixture:
    return Mixture(*(torch.tensor(values, dtype=torch.float64) for values in (means, shares, covariances)))


def _round(deviation: float) -> list[list[float]]:
    return [[deviation**2, 0.0], [0.0, deviation**2]]


WIDE = _mixture([[-0.6, 0.4], [0.5, 0.5], [0.1, -0.6]], [0.3, 0.5, 0.2], [[[0.0225, 0.0075], [0.0075, 0.0125]]] * 3)
CLOSE = _mixture(
    [[-0.6, 0.4], [-0.35, 0.4], [0.5, 0.5], [0.5, 0.2], [0.1, -0.6]],
    [0.2, 0.2, 0.2, 0.2, 0.2],
    [_round(0.02), _round(0.03), _round(0.03), _round(0.04), _round(0.02)],
)


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


def sample(
    objective: Objective,
    process: Process,
    scheduler: SchedulerMixin,
    steps: int,
    noise: Tensor,
    mixture: Mixture = WIDE,
) -> Tensor:
    """The scheduler's answer (B, 2) to noise (B, 2), with the exact prediction in place of a model's."""
    timesteps = set_timesteps(scheduler, steps)
    x = noise.reshape(-1, 2, 1, 1) * getattr(scheduler, "init_noise_sigma", 1.0)
    generator = torch.Generator().manual_seed(0)
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in timesteps:
        entering = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        alpha, sigma = levels(objective, process.betas, float(t))
        clean = mixture.denoise(entering.reshape(-1, 2), alpha, sigma).reshape(x.shape)
        a, b = objective.target(torch.tensor(alpha), torch.tensor(sigma))
        x = scheduler.step(a * clean + b * (entering - alpha * clean) / sigma, t, x, **extra).prev_sample
    return x.reshape(-1, 2).double()
