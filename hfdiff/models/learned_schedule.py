"""A noise schedule that is learned (Kingma et al. 2021, https://arxiv.org/abs/2107.00630, Section 5 and Appendix H).

gamma(t) = -ln SNR(t) grows with t by construction, between fixed ends. The loss of the variational bound at time t is
l(t) = gamma'(t) |e - e_hat|^2 / 2; its mean over t does not depend on the schedule, its variance does, and is made
small: then every time counts the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAMMA_MIN, GAMMA_MAX = -9.0, 10.0  # alpha^2 from 0.9999 down to 5e-5


def levels(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma, whose squares add up to 1."""
    return (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()


class LearnedSchedule(nn.Module):
    """gamma at the `num_timesteps` + 1 ends of equal steps of t.

    The network is monotone: a line plus `width` sigmoids, all of positive weight and slope.
    """

    def __init__(self, num_timesteps: int, width: int = 32):
        super().__init__()
        self.line = nn.Parameter(torch.zeros(1))
        self.heights = nn.Parameter(torch.full((width,), -4.0))
        self.centres = nn.Parameter(torch.linspace(0, 1, width))
        self.slopes = nn.Parameter(torch.full((width,), float(width)))
        self.num_timesteps = num_timesteps

    def table(self) -> Tensor:
        """gamma (T + 1,) float64, growing from GAMMA_MIN to GAMMA_MAX."""
        t = torch.linspace(0, 1, self.num_timesteps + 1, dtype=torch.float64, device=self.line.device)
        steps = torch.sigmoid((t[:, None] - self.centres) * F.softplus(self.slopes))  # (T + 1, width)
        raw = F.softplus(self.line) * t + steps @ F.softplus(self.heights).double()
        return GAMMA_MIN + (GAMMA_MAX - GAMMA_MIN) * (raw - raw[0]) / (raw[-1] - raw[0])

    def gamma(self, timestep: Tensor) -> Tensor:
        """gamma (B,) float32 at timesteps 0 to T - 1, a leaf that gathers the gradient of the loss."""
        return self.table().detach()[timestep.long() + 1].float().requires_grad_(torch.is_grad_enabled())

    def coefficients(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma (B,) float32."""
        alpha, sigma = levels(self.table().detach()[timestep.long() + 1])
        return alpha.float(), sigma.float()

    def rate(self, timestep: Tensor) -> Tensor:
        """gamma'(t) (B,) float32, t from 0 to 1."""
        return (self.table().detach().diff() * self.num_timesteps)[timestep.long()].float()

    def backward(self, timestep: Tensor, error: Tensor, slope: Tensor, share: float = 1.0) -> None:
        """Add the gradient of the loss's second moment, from |e - e_hat|^2 (B,) and its derivative by gamma (B,)."""
        table, index = self.table(), timestep.long()
        gamma, rate = table[index + 1], (table[index + 1] - table[index]) * self.num_timesteps
        loss = rate * (error + slope * (gamma - gamma.detach())) / 2
        ((loss**2).mean() * share).backward()

    def betas(self) -> tuple[float, ...]:
        """The schedule as betas in float64, for any diffusers scheduler (which computes with them in float32)."""
        with torch.no_grad():
            log_alpha_bar = F.logsigmoid(-self.table()[1:])
        steps = torch.cat([log_alpha_bar[:1], log_alpha_bar.diff()])
        return tuple((-torch.expm1(steps)).tolist())
