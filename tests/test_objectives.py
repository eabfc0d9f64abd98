"""Objectives: against the papers' formulas in float64, against diffusers, and back to the clean picture."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from hfdiff.errors import BadInput
from hfdiff.objectives import OBJECTIVES, SCHEDULES, make_objective

PAIRS = [(name, schedule) for name, (_, schedules) in OBJECTIVES.items() for schedule in (schedules or ("auto",))]


def batch(size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn((2, size, 1, 4, 4), generator=generator).unbind()
    return clean, noise, (torch.arange(size) + 0.5) / size


@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_target_gives_the_clean_picture_back(name, schedule):
    objective = make_objective(name, schedule)
    clean, noise, quantiles = batch()
    noised = objective.noise(clean, noise, objective.quantile(quantiles))
    assert noised.sample.dtype == noised.target.dtype == torch.float32
    alpha, _ = objective.path(noised.timestep)
    usable = alpha > 0.01  # nothing of the picture is left at the far end
    back = objective.clean(noised.sample, noised.target, noised.timestep)
    assert torch.allclose(back[usable], clean[usable], atol=1e-3)


def test_flow_is_the_straight_line():
    objective = make_objective("flow")
    clean, noise, quantiles = batch()
    timestep = objective.quantile(quantiles)
    noised = objective.noise(clean, noise, timestep)
    t = (timestep.double() / 1000).reshape(-1, 1, 1, 1)
    assert torch.allclose(noised.sample.double(), (1 - t) * clean.double() + t * noise.double(), atol=1e-6)
    assert torch.equal(noised.target, noise - clean)


def test_flow_times_are_logit_normal():
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = torch.logit(make_objective("flow").quantile(u) / 1000)
    assert abs(logits.mean()) < 0.01
    assert abs(logits.std() - 1) < 0.01


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_epsilon_is_the_papers_formula(schedule):
    if schedule == "linear":  # Ho et al. 2020, Section 4
        betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    else:  # Nichol & Dhariwal 2021, Equation 17

        def f(t: float) -> float:
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - f((i + 1) / 1000) / f(i / 1000), 0.999) for i in range(1000)]
    alpha_bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)
    objective = make_objective("epsilon", schedule)
    clean, noise, quantiles = batch()
    timestep = objective.quantile(quantiles)
    expected = alpha_bar[timestep.long()].reshape(-1, 1, 1, 1)
    noised = objective.noise(clean, noise, timestep)
    oracle = expected.sqrt() * clean.double() + (1 - expected).sqrt() * noise.double()
    assert torch.allclose(noised.sample.double(), oracle, atol=1e-4)
    assert torch.equal(noised.target, noise)
    scheduler = DDPMScheduler(1000, beta_schedule=SCHEDULES[schedule])
    assert torch.allclose(noised.sample, scheduler.add_noise(clean, noise, timestep.long()), atol=1e-4)


def test_epsilon_times_cover_all_steps_evenly():
    timestep = make_objective("epsilon").quantile(torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    counts = torch.bincount(timestep.long(), minlength=1000)
    assert counts.min() > 50
    assert counts.max() < 160


@pytest.mark.parametrize(("name", "schedule"), PAIRS)
@pytest.mark.parametrize(("steps", "error", "tolerance"), [(50, 0.0, 0.02), (10, 0.01, 0.15)])
def test_scheduler_recovers_a_known_gaussian(name, schedule, steps, error, tolerance):
    """With the exact denoiser of N(m, s^2) in place of a model, sampling gives that mean and deviation; ten steps with
    a prediction that is off by a hundredth, as a trained model's is, stay near it."""
    objective, mean, deviation = make_objective(name, schedule), 0.4, 0.3
    scheduler = objective.scheduler()
    scheduler.set_timesteps(steps)
    x = torch.randn((4000, 1, 1, 1), generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        timestep = torch.full((len(x),), float(t))
        alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in objective.path(timestep))
        clean = mean + alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * (x - alpha * mean)
        noise = (x - alpha * clean) / sigma
        a, b = objective.target(alpha, sigma)
        x = scheduler.step(a * clean + b * noise + error, t, x).prev_sample
    assert abs(x.mean() - mean) < tolerance
    assert abs(x.std() - deviation) < tolerance


def test_invalid_choices_list_the_valid_ones():
    with pytest.raises(BadInput, match="unknown objective 'flo'.*did you mean 'flow'.*epsilon"):
        make_objective("flo")
    with pytest.raises(BadInput, match="schedule 'cosine' does not go with objective 'flow'; valid: auto"):
        make_objective("flow", "cosine")
    with pytest.raises(BadInput, match="schedule 'sine'.*valid: auto, cosine, linear"):
        make_objective("epsilon", "sine")
