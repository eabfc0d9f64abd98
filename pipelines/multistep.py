"""A fourth-order linear multistep sampler, for every kind of diffusion process of this project.

This file is saved beside the weights and loaded from there, so it imports nothing of the project.

Improved PNDM (Zhang & Chen 2023, https://arxiv.org/abs/2204.13902) solves the probability-flow ODE by an
Adams-Bashforth method, one evaluation a step, warmed up by lower orders. diffusers' `IPNDMScheduler` has a fixed
schedule and no prediction type; this one takes EDM's spacing (Karras et al. 2022, https://arxiv.org/abs/2206.00364,
Equation 5), and extrapolates in s^(1/rho), in which that spacing is even, as that paper's DEIS does in its own
variables: at ten steps as accurate as fixed coefficients, and of fourth order.
"""

import math
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput

# diffusers looks for the base class in the module of a component that it loads by name.
__all__ = ["MultistepScheduler", "SchedulerMixin"]


class MultistepScheduler(SchedulerMixin, ConfigMixin):
    """Adams-Bashforth on the ODE dy/ds = d.

    kind "discrete" (a table of betas) and "edm": y = x_0 + s e, s the noise-to-signal ratio, d = (y - x_0) / s;
    kind "flow": y = (1 - s) x_0 + s e, d = e - x_0.

    Args:
        kind: "discrete", "flow" or "edm".
        prediction_type: what the model predicts: "epsilon", "v_prediction", "sample", "flow_prediction" or "edm".
        trained_betas: the betas of a discrete process, one for each training timestep.
        flow_shift: time shift of a flow (Esser et al. 2024, https://arxiv.org/abs/2403.03206, Equation 23).
        sigma_min, sigma_max: range of s, apart from the last step, which ends at 0; a discrete process ends the range
            where its table does.
        sigma_data: deviation of the data, for "edm".
        rho: exponent of EDM's spacing.
        solver_order: 1 to 4.
    """

    order = 1  # evaluations a step

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        kind: str = "discrete",
        prediction_type: str = "epsilon",
        trained_betas: list[float] | None = None,
        flow_shift: float = 1.0,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        rho: float = 7.0,
        solver_order: int = 4,
    ):
        if kind not in ("discrete", "flow", "edm"):
            raise ValueError(f"kind {kind!r}; valid: discrete, flow, edm")
        if (kind == "discrete") != (trained_betas is not None):
            raise ValueError(f"kind {kind!r} {'lacks' if kind == 'discrete' else 'takes no'} trained_betas")
        self.alphas_cumprod: torch.Tensor | None = None
        if trained_betas is not None:
            alpha_bar = np.cumprod(1 - np.asarray(trained_betas, dtype=np.float64)).clip(2**-24)
            self.alphas_cumprod = torch.from_numpy(alpha_bar)
        self.set_timesteps(num_train_timesteps)

    @property
    def init_noise_sigma(self) -> float:
        return float(self.nodes[0])

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """The nodes s_0 > ... > s_N = 0 and the timestep of each, as the model takes it."""
        config = self.config
        ramp = np.linspace(0, 1, num_inference_steps) if num_inference_steps > 1 else np.zeros(1)
        if config.kind == "flow":
            s = 1 - np.arange(num_inference_steps) / num_inference_steps
            s = config.flow_shift * s / (1 + (config.flow_shift - 1) * s)
            timesteps = s * config.num_train_timesteps
        else:
            low, high = (bound ** (1 / config.rho) for bound in self._range())
            s = (high + ramp * (low - high)) ** config.rho
            timesteps = np.log(s) / 4 if config.kind == "edm" else np.interp(np.arctan(s), *self._angles())
        self.nodes = np.append(s, 0.0)
        self.timesteps = torch.tensor(timesteps, dtype=torch.float32, device=device)
        self.num_inference_steps = num_inference_steps
        self.derivatives: list[torch.Tensor] = []
        self._index: int | None = None
        self._begin_index = 0

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at this step (from an image)."""
        self._begin_index = begin_index

    @property
    def step_index(self) -> int:
        """The step that comes next."""
        return self._begin_index if self._index is None else self._index

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """y -> the model's input."""
        s = self.nodes[self.step_index]
        if self.config.kind == "flow":
            return sample
        spread = 1.0 if self.config.kind == "discrete" else self.config.sigma_data
        return sample / math.hypot(s, spread)

    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """One step from the model's output at `sample` (B, C, H, W)."""
        index = self.step_index
        self.derivatives = [*self.derivatives, self._derivative(model_output, sample, float(self.nodes[index]))]
        self.derivatives = self.derivatives[-self.config.solver_order :]
        nodes, end = self.nodes[index + 1 - len(self.derivatives) : index + 1], self.nodes[index + 1]
        # The last step, to 0, is long in s^(1/rho) and short in s.
        weights = _adams_bashforth(nodes, end, 1.0 if self.config.kind == "flow" or end == 0 else self.config.rho)
        sample = sample + sum(w * d for w, d in zip(weights, self.derivatives, strict=True))
        self._index = index + 1
        return SchedulerOutput(prev_sample=sample) if return_dict else (sample,)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The state y at timesteps (B,) of the current spacing."""
        index = [int((self.timesteps.cpu() - t).abs().argmin()) for t in timesteps.cpu()]
        s = torch.tensor(self.nodes[index], dtype=noise.dtype, device=noise.device).reshape(-1, 1, 1, 1)
        return (original_samples * (1 - s) if self.config.kind == "flow" else original_samples) + s * noise

    def _derivative(self, output: torch.Tensor, sample: torch.Tensor, s: float) -> torch.Tensor:
        prediction = self.config.prediction_type
        if prediction in ("epsilon", "flow_prediction"):
            return output
        if prediction == "edm":  # Karras et al. 2022, Table 1
            variance = s**2 + self.config.sigma_data**2
            clean = self.config.sigma_data**2 / variance * sample + s * self.config.sigma_data / variance**0.5 * output
            return (sample - clean) / s
        alpha = 1 / math.hypot(s, 1)
        if prediction == "sample":
            return (sample - output) / s
        return alpha * output + s * alpha**2 * sample  # v: e = alpha v + sigma x (Salimans & Ho 2022, Appendix D)

    def _angles(self) -> tuple[np.ndarray, np.ndarray]:
        """arctan(s) of the training timesteps, between which it is taken for a straight line, and the timesteps."""
        assert self.alphas_cumprod is not None
        alpha_bar = self.alphas_cumprod.numpy()
        return np.arctan2(np.sqrt(1 - alpha_bar), np.sqrt(alpha_bar)), np.arange(len(alpha_bar))

    def _range(self) -> tuple[float, float]:
        if self.alphas_cumprod is None:
            return self.config.sigma_min, self.config.sigma_max
        first, *_, last = np.tan(self._angles()[0])
        return max(self.config.sigma_min, first), min(self.config.sigma_max, last)


def _adams_bashforth(nodes: np.ndarray, end: float, rho: float) -> np.ndarray:
    """Weights w with sum w_i f(s_i) = the integral of f from the last node to `end`, for polynomials f of s^(1/rho)."""
    places, target = nodes ** (1 / rho), end ** (1 / rho)
    step = target - places[-1]
    points, weights = np.polynomial.legendre.leggauss(16)
    u = (points + 1) / 2
    density = step * weights / 2 * rho * (places[-1] + step * u) ** (rho - 1)  # ds at the quadrature's points
    powers = np.arange(len(nodes))[:, None]
    return np.linalg.solve(((places - places[-1]) / step) ** powers, (density * u**powers).sum(axis=1))
