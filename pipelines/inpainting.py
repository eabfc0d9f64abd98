"""Drawing a part of an image so that it goes with the rest: RePaint (Lugmayr et al. 2022,
https://arxiv.org/abs/2201.09865, Algorithm 1), for every kind of process."""

import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from .noise_levels import SIGMA_MAX, noise_levels, predicted_clean, timestep_at
from .timesteps import even_logs

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
