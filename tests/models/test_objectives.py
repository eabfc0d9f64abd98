"""Objectives: against the papers' formulas in float64, against diffusers, and back to the clean image."""

import itertools
import math

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.objectives import LOSS_WEIGHTS, OBJECTIVES, SCHEDULES, make_objective

DISCRETE = [name for name, row in OBJECTIVES.items() if row.kind == "discrete"]
RECIPES = [
    ObjectiveConfig(objective="flow"),
    ObjectiveConfig(objective="flow", flow_shift=2.0),
    ObjectiveConfig(objective="edm"),
    *(ObjectiveConfig(objective=o, schedule=s) for o, s in itertools.product(DISCRETE, [*SCHEDULES, "learned"])),
    *(ObjectiveConfig(objective=o, zero_terminal_snr=True) for o in ("v_prediction", "sample")),
]


def label(recipe: ObjectiveConfig) -> str:
    return f"{recipe.objective}-{recipe.schedule}-{recipe.flow_shift or recipe.zero_terminal_snr}"


def batch(size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn((2, size, 1, 4, 4), generator=generator).unbind()
    return clean, noise, (torch.arange(size) + 0.5) / size


def alpha_bar(schedule: str) -> Tensor:
    """(1000,) float64, from the papers' formulas."""
    betas = {
        "linear": lambda i: 1e-4 + (0.02 - 1e-4) * i / 999,  # Ho et al. 2020, Section 4
        "scaled_linear": lambda i: (math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999) ** 2,
        "sigmoid": lambda i: 1e-4 + (0.02 - 1e-4) / (1 + math.exp(6 - 12 * i / 999)),
        "cosine": lambda i: min(1 - _cosine((i + 1) / 1000) / _cosine(i / 1000), 0.999),
    }[schedule]
    return torch.cumprod(1 - torch.tensor([betas(i) for i in range(1000)], dtype=torch.float64), 0)


def _cosine(t: float) -> float:
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2  # Nichol & Dhariwal 2021, Equation 17


@pytest.mark.parametrize("recipe", RECIPES, ids=label)
def test_target_gives_the_clean_image_back(recipe):
    objective = make_objective(recipe)
    clean, noise, quantiles = batch()
    noised = objective.noise(clean, noise, objective.quantile(quantiles))
    assert noised.sample.dtype == noised.target.dtype == noised.weight.dtype == torch.float32
    alpha, sigma = objective.path(noised.timestep)
    usable = (alpha / sigma > 0.01) & (sigma / alpha > 1e-4)  # nothing of one of the two is left at the ends
    assert usable.sum() > 50
    back = objective.clean(noised.sample, noised.target, noised.timestep)
    assert torch.allclose(back[usable], clean[usable], atol=1e-3)


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_flow_is_the_straight_line(shift):
    objective = make_objective(ObjectiveConfig(flow_shift=shift))
    clean, noise, quantiles = batch()
    timestep = objective.quantile(quantiles)
    noised = objective.noise(clean, noise, timestep)
    t = (timestep.double() / 1000).reshape(-1, 1, 1, 1)
    assert torch.allclose(noised.sample.double(), (1 - t) * clean.double() + t * noise.double(), atol=1e-6)
    assert torch.equal(noised.target, noise - clean)
    unshifted = torch.special.ndtri(quantiles.double()).sigmoid()  # Esser et al. 2024, Equations 19 and 23
    assert torch.allclose(t.flatten(), shift * unshifted / (1 + (shift - 1) * unshifted), atol=1e-6)


def test_flow_shifts_with_the_resolution():
    shifts = [make_objective(ObjectiveConfig(), side).process().flow_shift for side in (28, 32, 64)]
    assert shifts == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_objectives_are_the_papers_formulas(name, schedule):
    objective = make_objective(ObjectiveConfig(objective=name, schedule=schedule))
    clean, noise, quantiles = batch()
    timestep = objective.quantile(quantiles).long()
    level = alpha_bar(schedule)[timestep].reshape(-1, 1, 1, 1)
    alpha, sigma = level.sqrt(), (1 - level).sqrt()
    noised = objective.noise(clean, noise, timestep.float())
    oracle = {
        "epsilon": noise.double(),
        "v_prediction": alpha * noise - sigma * clean,  # Salimans & Ho 2022, Appendix D
        "sample": clean.double(),
    }[name]
    assert torch.allclose(noised.sample.double(), alpha * clean.double() + sigma * noise.double(), atol=1e-4)
    assert torch.allclose(noised.target.double(), oracle, atol=1e-4)
    scheduler = DDPMScheduler(1000, **SCHEDULES[schedule])
    assert torch.allclose(noised.sample, scheduler.add_noise(clean, noise, timestep), atol=1e-4)
    if name == "v_prediction":
        assert torch.allclose(noised.target, scheduler.get_velocity(clean, noise, timestep), atol=1e-4)


def test_zero_terminal_snr_ends_in_noise():
    """Lin et al. 2024, Algorithm 1: sqrt(alpha_bar) shifted and scaled so that it ends at 0 and starts where it did."""
    objective = make_objective(ObjectiveConfig(objective="v_prediction", schedule="linear", zero_terminal_snr=True))
    root = alpha_bar("linear").sqrt()
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha, sigma = objective.path(torch.arange(1000.0))
    assert torch.allclose(alpha.double()[:-1], expected[:-1], atol=1e-4)
    assert alpha[-1].item() == pytest.approx(alpha[-2].item() / 2, rel=1e-3)  # of less than 2^-12
    assert sigma[-1] == pytest.approx(1.0)


def test_edm_is_the_papers_preconditioning():
    """Karras et al. 2022, Table 1: D(x; s) = c_skip x + c_out F(c_in x; ln(s) / 4)."""
    objective = make_objective(ObjectiveConfig(objective="edm"))
    clean, noise, quantiles = batch()
    timestep = objective.quantile(quantiles)
    sigma = (4 * timestep.double()).exp().reshape(-1, 1, 1, 1)
    assert torch.allclose(sigma.flatten().log(), -1.2 + 1.2 * torch.special.ndtri(quantiles.double()), atol=1e-5)
    x, root = clean + sigma * noise, (sigma**2 + 0.25).sqrt()
    noised = objective.noise(clean, noise, timestep)
    assert torch.allclose(noised.sample.double(), x / root, atol=1e-4)
    c_skip, c_out = 0.25 / root**2, sigma * 0.5 / root
    assert torch.allclose(noised.target.double(), (clean - c_skip * x) / c_out, rtol=1e-3, atol=1e-3)
    scheduler = EDMEulerScheduler()
    back = scheduler.precondition_outputs(x, noised.target, sigma)
    assert torch.allclose(back, clean.double(), atol=1e-4)
    # lambda(s) |D - x_0|^2 = |F - target|^2 with lambda = 1 / c_out^2: no further weight.
    assert torch.equal(noised.weight, torch.ones(64))


@pytest.mark.parametrize(
    ("recipe", "weight"),
    [(r, w) for r in RECIPES for w in LOSS_WEIGHTS if (r.objective, w) != ("edm", "edm")],
    ids=lambda value: value if isinstance(value, str) else label(value),
)
def test_weights_are_those_of_the_clean_images_error(recipe, weight):
    """A wrong prediction costs its weight times the squared error of the clean image that it means."""
    objective = make_objective(ObjectiveConfig(**{**vars(recipe), "loss_weight": weight}))
    clean, noise, quantiles = batch()
    noised = objective.noise(clean, noise, objective.quantile(quantiles))
    if weight == "none":
        assert torch.equal(noised.weight, torch.ones(64))
        return
    alpha, sigma = objective.path(noised.timestep)
    usable = (alpha / sigma > 0.03) & (sigma / alpha > 0.03)
    wrong = noised.target + 0.1
    error = (objective.clean(noised.sample, wrong, noised.timestep) - clean).square().flatten(1).mean(dim=1)
    snr = (alpha.double() / sigma.double()) ** 2
    expected = {"min_snr": snr.clamp(max=5), "edm": (1 / snr + 0.25) / (0.25 / snr)}[weight]
    assert torch.allclose(noised.weight[usable] * 0.01, (expected * error)[usable].float(), rtol=2e-2)


@pytest.mark.parametrize("gamma", [None, 2.0])
@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("epsilon", lambda snr, gamma: snr.clamp(max=gamma) / snr),
        ("v_prediction", lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1)),
        ("sample", lambda snr, gamma: snr.clamp(max=gamma)),
    ],
)
def test_min_snr_is_the_papers_table(name, factor, gamma):
    """Hang et al. 2023, Section 3.4 and Equation 10."""
    config = ObjectiveConfig(objective=name, schedule="linear", loss_weight="min_snr", min_snr_gamma=gamma)
    level = alpha_bar("linear")
    weight = make_objective(config).weight(level.sqrt(), (1 - level).sqrt())
    assert torch.allclose(weight, factor(level / (1 - level), gamma or 5), rtol=1e-6)


