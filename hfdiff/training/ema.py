"""Power-function averages of the weights, whose length grows in proportion to the run.

Karras et al. 2024, https://arxiv.org/abs/2312.02696, Section 3.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


class PowerEMA:
    """The average of weights since the first step, those of step i weighted in proportion to i^gamma, for large i.

    weights: the average, in the order of the parameters. After step k its mean age is (k - 1) / (gamma + 2) steps.
    """

    def __init__(self, parameters: Iterable[Tensor], gamma: float):
        self.gamma = gamma
        self.weights = [value.detach().clone() for value in parameters]

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor], step: int) -> None:
        """Take in the weights after `step` steps, counted from 1; the first replace what was there."""
        # To first order in 1 / step the paper's 1 - beta_gamma = 1 - (1 - 1 / step)^(gamma + 1) (Equation 127); the
        # weights that it gives, Gamma(i + gamma) / Gamma(i), have the mean age above exactly.
        torch._foreach_lerp_(self.weights, list(parameters), (self.gamma + 1) / (self.gamma + step))

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[Tensor]) -> None:
        torch._foreach_copy_(list(parameters), self.weights)


def gamma_of_age(share: float) -> float:
    """The exponent of the average whose mean age is this share of the run."""
    return 1 / share - 2


def age_of_gamma(gamma: float) -> float:
    """The mean age of an average, as a share of the run."""
    return 1 / (gamma + 2)


def gamma_of_width(sigma_rel: float) -> float:
    """The exponent of the average whose profile has this standard deviation, as a share of the run (Algorithm 2).

    sigma_rel: below 12^-0.5 = 0.289, that of the plain mean. It is (gamma + 1)^(1/2) / ((gamma + 2)
    (gamma + 3)^(1/2)), so gamma is the greatest root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / sigma_rel^2.
    """
    inverse = sigma_rel**-2
    return float(max(np.roots([1, 7, 16 - inverse, 12 - inverse]).real))
