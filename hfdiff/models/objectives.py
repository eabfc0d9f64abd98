"""What a model is trained to predict, and when.

A noised image is x_t = alpha x_0 + sigma e with noise e ~ N(0, 1), as it enters the model; every target is a linear
combination a x_0 + b e. So one entry in `OBJECTIVES` gives (a, b) and the kind of process, and everything else follows:
the clean image, the loss weight, the samplers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal, TypeVar

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.core.names import unknown
from hfdiff.models.config import ObjectiveConfig, Spacing
from hfdiff.models.learned_schedule import LearnedSchedule, levels
from hfdiff.models.samplers import NUM_TIMESTEPS, Process, make_scheduler
from hfdiff.pipelines import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, TARGETS, Target, solve_clean

P_MEAN, P_STD = -1.2, 1.2  # of ln sigma in training (Karras et al. 2022, Table 1)
LOG_SIGMA_MIN, LOG_SIGMA_MAX = math.log(SIGMA_MIN), math.log(SIGMA_MAX)
FLOW_SIDE = 32  # pixels a side from which on a flow is shifted towards noise


Config = TypeVar("Config", bound=ObjectiveConfig)


@dataclass(frozen=True)
class Noised:
    """A noised batch: what goes into the model, at which time, what should come out, and what that counts."""

    sample: Tensor  # (B, C, H, W) float32
    timestep: Tensor  # (B,) float32, as the UNet takes it
    target: Tensor  # (B, C, H, W) float32
    weight: Tensor  # (B,) float32, of the squared error of the target
    gamma: Tensor | None = None  # (B,) noise level, where it is learned


@dataclass(frozen=True)
class Objective:
    """An objective with all choices made.

    The timestep is what the UNet is conditioned on: 0 (clean) to 1000 (noise); for edm ln(sigma) / 4.
    """

    path: Callable[[Tensor], tuple[Tensor, Tensor]]  # timestep (B,) -> alpha, sigma (B,)
    target: Target
    quantile: Callable[[Tensor], Tensor]  # uniform (B,) in (0, 1) -> timestep (B,)
    clean_weight: Callable[[Tensor], Tensor] | None  # signal-to-noise ratio -> weight of the clean image's error
    process: Callable[[], Process]
    sampler: str = "auto"
    spacing: Spacing = "auto"
    learned: LearnedSchedule | None = None

    def noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Noised:
        """Noise clean images (B, C, H, W) in [-1, 1] to their timesteps (B,)."""
        gamma = None
        if self.learned is None:
            alpha, sigma = self.path(timestep)
        else:
            gamma = self.learned.gamma(timestep)
            alpha, sigma = levels(gamma)
        a, b = self.target(_column(alpha), _column(sigma))
        sample = _column(alpha) * clean + _column(sigma) * noise
        return Noised(sample, timestep, a * clean + b * noise, self.weight(alpha.detach(), sigma.detach()), gamma)

    def weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Weight of the target's squared error (B,): that of the clean image's, times the error there that one of the
        target makes."""
        if self.clean_weight is None:
            return torch.ones_like(alpha)
        a, b = self.target(alpha, sigma)
        return self.clean_weight((alpha / sigma.clamp(min=1e-5)) ** 2) * (sigma / (alpha * b - sigma * a)) ** 2

    def learn(self, noised: Noised, errors: Tensor, scale: float, share: float) -> None:
        """Add to the gradient of the learned schedule: squared errors of the target (B,), after the backward pass of
        `scale` times their weighted sum; `share` is this batch's in the step."""
        assert self.learned is not None
        assert noised.gamma is not None
        assert noised.gamma.grad is not None
        slopes = noised.gamma.grad / (noised.weight * scale)  # of `errors` by gamma
        gamma = noised.gamma.detach().requires_grad_()
        factor = self._noise_factor(*levels(gamma))
        (by_gamma,) = torch.autograd.grad(factor.sum(), gamma)
        factor = factor.detach()
        self.learned.backward(noised.timestep, factor * errors, by_gamma * errors + factor * slopes, share)

    def bound_weight(self, timestep: Tensor) -> Tensor:
        """Weight of the target's squared error (B,) in the variational bound, under the learned schedule."""
        assert self.learned is not None
        return self.learned.rate(timestep) / 2 * self._noise_factor(*self.learned.coefficients(timestep))

    def _noise_factor(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The squared error of the noise (B,) that one of the target makes."""
        a, b = self.target(alpha, sigma)
        return (alpha / (alpha * b - sigma * a)) ** 2

    def clean(self, sample: Tensor, prediction: Tensor, timestep: Tensor) -> Tensor:
        """The clean image that a prediction means."""
        return solve_clean(self.target, sample, prediction, *map(_column, self.path(timestep)))

    def scheduler(self) -> SchedulerMixin:
        """The diffusers scheduler that samples a model trained so."""
        return make_scheduler(self.process(), self.sampler, self.spacing)


def _column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def timestep_at(process: Process, fraction: Tensor) -> Tensor:
    """The timesteps at places in [0, 1] of the process's own time, clean to noise: of a table its index, of a flow
    its t, of EDM ln sigma."""
    if process.kind == "edm":
        return _edm_timestep(fraction)
    return fraction * (len(process.betas) - 1 if process.kind == "discrete" else NUM_TIMESTEPS)


@dataclass(frozen=True)
class ObjectiveSpec:
    """An entry in the table of objectives."""

    kind: Literal["discrete", "flow", "edm"]
    prediction_type: str  # an entry in the pipeline's `TARGETS`
    guidance_scale: float  # where no judge chooses; measured for flow alone so far
    zero_terminal_snr: bool = False  # can it be trained on pure noise?

    @property
    def target(self) -> Target:
        return TARGETS[self.prediction_type]


OBJECTIVES: dict[str, ObjectiveSpec] = {
    "flow": ObjectiveSpec("flow", "flow_prediction", 2.0),
    "epsilon": ObjectiveSpec("discrete", "epsilon", 2.0),
    "v_prediction": ObjectiveSpec("discrete", "v_prediction", 2.0, zero_terminal_snr=True),
    "sample": ObjectiveSpec("discrete", "sample", 2.0, zero_terminal_snr=True),
    "edm": ObjectiveSpec("edm", "edm", 2.0),
}

# Name -> diffusers' `beta_schedule` and its ends; "learned" is `LearnedSchedule`.
SCHEDULES: dict[str, dict[str, str | float]] = {
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},  # Nichol & Dhariwal 2021, Equation 17
    "linear": {"beta_schedule": "linear"},  # Ho et al. 2020, Section 4
    "scaled_linear": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },  # Rombach et al. 2022
    "sigmoid": {"beta_schedule": "sigmoid"},  # Xu et al. 2022, GeoDiff
}

# Kind of process -> time sampling, the default first -> quantile of the place in [0, 1] on the process's time axis.
TIME_SAMPLINGS: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "discrete": {"uniform": lambda u: u, "logit_normal": lambda u: torch.special.ndtri(u).sigmoid()},
    "flow": {"logit_normal": lambda u: torch.special.ndtri(u).sigmoid(), "uniform": lambda u: u},  # Esser et al. 2024
    "edm": {"log_normal": lambda u: _fraction(P_MEAN + P_STD * torch.special.ndtri(u)), "uniform": lambda u: u},
}

# Name -> weight of the clean image's squared error, a function of the signal-to-noise ratio; None: of the target's.
LOSS_WEIGHTS: dict[str, Callable[[Tensor, float | None], Tensor] | None] = {
    "none": None,
    "min_snr": lambda snr, gamma: snr.clamp(max=gamma),  # Hang et al. 2023, Equation 10
    "edm": lambda snr, gamma: snr + 1 / SIGMA_DATA**2,  # Karras et al. 2022, Table 1
}


def _fraction(log_sigma: Tensor) -> Tensor:
    return ((log_sigma - LOG_SIGMA_MIN) / (LOG_SIGMA_MAX - LOG_SIGMA_MIN)).clamp(0, 1)


@cache
def betas_of(schedule: str, zero_terminal_snr: bool = False) -> tuple[float, ...]:
    """The betas of a named schedule. Rescaled to no signal at the end (Lin et al. 2024, https://arxiv.org/abs/2305.08891,
    Algorithm 1), alpha_bar ends at 2^-24, as in diffusers, or at a quarter of the one before, where that is less: so
    it falls strictly, and the last noise level is finite."""
    betas = DDPMScheduler(NUM_TIMESTEPS, **SCHEDULES[schedule]).betas
    if zero_terminal_snr:
        betas = rescale_zero_terminal_snr(betas)
        before = (1 - betas[:-1].double()).prod()
        betas[-1] = 1 - (2**-24 / before).clamp(max=0.25)
    return tuple(betas.tolist())


def _table_path(betas: tuple[float, ...]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    alpha_bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)
    alphas, sigmas = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()

    def path(timestep: Tensor) -> tuple[Tensor, Tensor]:
        index, device = timestep.long(), timestep.device
        return alphas.to(device)[index], sigmas.to(device)[index]

    return path


def _edm_path(timestep: Tensor) -> tuple[Tensor, Tensor]:
    sigma = (4 * timestep).exp()
    c_in = (sigma**2 + SIGMA_DATA**2).rsqrt()
    return c_in, c_in * sigma


def _edm_timestep(fraction: Tensor) -> Tensor:
    return (LOG_SIGMA_MIN + fraction * (LOG_SIGMA_MAX - LOG_SIGMA_MIN)) / 4


@dataclass(frozen=True)
class Axis:
    """The time axis of a kind of process."""

    path: Callable[[Tensor], tuple[Tensor, Tensor]]  # timestep -> alpha, sigma
    timestep: Callable[[Tensor], Tensor]  # place in [0, 1], clean to noise -> timestep
    process: Callable[[], Process]
    learned: LearnedSchedule | None = None


def _axis(row: ObjectiveSpec, config: ObjectiveConfig) -> Axis:
    """Of choices that are resolved."""
    process, schedule = partial(Process, row.kind, row.prediction_type), config.schedule
    if shift := config.flow_shift:
        # Esser et al. 2024, Equation 23.
        return Axis(
            path=lambda timestep: (1 - timestep / NUM_TIMESTEPS, timestep / NUM_TIMESTEPS),
            timestep=lambda t: NUM_TIMESTEPS * shift * t / (1 + (shift - 1) * t),
            process=lambda: process(flow_shift=shift),
        )
    if row.kind == "edm":
        return Axis(_edm_path, _edm_timestep, process)
    if schedule == "learned":
        learned = LearnedSchedule(NUM_TIMESTEPS)
        return Axis(learned.coefficients, _index, lambda: process(betas=learned.betas()), learned)
    betas = betas_of(schedule, config.zero_terminal_snr)
    return Axis(_table_path(betas), _index, lambda: process(betas=betas))


def _index(fraction: Tensor) -> Tensor:
    return (fraction * NUM_TIMESTEPS).floor().clamp(max=NUM_TIMESTEPS - 1)


def _choice(what: str, given: str, valid: list[str], objective: str) -> str:
    if given == "auto":
        return valid[0]
    if given not in valid:
        names = ", ".join(dict.fromkeys(["auto", *valid]))
        raise BadInput(f"{what} {given!r} does not go with objective {objective!r}; valid: {names}")
    return given


def resolve_objective(config: Config, side: int = FLOW_SIDE) -> Config:
    """The same choices with what `auto` and None stand for, for images of `side` pixels.

    What the objective has no use for stays `auto` or None. BadInput lists what is valid.
    """
    name = config.objective
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    row = OBJECTIVES[name]
    schedules = [*SCHEDULES, "learned"] if row.kind == "discrete" else ["auto"]
    schedule = _choice("schedule", config.schedule, schedules, name)
    # A learned schedule could hide its loss in times that are seldom drawn.
    times = ["uniform"] if schedule == "learned" else list(TIME_SAMPLINGS[row.kind])
    weights = [key for key in LOSS_WEIGHTS if not (key == "edm" and row.kind == "edm")]  # edm's target has it already
    loss_weight = _choice("loss_weight", config.loss_weight, weights, name)
    if config.min_snr_gamma is not None and loss_weight != "min_snr":
        raise BadInput(
            f"min_snr_gamma {config.min_snr_gamma} does not go with loss_weight {loss_weight!r}; valid: min_snr"
        )
    if config.zero_terminal_snr and not (row.zero_terminal_snr and schedule != "learned"):
        able = [key for key, value in OBJECTIVES.items() if value.zero_terminal_snr]
        raise BadInput(
            f"zero_terminal_snr does not go with objective {name!r} and schedule {schedule!r}; "
            f"valid: objective {' or '.join(able)} with schedule {', '.join(SCHEDULES)}"
        )
    if config.flow_shift is not None and row.kind != "flow":
        raise BadInput(f"flow_shift {config.flow_shift} does not go with objective {name!r}; valid: flow")
    return replace(
        config,
        schedule=schedule,
        flow_shift=config.flow_shift or max(1.0, side / FLOW_SIDE) if row.kind == "flow" else None,
        loss_weight=loss_weight,
        min_snr_gamma=config.min_snr_gamma or 5.0 if loss_weight == "min_snr" else None,
        time_sampling=_choice("time_sampling", config.time_sampling, times, name),
    )


def make_objective(config: ObjectiveConfig, side: int = FLOW_SIDE) -> Objective:
    """The objective of these choices, for images of `side` pixels; BadInput lists what is valid."""
    config = resolve_objective(config, side)
    row = OBJECTIVES[config.objective]
    fraction = TIME_SAMPLINGS[row.kind][config.time_sampling]
    weight, gamma = LOSS_WEIGHTS[config.loss_weight], config.min_snr_gamma
    axis = _axis(row, config)
    objective = Objective(
        path=axis.path,
        target=row.target,
        quantile=lambda u: axis.timestep(fraction(u)),
        clean_weight=None if weight is None else lambda snr: weight(snr, gamma),
        process=axis.process,
        sampler=config.sampler,
        spacing=config.spacing,
        learned=axis.learned,
    )
    objective.scheduler()  # BadInput for a sampler that does not go with it
    return objective
