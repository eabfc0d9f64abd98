"""The timesteps of a sampler's steps, exactly where its noise levels are."""

import inspect
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin

from .noise_levels import SIGMA_MAX, SIGMA_MIN, is_a, kind_of, noise_levels, own_setting, timestep_at

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