def test_flow_times_are_logit_normal():
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = torch.logit(make_objective(ObjectiveConfig()).quantile(u) / 1000)
    assert abs(logits.mean()) < 0.01
    assert abs(logits.std() - 1) < 0.01


def test_discrete_times_cover_all_steps_evenly():
    draws = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    timestep = make_objective(ObjectiveConfig(objective="epsilon")).quantile(draws)
    counts = torch.bincount(timestep.long(), minlength=1000)
    assert counts.min() > 50
    assert counts.max() < 160


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "flo"}, "unknown objective 'flo'.*did you mean 'flow'.*epsilon"),
        ({"schedule": "cosine"}, "schedule 'cosine' does not go with objective 'flow'; valid: auto"),
        ({"objective": "epsilon", "schedule": "sine"}, "schedule 'sine'.*valid: auto, cosine, linear, .*learned"),
        ({"objective": "edm", "time_sampling": "logit_normal"}, "valid: auto, log_normal, uniform"),
        ({"objective": "epsilon", "schedule": "learned", "time_sampling": "logit_normal"}, "valid: auto, uniform"),
        ({"objective": "edm", "loss_weight": "edm"}, "loss_weight 'edm' does not go .*valid: auto, none, min_snr"),
        ({"min_snr_gamma": 3.0}, "min_snr_gamma 3.0 does not go with loss_weight 'none'; valid: min_snr"),
        ({"objective": "epsilon", "zero_terminal_snr": True}, "zero_terminal_snr .*valid: .*v_prediction or sample"),
        (
            {"objective": "epsilon", "flow_shift": 2.0},
            "flow_shift 2.0 does not go .*'epsilon'; valid: flow",
        ),
        ({"objective": "edm", "sampler": "ddim"}, "sampler 'ddim' does not go .*valid: dpmpp_2m, euler, ipndm"),
        ({"sampler": "euler", "spacing": "karras"}, "spacing 'karras' does not go with sampler 'euler'.*valid: auto"),
    ],
)
def test_invalid_choices_list_the_valid_ones(changes, message):
    with pytest.raises(BadInput, match=message):
        make_objective(ObjectiveConfig(**changes))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_zero_terminal_snr_falls_strictly(schedule):
    config = ObjectiveConfig(objective="v_prediction", schedule=schedule, zero_terminal_snr=True)
    alpha, sigma = make_objective(config).path(torch.arange(1000.0))
    assert (alpha.double().diff() < 0).all()
    assert alpha[-1] <= 1.001 * 2**-12  # the product of float32 betas rounds by the machine
    assert (alpha > 0).all()
    assert torch.allclose(alpha.double() ** 2 + sigma.double() ** 2, torch.ones(1000).double(), atol=1e-6)
