"""Noise levels and targets.

The network's input at timestep t is alpha x_0 + sigma e, with x_0 the clean image and e standard normal; the noise
level is sigma / alpha, EDM's sigma.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import SchedulerMixin

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
